from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pam_jobs.cli.calendar import cron_period, once_period, weekly_period
from pam_jobs.errors import InvalidInput
from pam_jobs.records.calendar import parse_periods

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("MON-FRI 22:00-06:00", ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY"]),
        ("sat,sun 00:00-24:00", ["SATURDAY", "SUNDAY"]),
        ("Friday-mon 08:00-09:00", ["FRIDAY", "SATURDAY", "SUNDAY", "MONDAY"]),
    ],
)
def test_weekly_periods_are_written_by_days_and_times(text: str, days: list[str]) -> None:
    period = weekly_period(text)
    assert period["weekdays"] == days
    assert f"{period['from']}-{period['to']}" == text.split()[1]
    parse_periods([period], "Etc/UTC")


def test_periods_by_cron_and_single_ones_are_written_in_words() -> None:
    assert cron_period("0 0 20 L * ? for 6h") == {"type": "CRON", "cron": "0 0 20 L * ?", "minutes": 360}
    assert once_period("2026-12-24T12:00 to 2026-12-27T00:00")["to"] == "2026-12-27T00:00"


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (weekly_period, "22:00-06:00"),
        (weekly_period, "T 22:00-06:00"),
        (weekly_period, "MON,XYZ 22:00-06:00"),
        (cron_period, "0 22 * * 5"),
        (cron_period, "0 22 * * 5 for ever"),
        (once_period, "2026-12-24"),
    ],
)
def test_what_is_no_period_is_refused_with_an_example(reader: Callable[[str], dict[str, Any]], text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a"):
        reader(text)
