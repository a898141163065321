from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.errors import InvalidInput
from pam_jobs.records.calendar import parse_periods
from pam_jobs.records.recurrence import WEEKDAYS

pytestmark = pytest.mark.unit

ALL_DAYS = list(WEEKDAYS)


def weekly(start: str, end: str, *days: str) -> dict[str, Any]:
    return {"type": "WEEKLY", "weekdays": list(days) or ALL_DAYS, "from": start, "to": end}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# Hand-checked: offsets of the zone before and after each jump are in the comment. Times are UTC.
JUMPS = [
    # Berlin +1 → +2 on 2026-03-29 01:00 UTC: 02:30 does not exist and stands for 03:00
    ("Europe/Berlin", "01:00", "02:30", "2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:00"),
    ("Europe/Berlin", "02:30", "05:00", "2026-03-29T01:30", "2026-03-29T03:00", "2026-03-29T03:00"),
    # Berlin +2 → +1 on 2026-10-25 01:00 UTC: 02:30 comes at 00:30 and at 01:30 UTC
    ("Europe/Berlin", "00:00", "02:30", "2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:30"),
    ("Europe/Berlin", "22:00", "06:00", "2026-10-25T01:00", "2026-10-25T05:00", "2026-10-25T05:00"),
    # New York -5 → -4 on 2026-03-08 07:00 UTC, back on 2026-11-01 06:00 UTC: 01:30 at 05:30 and at 06:30 UTC
    ("America/New_York", "01:00", "02:30", "2026-03-08T06:30", "2026-03-08T07:00", "2026-03-08T07:00"),
    ("America/New_York", "00:30", "01:30", "2026-11-01T05:00", "2026-11-01T05:30", "2026-11-01T06:30"),
    # Sydney +11 → +10 on 2026-04-04 16:00 UTC: 02:30 at 15:30 and at 16:30 UTC; forward on 2026-10-03 16:00 UTC
    ("Australia/Sydney", "01:00", "02:30", "2026-04-04T15:00", "2026-04-04T15:30", "2026-04-04T16:30"),
    ("Australia/Sydney", "01:00", "02:30", "2026-10-03T15:30", "2026-10-03T16:00", "2026-10-03T16:00"),
    # Santiago -3 → -4 on 2026-04-05 03:00 UTC: 23:30 of the 4th at 02:30 and at 03:30 UTC
    ("America/Santiago", "22:00", "23:30", "2026-04-05T02:00", "2026-04-05T02:30", "2026-04-05T03:30"),
    # Lord Howe +11 → +10:30 on 2026-04-04 15:00 UTC: 01:45 at 14:45 and at 15:15 UTC
    ("Australia/Lord_Howe", "01:00", "01:45", "2026-04-04T14:30", "2026-04-04T14:45", "2026-04-04T15:15"),
]


@pytest.mark.parametrize(("tz", "start", "end", "inside", "window_end", "blackout_end"), JUMPS)
def test_a_period_on_the_day_of_a_clock_change_ends_where_it_should(
    tz: str, start: str, end: str, inside: str, window_end: str, blackout_end: str
) -> None:
    periods = parse_periods([weekly(start, end)], tz)
    assert periods.end_at(utc(inside), is_blackout=False) == utc(window_end)
    assert periods.end_at(utc(inside), is_blackout=True) == utc(blackout_end)


@pytest.mark.parametrize(
    ("tz", "since", "begins"),
    [
        ("Europe/Berlin", "2026-03-28T12:00", "2026-03-29T01:00"),  # skipped: right after the gap
        ("Europe/Berlin", "2026-10-24T12:00", "2026-10-25T00:30"),  # repeated: the first pass
        ("Australia/Sydney", "2026-10-03T00:00", "2026-10-03T16:00"),
        ("Australia/Sydney", "2026-04-04T00:00", "2026-04-04T15:30"),
    ],
)
def test_a_period_begins_right_after_a_gap_and_at_the_first_pass(tz: str, since: str, begins: str) -> None:
    periods = parse_periods([weekly("02:30", "05:00")], tz)
    assert periods.next_start(utc(since), is_blackout=True) == utc(begins)


