from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.errors import InvalidInput
from pam_jobs.records.schedule import Schedule, check_minimum_interval, parse_schedule

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday
BERLIN = ZoneInfo("Europe/Berlin")


def first(source, count: int, *, start: datetime = START, anchor: datetime | None = START) -> list[str]:
    runs = parse_schedule(source).upcoming(start, anchor=anchor)
    return [f"{run:%Y-%m-%dT%H:%M:%S}" for run in itertools.islice(runs, count)]


@pytest.mark.parametrize("source", ["", "  ", "[]", None, [], '[{"type":"ON_DEMAND"}]', [{"type": "ON_DEMAND"}]])
def test_an_empty_list_or_on_demand_is_manual(source):
    schedule = parse_schedule(source, now=START, minimum=timedelta(hours=1))
    assert schedule.is_manual
    assert schedule.next_after(START) is None
    assert schedule.describe() == "on demand"


def test_a_manual_schedule_keeps_the_form_it_was_written_in():
    assert Schedule.manual().to_json() == "[]"
    assert parse_schedule('[ {"type": "ON_DEMAND"} ]').to_json() == '[{"type":"ON_DEMAND"}]'


DAILY = {"type": "DAILY", "time": "02:30:00", "tz": "Etc/UTC", "intervalCount": 1}
WEEKLY = {"type": "WEEKLY", "weekday": "SUNDAY", "time": "15:44:00", "tz": "Etc/UTC", "intervalCount": 1}
BY_DAY = {"type": "MONTHLY_BY_DAY", "monthDay": 1, "time": "02:00:00", "tz": "Etc/UTC", "intervalCount": 1}
BY_WEEKDAY = {
    "type": "MONTHLY_BY_WEEKDAY",
    "weekday": "MONDAY",
    "occurrence": "FIRST",
    "time": "02:00:00",
    "tz": "Etc/UTC",
    "intervalCount": 1,
}
YEARLY = {"type": "YEARLY", "month": "JANUARY", "monthDay": 1, "time": "02:00:00", "tz": "Etc/UTC", "intervalCount": 1}
ONCE = {"type": "RUN_ONCE", "time": "2026-01-31T02:00:00", "tz": "Europe/Paris"}
HOURLY = {"type": "HOURLY", "minute": 5, "second": 0, "intervalCount": 6}


