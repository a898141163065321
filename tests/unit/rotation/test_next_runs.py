"""What is remembered of a schedule's next run never differs from what the schedule itself says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.rotation.timing import ALWAYS, parsed

pytestmark = pytest.mark.unit

_BEGIN = datetime(2026, 3, 28, tzinfo=UTC)  # the clocks of Berlin and Lord Howe change within the next nine days
_SPECS = tuple(
    json.dumps([{**entry, "tz": tz}])
    for tz in ("Etc/UTC", "Europe/Berlin", "Australia/Lord_Howe")
    for entry in (
        {"type": "CRON", "cron": "*/20 * * * *"},
        {"type": "CRON", "cron": "30 2 * * *"},
        {"type": "HOURLY", "minute": 10, "intervalCount": 1},
        {"type": "DAILY", "time": "02:15:00", "intervalCount": 1},
        {"type": "DAILY", "time": "02:15:00", "intervalCount": 3},
        {"type": "WEEKLY", "time": "01:00:00", "weekday": "SUNDAY", "intervalCount": 2},
        {"type": "MONTHLY_BY_DAY", "time": "00:00:00", "monthDay": 31, "intervalCount": 1},
        {"type": "RUN_ONCE", "time": "2026-03-30T00:00:00"},
    )
)
_minutes = st.integers(0, 9 * 24 * 60)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(_SPECS), st.lists(st.tuples(_minutes, _minutes), min_size=1, max_size=12))
def test_any_order_of_questions_has_the_schedules_own_answers(spec: str, questions: list[tuple[int, int]]) -> None:
    for at, anchored in questions:
        instant, anchor = _BEGIN + timedelta(minutes=at), _BEGIN + timedelta(minutes=anchored)
        planned = ALWAYS.after(spec, anchor, instant, "uid")
        assert (planned.planned_at if planned else None) == parsed(spec).next_after(instant, anchor=anchor)