def test_a_period_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    periods = parse_periods([weekly("22:00", "06:00", "FRIDAY")], "Etc/UTC")
    friday = utc("2026-03-06T22:00")
    assert periods.next_start(utc("2026-03-02T12:00"), is_blackout=True) == friday
    assert periods.end_at(friday, is_blackout=True) == utc("2026-03-07T06:00")
    assert periods.end_at(friday - timedelta(seconds=1), is_blackout=True) is None
    assert periods.end_at(utc("2026-03-07T06:00"), is_blackout=True) is None


def test_single_periods_and_those_by_cron() -> None:
    holidays = {"type": "ONCE", "from": "2026-12-24T12:00", "to": "2026-12-27T00:00"}
    last_day = {"type": "CRON", "cron": "0 20 L * ?", "minutes": 360} | {"cron": "0 0 20 L * ?"}
    periods = parse_periods([holidays, last_day], "Europe/Vienna")
    assert periods.end_at(utc("2026-12-25T00:00"), is_blackout=True) == utc("2026-12-26T23:00")
    assert periods.next_start(utc("2026-12-27T00:00"), is_blackout=True) == utc("2026-12-31T19:00")
    assert periods.end_at(utc("2027-01-01T00:59"), is_blackout=True) == utc("2027-01-01T01:00")
    assert parse_periods([holidays], "Etc/UTC").next_start(utc("2027-01-01T00:00"), is_blackout=True) is None


@pytest.mark.parametrize(
    ("periods", "said"),
    [
        ([], "0 periods"),
        ([{"type": "DAILY"}], "not a type of period"),
        ([weekly("22:00", "22:00")], "no length"),
        ([weekly("24:00", "02:00")], "no length"),
        ([weekly("9:00", "10:00")], "'9:00' is not a valid 'from'"),
        ([weekly("09:00", "24:30")], "'24:30' is not a valid 'to'"),
        ([weekly("09:00", "10:00") | {"weekdays": ["MON"]}], "not a valid 'weekdays'"),
        ([weekly("09:00", "10:00") | {"tz": "Etc/UTC"}], "has no 'tz'"),
        ([weekly("09:00", "12:00"), weekly("11:00", "13:00", "FRIDAY")], "two WEEKLY periods"),
        ([weekly("22:00", "06:00", "SUNDAY"), weekly("05:00", "07:00", "MONDAY")], "two WEEKLY periods"),
        ([{"type": "ONCE", "from": "2026-12-27T00:00", "to": "2026-12-24T00:00"}], "ends before it begins"),
        ([{"type": "ONCE", "from": "2026-12-24T00:00Z", "to": "2026-12-27T00:00"}], "not a valid 'from'"),
        ([{"type": "ONCE", "from": "0001-01-01T00:00", "to": "9999-12-31T00:00"}], "not a valid 'from'"),
        (
            [
                {"type": "ONCE", "from": "2026-12-24T00:00", "to": "2026-12-27T00:00"},
                {"type": "ONCE", "from": "2026-12-26T00:00", "to": "2026-12-28T00:00"},
            ],
            "two ONCE periods",
        ),
        ([{"type": "CRON", "cron": "0 * * * *", "minutes": 61}], "two CRON periods"),
        ([{"type": "CRON", "cron": "0 22 * * 5", "minutes": 0}], "not a valid 'minutes'"),
        ([{"type": "CRON", "cron": "0 0 30 2 *", "minutes": 60}], "30 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(periods: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_periods(periods, "Etc/UTC")


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a time zone"):
        parse_periods([weekly("09:00", "10:00")], "Atlantis/Capital")


@settings(max_examples=60, deadline=None)
@given(
    tz=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Etc/UTC"]),
    instant=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    start=st.integers(0, 1439),
    length=st.integers(61, 1300),
    is_blackout=st.booleans(),
)
def test_starts_and_ends_fit_each_other(
    tz: str, instant: datetime, start: int, length: int, *, is_blackout: bool
) -> None:
    end = (start + length) % 1440
    texts = [f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (start, end)]
    periods = parse_periods([weekly(texts[0], texts[1], "MONDAY", "THURSDAY")], tz)
    begins = periods.next_start(instant, is_blackout=is_blackout)
    assert begins is not None
    assert begins > instant
    assert begins - instant <= timedelta(days=8)
    ends = periods.end_at(begins, is_blackout=is_blackout)
    assert ends is not None
    assert timedelta(0) < ends - begins <= timedelta(minutes=length + 60)
    assert periods.end_at(ends, is_blackout=is_blackout) is None
    assert periods.end_at(begins - timedelta(seconds=1), is_blackout=is_blackout) is None
