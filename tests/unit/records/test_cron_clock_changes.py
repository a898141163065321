"""What cron does on days when the clock jumps, against two other evaluators: cronsim, and a walk minute by minute."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.records.cron import parse_cron
from pam_jobs.records.schedule import Schedule
from pam_jobs.records.zones import instant_of

pytestmark = pytest.mark.unit

MINUTE = timedelta(minutes=1)

TRANSITIONS = [  # zone, an instant within the day of the jump
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),  # midnight is skipped
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 4, 5, 3, tzinfo=UTC)),  # the last hour of a day comes twice
    ("America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC)),
    ("Australia/Sydney", datetime(2026, 4, 4, 16, tzinfo=UTC)),
    ("Australia/Sydney", datetime(2026, 10, 3, 16, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),  # by half an hour
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Pacific/Auckland", datetime(2026, 4, 4, 14, tzinfo=UTC)),
    ("Pacific/Auckland", datetime(2026, 9, 26, 14, tzinfo=UTC)),
]
EXPRESSIONS = [
    *("30 2 * * *", "30 1 * * *", "0 3 * * *", "0 0 * * *", "59 23 * * *", "15 1,2,3 * * *", "*/15 2 * * *"),
    *("0 */2 * * *", "*/15 * * * *", "0 * * * *", "30 * * * *", "* * * * *", "0 2 * * SUN", "30 23 4 4 *"),
    *("45 * 5 4 *", "10 * * 4 SAT", "30 0 1 * *"),
]


@cache
def walls(zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime, int]]:
    """Return (instant, wall, fold) for each minute."""
    tz, found = ZoneInfo(zone), []
    while start <= end:
        local = start.astimezone(tz)
        found.append((start, local.replace(tzinfo=None, fold=0), local.fold))
        start += MINUTE
    return found


def walk(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the runs by looking at every minute: a stated time once, a missed one after the gap, hourly ones always."""
    fields = [set(values) for values in croniter(expression).expanded]
    minutes, hours, days, months, weekdays = (set(range(61)) if "*" in values else values for values in fields)
    texts = expression.split()
    hourly = texts[1] == "*"
    either = texts[2] != "*" and texts[4] != "*"

    def matches(wall: datetime) -> bool:
        if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
            return False
        by_day, by_week = wall.day in days, wall.isoweekday() % 7 in weekdays
        return (by_day or by_week) if either else (by_day and by_week)

    runs = []
    steps = walls(zone, start, end)
    for (_, before, _), (instant, wall, fold) in itertools.pairwise(steps):
        if hourly:
            due = matches(wall)
        else:
            skipped, due = before + MINUTE, fold == 0 and matches(wall)
            while skipped < wall:
                due = due or matches(skipped)
                skipped += MINUTE
        if due:
            runs.append(instant)
    return runs