@pytest.mark.parametrize(
    ("entry", "expected", "words"),
    [
        (
            {"type": "CRON", "cron": "0 30 2 ? * SUN", "tz": "Etc/UTC"},
            ["2026-01-04T02:30:00", "2026-01-11T02:30:00"],
            'by cron "0 30 2 ? * SUN" UTC',
        ),
        (ONCE, ["2026-01-31T01:00:00"], "once at 2026-01-31 02:00 Europe/Paris"),
        (HOURLY, ["2026-01-01T00:05:00", "2026-01-01T06:05:00"], "every 6 hours at minute 05 UTC"),
        ({"type": "HOURLY", "second": 9}, ["2026-01-01T00:00:09", "2026-01-01T01:00:09"], "hourly at minute 00:09 UTC"),
        (DAILY, ["2026-01-01T02:30:00", "2026-01-02T02:30:00"], "daily at 02:30 UTC"),
        (DAILY | {"intervalCount": 3}, ["2026-01-01T02:30:00", "2026-01-04T02:30:00"], "every 3 days at 02:30 UTC"),
        (DAILY | {"time": "02:30:15"}, ["2026-01-01T02:30:15"], "daily at 02:30:15 UTC"),
        (WEEKLY, ["2026-01-04T15:44:00", "2026-01-11T15:44:00"], "weekly on SUNDAY at 15:44 UTC"),
        (
            WEEKLY | {"intervalCount": 2, "weekday": "sunday"},
            ["2026-01-04T15:44:00", "2026-01-18T15:44:00"],
            "every 2 weeks on SUNDAY at 15:44 UTC",
        ),
        (BY_DAY, ["2026-01-01T02:00:00", "2026-02-01T02:00:00"], "monthly on day 1 at 02:00 UTC"),
        (
            BY_DAY | {"monthDay": 31},
            ["2026-01-31T02:00:00", "2026-02-28T02:00:00", "2026-03-31T02:00:00"],
            "monthly on day 31 or the last day at 02:00 UTC",
        ),
        (
            BY_DAY | {"intervalCount": 5},
            ["2026-01-01T02:00:00", "2026-06-01T02:00:00", "2026-11-01T02:00:00"],
            "every 5 months on day 1 at 02:00 UTC",
        ),
        (BY_WEEKDAY, ["2026-01-05T02:00:00", "2026-02-02T02:00:00"], "monthly on the FIRST MONDAY at 02:00 UTC"),
        (
            BY_WEEKDAY | {"occurrence": "LAST", "weekday": "FRIDAY"},
            ["2026-01-30T02:00:00", "2026-02-27T02:00:00"],
            "monthly on the LAST FRIDAY at 02:00 UTC",
        ),
        (BY_WEEKDAY | {"occurrence": "FOURTH", "weekday": "THURSDAY"}, ["2026-01-22T02:00:00"], None),
        (
            BY_WEEKDAY | {"occurrence": "SECOND", "intervalCount": 2},
            ["2026-01-12T02:00:00", "2026-03-09T02:00:00"],
            None,
        ),
        (YEARLY, ["2026-01-01T02:00:00", "2027-01-01T02:00:00"], "yearly on JANUARY 1 at 02:00 UTC"),
        (
            YEARLY | {"month": "february", "monthDay": 29},
            ["2026-02-28T02:00:00", "2027-02-28T02:00:00", "2028-02-29T02:00:00"],
            "yearly on FEBRUARY 29 at 02:00 UTC",
        ),
        (YEARLY | {"intervalCount": 4}, ["2026-01-01T02:00:00", "2030-01-01T02:00:00"], None),
        ({"type": "DAILY", "utcTime": "15:44"}, ["2026-01-01T15:44:00"], "daily at 15:44 UTC"),
        ({"type": "DAILY", "utcTime": "15:44", "tz": "Europe/Berlin"}, ["2026-01-01T15:44:00"], "daily at 15:44 UTC"),
        (
            {"type": "WEEKLY", "utcTime": "15:44", "weekday": "SUNDAY", "intervalCount": 1},
            ["2026-01-04T15:44:00"],
            "weekly on SUNDAY at 15:44 UTC",
        ),
        (DAILY | {"tz": "Europe/Berlin"}, ["2026-01-01T01:30:00"], "daily at 02:30 Europe/Berlin"),
    ],
)
def test_each_type_runs_and_reads_as_it_says(entry, expected: list[str], words: str | None):
    assert first([entry], len(expected)) == expected
    if words is not None:
        assert parse_schedule([entry]).describe() == words


def test_a_list_of_several_runs_at_the_earliest_of_them():
    source = [DAILY, WEEKLY, BY_DAY]
    assert first(source, 4) == [
        "2026-01-01T02:00:00",
        "2026-01-01T02:30:00",
        "2026-01-02T02:30:00",
        "2026-01-03T02:30:00",
    ]
    assert parse_schedule(source).describe() == (
        "daily at 02:30 UTC; weekly on SUNDAY at 15:44 UTC; monthly on day 1 at 02:00 UTC"
    )


def test_a_single_object_is_taken_as_a_list_of_one():
    assert json.loads(parse_schedule(json.dumps(DAILY)).to_json()) == [DAILY]


def test_json_comes_back_as_it_was_written_with_keys_we_do_not_know():
    text = '[{"type":"DAILY","utcTime":"15:44","vendor":{"x":[1]},"intervalCount":1}]'
    assert parse_schedule(text).to_json() == text


def test_one_run_is_the_last_run():
    assert first([ONCE], 5) == ["2026-01-31T01:00:00"]


def test_a_single_run_may_carry_its_own_offset():
    entry = {"type": "RUN_ONCE", "time": "2026-01-31T02:00:00-05:00"}
    assert first([entry], 1) == ["2026-01-31T07:00:00"]
    with pytest.raises(InvalidInput, match="time"):
        parse_schedule([entry | {"tz": "Europe/Paris"}])


def test_without_an_anchor_the_periods_are_counted_from_1970():
    weekly = WEEKLY | {"intervalCount": 2, "weekday": "THURSDAY"}
    [run] = first([weekly], 1, anchor=None)
    assert (datetime.fromisoformat(run).date() - datetime(1970, 1, 1).date()).days % 14 == 0


def test_two_anchors_a_week_apart_alternate():
    weekly = WEEKLY | {"intervalCount": 2}
    even = first([weekly], 3, anchor=START)
    odd = first([weekly], 3, anchor=START + timedelta(days=7))
    assert not set(even) & set(odd)