def ours(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    cron, tz, runs = parse_cron(expression), ZoneInfo(zone), []
    run = cron.next_after(start, tz)
    while run is not None and run <= end:
        runs.append(run)
        run = cron.next_after(run, tz)
    return runs


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize(("zone", "jump"), TRANSITIONS)
def test_each_run_around_a_jump_is_the_one_a_walk_minute_by_minute_finds(zone: str, jump: datetime, expression: str):
    start, end = jump - timedelta(hours=14), jump + timedelta(hours=30)
    assert ours(expression, zone, start, end) == walk(expression, zone, start, end)


@pytest.mark.parametrize("expression", ["30 2 * * *", "15 1,2,3 * * *", "*/15 2 * * *", "*/15 * * * *", "0 0 * * *"])
@pytest.mark.parametrize(("zone", "jump"), TRANSITIONS)
def test_the_next_run_is_right_from_every_moment_around_a_jump(zone: str, jump: datetime, expression: str):
    runs = walk(expression, zone, jump - timedelta(hours=14), jump + timedelta(hours=30))
    cron, tz = parse_cron(expression), ZoneInfo(zone)
    for minutes in range(-180, 181, 7):
        moment = jump + timedelta(minutes=minutes, seconds=13)
        assert cron.next_after(moment, tz) == min(run for run in runs if run > moment)


five_fields = st.tuples(
    st.one_of(
        st.integers(0, 59).map(str),
        st.lists(st.integers(0, 59), min_size=2, max_size=3).map(lambda found: ",".join(map(str, found))),
    ),
    st.one_of(
        st.integers(0, 23).map(str),
        st.lists(st.integers(0, 23), min_size=2, max_size=5).map(lambda found: ",".join(map(str, found))),
    ),
    st.sampled_from(["*", "*/2", "1-10", "25,29", "4,5,6,8"]),
    st.sampled_from(["*", "3,4", "9-11"]),
    st.sampled_from(["*", "SUN", "MON-FRI", "6,7"]),
).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(expression=five_fields, place=st.sampled_from(TRANSITIONS))
def test_stated_times_run_when_cronsim_says(expression: str, place: tuple[str, datetime]):
    zone, jump = place
    start, end = jump - timedelta(days=1), jump + timedelta(days=3)
    theirs = []
    for run in CronSim(expression, start.astimezone(ZoneInfo(zone))):
        if run.astimezone(UTC) > end:
            break
        theirs.append(run.astimezone(UTC))
    assert ours(expression, zone, start, end) == theirs


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # 02:30 does not exist: once, right after the gap
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("America/New_York", "0 30 2 * * ?", "2026-03-07T12:00-05:00", ["2026-03-08T03:00-04:00"]),
        ("Australia/Sydney", "0 30 2 * * ?", "2026-10-03T12:00+10:00", ["2026-10-04T03:00+11:00"]),
        # 02:30 exists twice: the first only
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("America/New_York", "0 30 1 * * ?", "2026-10-31T12:00-04:00", ["2026-11-01T01:30-04:00"]),
        ("Australia/Sydney", "0 30 2 * * ?", "2026-04-04T12:00+11:00", ["2026-04-05T02:30+11:00"]),
        # asked during the second pass, the first is over
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T02:10+01:00", ["2026-10-26T02:30+01:00"]),
        # seconds go on through the repeated hour
        ("Europe/Berlin", "0/30 * * * * ?", "2026-10-25T02:59:30+02:00", ["2026-10-25T02:00+01:00"]),
        ("Europe/Berlin", "0/30 * * * * ?", "2026-03-29T01:59:30+01:00", ["2026-03-29T03:00+02:00"]),
        # the whole of 30 December 2011 is missing in Samoa
        (
            "Pacific/Apia",
            "0 0 10 * * ?",
            "2011-12-29T11:00-10:00",
            ["2011-12-31T00:00+14:00", "2011-12-31T10:00+14:00"],
        ),
        ("Pacific/Apia", "0 0 * 30 12 ?", "2010-12-31T00:00-11:00", ["2012-12-30T00:00+14:00"]),
    ],
)
def test_the_days_of_a_jump_by_hand(zone: str, expression: str, after: str, expected: list[str]):
    schedule = Schedule.from_cron(expression, zone)
    runs = itertools.islice(schedule.upcoming(datetime.fromisoformat(after)), len(expected))
    assert list(runs) == [datetime.fromisoformat(text) for text in expected]


def test_a_distant_hourly_run_whose_first_wall_time_is_skipped_begins_after_the_gap():
    # midnight of that day does not exist in Havana
    schedule = Schedule.from_cron("0 0 * 8 3 ?", "America/Havana")
    run = schedule.next_after(datetime(2025, 6, 1, tzinfo=UTC))
    assert run == datetime.fromisoformat("2026-03-08T01:00-04:00")
    odd = Schedule.from_cron("0 30 * 8 3 ?", "America/Havana").next_after(datetime(2025, 6, 1, tzinfo=UTC))
    assert odd == datetime.fromisoformat("2026-03-08T01:30-04:00")


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(TRANSITIONS), minutes=st.integers(-300, 300))
def test_a_wall_time_stands_for_one_instant_and_time_does_not_run_backwards(place: tuple[str, datetime], minutes: int):
    zone, jump = place
    tz = ZoneInfo(zone)
    wall = jump.astimezone(tz).replace(tzinfo=None, fold=0) + timedelta(minutes=minutes)
    instant = instant_of(wall, tz)
    assert instant_of(wall + MINUTE, tz) >= instant
    shown = instant.astimezone(tz)
    assert shown.fold == 0
    assert shown.replace(tzinfo=None) >= wall