def test_a_naive_instant_is_a_mistake_of_the_caller():
    schedule = parse_schedule([DAILY])
    with pytest.raises(ValueError, match="aware"):
        schedule.next_after(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="aware"):
        schedule.next_after(START, anchor=datetime(2026, 1, 1))


def test_no_run_is_looked_for_beyond_the_calendar():
    end = datetime(9995, 1, 1, tzinfo=UTC)
    late = datetime(9990, 12, 31, 23, tzinfo=UTC)
    for entry in (DAILY, WEEKLY, BY_DAY, BY_WEEKDAY, YEARLY):
        assert parse_schedule([entry]).next_after(end) is None
        assert parse_schedule([entry]).next_after(late) is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("2026-10-24T12:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("2026-10-25T02:10+01:00", ["2026-10-26T02:30+01:00"]),
    ],
)
def test_a_daily_run_meets_the_clock_changes_as_cron_does(after: str, expected: list[str]):
    schedule = parse_schedule([DAILY | {"tz": "Europe/Berlin"}])
    runs = itertools.islice(schedule.upcoming(datetime.fromisoformat(after)), len(expected))
    assert list(runs) == [datetime.fromisoformat(text) for text in expected]


def test_hourly_runs_keep_their_distance_over_a_clock_change():
    schedule = parse_schedule([HOURLY | {"tz": "Europe/Berlin"}])
    start = datetime.fromisoformat("2026-10-24T12:00+02:00")
    runs = list(itertools.islice(schedule.upcoming(start, anchor=START), 8))
    assert {later - earlier for earlier, later in itertools.pairwise(runs)} == {timedelta(hours=6)}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{", "not valid JSON"),
        ("3", "not a list of objects"),
        ('"CRON"', "not a list of objects"),
        ("[1]", "not a list of objects"),
        ([{}], "None is not a type"),
        ([{"type": "SOMETIMES"}], "'SOMETIMES' is not a type"),
        ([{"type": ["DAILY"]}], "is not a type"),
        ([{"type": "ON_DEMAND"}, DAILY], "on demand and timed"),
        ([{"type": "CRON"}], "'cron' is missing in the CRON schedule"),
        ([{"type": "CRON", "cron": 5}], "5 is not a valid 'cron'"),
        ([{"type": "CRON", "cron": " "}], "not a valid 'cron'"),
        ([{"type": "CRON", "cron": "0 0 31 2 *"}], "never fires"),
        ([{"type": "CRON", "cron": "0 0 * * *", "tz": "Mars/Olympus"}], "'Mars/Olympus' is not a time zone"),
        ([DAILY | {"tz": "../../etc/passwd"}], "not a time zone"),
        ([DAILY | {"tz": "Europe"}], "not a time zone"),
        ([DAILY | {"tz": "localtime"}], "not a time zone"),
        ([DAILY | {"tz": "right/Europe/Berlin"}], "not a time zone"),
        ([DAILY | {"tz": 0}], "0 is not a valid 'tz'"),
        ([DAILY | {"time": "25:00"}], "not a valid 'time'"),
        ([DAILY | {"time": "02:30:00+01:00"}], "not a valid 'time'"),
        ([DAILY | {"time": "02:30:00.5"}], "not a valid 'time'"),
        ([{"type": "DAILY"}], "'time' is missing"),
        ([{"type": "DAILY", "utcTime": "x"}], "'x' is not a valid 'utcTime'"),
        ([DAILY | {"intervalCount": 0}], "0 is not a valid 'intervalCount'"),
        ([DAILY | {"intervalCount": 367}], "367 is not a valid"),
        ([DAILY | {"intervalCount": True}], "True is not a valid"),
        ([DAILY | {"intervalCount": "1"}], "'1' is not a valid"),
        ([HOURLY | {"minute": 60}], "60 is not a valid 'minute'"),
        ([HOURLY | {"second": -1}], "-1 is not a valid 'second'"),
        ([WEEKLY | {"weekday": "SUN"}], "'SUN' is not a valid 'weekday'"),
        ([WEEKLY | {"weekday": 1}], "1 is not a valid 'weekday'"),
        ([BY_DAY | {"monthDay": 32}], "32 is not a valid 'monthDay'"),
        ([{key: value for key, value in BY_DAY.items() if key != "monthDay"}], "'monthDay' is missing"),
        ([BY_WEEKDAY | {"occurrence": "FIFTH"}], "'FIFTH' is not a valid 'occurrence'"),
        ([YEARLY | {"month": "APRIL", "monthDay": 31}], "31 is not a valid 'monthDay'"),
        ([YEARLY | {"month": "FEBRUARY", "monthDay": 30}], "30 is not a valid 'monthDay'"),
        ([ONCE | {"time": "tomorrow"}], "'tomorrow' is not a valid 'time'"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_with_a_remedy(source, sentence: str):
    with pytest.raises(InvalidInput) as refused:
        parse_schedule(source)
    assert sentence in refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize("entry", [ONCE, {"type": "CRON", "cron": "0 0 0 1 1 ? 2020"}])
def test_a_schedule_that_is_over_is_refused_when_new_and_read_when_stored(entry):
    late = datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidInput, match="no run in the future"):
        parse_schedule([entry], now=late)
    assert parse_schedule([entry]).next_after(late) is None


@pytest.mark.parametrize(
    ("source", "apart"),
    [
        ([{"type": "CRON", "cron": "0/5 * * * * ?"}], "5 seconds"),
        ([{"type": "CRON", "cron": "* * * * * ?"}], "1 second"),
        ([{"type": "CRON", "cron": "*/30 * * * *"}], "30 minutes"),
        ([{"type": "CRON", "cron": "0,1 0 29 2 *"}], "1 minute"),
        ([{"type": "CRON", "cron": "0 0 0 1 1 ? 2050"}, {"type": "CRON", "cron": "0 1 0 1 1 ? 2050"}], "1 minute"),
        ([DAILY, DAILY | {"time": "03:00:00"}], "30 minutes"),
        ([HOURLY | {"intervalCount": 1}, HOURLY | {"intervalCount": 1, "minute": 35}], "30 minutes"),
    ],
)
def test_a_schedule_more_frequent_than_policy_allows_is_refused(source, apart: str):
    with pytest.raises(InvalidInput) as refused:
        parse_schedule(source, minimum=timedelta(hours=1))
    assert refused.value.message == f"the schedule has runs {apart} apart, but policy wants at least 1 hour"
    parse_schedule(source, minimum=timedelta(0))


@pytest.mark.parametrize(
    "source",
    [
        [{"type": "CRON", "cron": "0 * * * *"}],
        [{"type": "CRON", "cron": "30 1,2,3 * * *", "tz": "Europe/Berlin"}],  # closer on one day a year, by the clock
        [HOURLY],
        [DAILY],
        [DAILY, DAILY],  # the same instant is one run
        [ONCE],
        [WEEKLY, BY_DAY],
    ],
)
def test_a_schedule_as_frequent_as_policy_allows_is_accepted(source):
    check_minimum_interval(parse_schedule(source), timedelta(hours=1), since=START)


def test_intervals_are_told_in_words():
    with pytest.raises(InvalidInput, match="1 day apart, but policy wants at least 36 hours"):
        parse_schedule([DAILY], minimum=timedelta(hours=36))
    with pytest.raises(InvalidInput, match="1 day apart, but policy wants at least 2 days"):
        parse_schedule([DAILY], minimum=timedelta(days=2))


entries = st.one_of(
    st.builds(
        lambda hour, every, tz: DAILY | {"time": f"{hour:02}:30", "intervalCount": every, "tz": tz},
        st.integers(0, 23),
        st.integers(1, 9),
        st.sampled_from(["Etc/UTC", "Europe/Berlin", "Australia/Sydney"]),
    ),
    st.builds(
        lambda day, every: WEEKLY | {"weekday": day, "intervalCount": every},
        st.sampled_from(["MONDAY", "THURSDAY", "SUNDAY"]),
        st.integers(1, 5),
    ),
    st.builds(
        lambda day, every: BY_DAY | {"monthDay": day, "intervalCount": every}, st.integers(1, 31), st.integers(1, 9)
    ),
    st.builds(
        lambda every, minute: HOURLY | {"intervalCount": every, "minute": minute},
        st.integers(1, 40),
        st.integers(0, 59),
    ),
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))


@settings(max_examples=150, deadline=None)
@given(source=st.lists(entries, min_size=1, max_size=3), instant=moments, anchor=moments)
def test_a_run_found_from_anywhere_before_it_is_the_same(source, instant: datetime, anchor: datetime):
    schedule = parse_schedule(source)
    run = schedule.next_after(instant, anchor=anchor)
    assert run is not None
    assert run > instant
    assert schedule.next_after(run - timedelta(seconds=1), anchor=anchor) == run
    assert schedule.next_after(instant + (run - instant) / 2, anchor=anchor) == run
    assert schedule.next_after(instant.astimezone(BERLIN), anchor=anchor.astimezone(BERLIN)) == run
