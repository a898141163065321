from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.errors import InvalidInput
from pam_jobs.records.cron import parse_cron

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday


def runs(expression: str, count: int, start: datetime = START) -> list[str]:
    cron, found = parse_cron(expression), []
    instant: datetime | None = start
    for _ in range(count):
        instant = cron.next_after(instant, UTC)
        if instant is None:
            break
        found.append(f"{instant:%Y-%m-%d %H:%M:%S}")
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0/5 * * * * ?", ["2026-01-01 00:00:05", "2026-01-01 00:00:10"]),
        ("*/20 * * * * *", ["2026-01-01 00:00:20", "2026-01-01 00:00:40", "2026-01-01 00:01:00"]),
        ("0 30 2 ? * SUN", ["2026-01-04 02:30:00", "2026-01-11 02:30:00"]),
        ("0 30 2 ? * 1", ["2026-01-04 02:30:00"]),
        ("0 30 2 ? * 7", ["2026-01-03 02:30:00"]),
        ("0 30 2 ? * L", ["2026-01-03 02:30:00", "2026-01-10 02:30:00"]),
        ("0 0 12 ? * mon-fri", ["2026-01-01 12:00:00", "2026-01-02 12:00:00", "2026-01-05 12:00:00"]),
        ("0 0 12 ? * FRI-MON", ["2026-01-02 12:00:00", "2026-01-03 12:00:00", "2026-01-04 12:00:00"]),
        ("0 0 12 * * MON", ["2026-01-05 12:00:00"]),
        ("0 0 12 L * ?", ["2026-01-31 12:00:00", "2026-02-28 12:00:00"]),
        ("0 0 12 L-3 * ?", ["2026-01-28 12:00:00", "2026-02-25 12:00:00"]),
        ("0 0 12 LW * ?", ["2026-01-30 12:00:00", "2026-02-27 12:00:00", "2026-03-31 12:00:00"]),
        ("0 0 12 L-1W * ?", ["2026-01-30 12:00:00", "2026-02-27 12:00:00", "2026-03-30 12:00:00"]),
        ("0 0 12 1W * ?", ["2026-01-01 12:00:00", "2026-02-02 12:00:00", "2026-03-02 12:00:00"]),
        ("0 0 12 15W * ?", ["2026-01-15 12:00:00", "2026-02-16 12:00:00"]),
        ("0 0 12 31W 1,5 ?", ["2026-01-30 12:00:00", "2026-05-29 12:00:00"]),
        ("0 0 12 31W * ?", ["2026-01-30 12:00:00", "2026-03-31 12:00:00"]),
        ("0 0 12 1W 8 ?", ["2026-08-03 12:00:00"]),
        ("0 0 12 10,L * ?", ["2026-01-10 12:00:00", "2026-01-31 12:00:00", "2026-02-10 12:00:00"]),
        ("0 0 12 ? * 6#3", ["2026-01-16 12:00:00", "2026-02-20 12:00:00"]),
        ("0 0 12 ? * FRI#5", ["2026-01-30 12:00:00", "2026-05-29 12:00:00"]),
        ("0 0 12 ? * 6L", ["2026-01-30 12:00:00", "2026-02-27 12:00:00"]),
        ("0 0 12 ? * FRIL,MON#1", ["2026-01-05 12:00:00", "2026-01-30 12:00:00"]),
        ("0 0 12 1/5 * ?", ["2026-01-01 12:00:00", "2026-01-06 12:00:00"]),
        ("0 0 22-1/2 * * ?", ["2026-01-01 22:00:00", "2026-01-02 00:00:00", "2026-01-02 22:00:00"]),
        ("0 0 0 1 NOV-FEB ?", ["2026-02-01 00:00:00", "2026-11-01 00:00:00", "2026-12-01 00:00:00"]),
        ("0 0 0 1 1 ? 2027-2030/2", ["2027-01-01 00:00:00", "2029-01-01 00:00:00"]),
        ("0 0 0 1 1 ? 2028", ["2028-01-01 00:00:00"]),
        ("0 0 0 29 2 ? *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("15,45 30 10,11 ? * *", ["2026-01-01 10:30:15", "2026-01-01 10:30:45", "2026-01-01 11:30:15"]),
        ("*/5 * * * *", ["2026-01-01 00:05:00", "2026-01-01 00:10:00"]),
        ("30 2 * * 0", ["2026-01-04 02:30:00"]),
        ("30 2 * * 7", ["2026-01-04 02:30:00"]),
        ("30 2 * * 5-7", ["2026-01-02 02:30:00", "2026-01-03 02:30:00", "2026-01-04 02:30:00"]),
        ("30 2 * * MON", ["2026-01-05 02:30:00"]),
        ("0 0 13 * FRI", ["2026-01-02 00:00:00", "2026-01-09 00:00:00", "2026-01-13 00:00:00"]),
        ("0 0 */2 * FRI", ["2026-01-09 00:00:00", "2026-01-23 00:00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00:00", "2026-02-28 00:00:00"]),
        ("0 0 * * MON#2", ["2026-01-12 00:00:00", "2026-02-09 00:00:00"]),
        ("0 0 1 JAN,JUL *", ["2026-07-01 00:00:00", "2027-01-01 00:00:00"]),
        ("10-50/20 23 31 12 *", ["2026-12-31 23:10:00", "2026-12-31 23:30:00", "2026-12-31 23:50:00"]),
    ],
)
def test_an_expression_runs_when_its_grammar_says(expression: str, expected: list[str]):
    assert runs(expression, len(expected)) == expected


def test_a_fifth_monday_in_february_is_waited_for_across_the_year_2100():
    assert runs("0 0 0 ? 2 MON#5", 1, datetime(2072, 3, 1, tzinfo=UTC)) == ["2112-02-29 00:00:00"]


def test_a_year_that_is_over_gives_no_further_run():
    assert runs("0 0 0 1 1 ? 2020", 1) == []
    assert runs("0 0 * 1 1 ? 2020", 1) == []


def test_an_instant_between_two_seconds_finds_the_next_second():
    assert runs("0/5 * * * * ?", 1, START + timedelta(microseconds=1)) == ["2026-01-01 00:00:05"]
    assert runs("0/5 * * * * ?", 1, START - timedelta(microseconds=1)) == ["2026-01-01 00:00:00"]


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("0 0 31 2 *", "never fires"),
        ("0 0 0 30 2 ?", "never fires"),
        ("0 0 0 31W 4 ?", "never fires"),
        ("0 0 0 31 4,6,9,11 ?", "never fires"),
        ("0 0 0 L-30 2 ?", "never fires"),
        ("H * * * *", "random time"),
        ("R 0 * * *", "random time"),
        ("0 H(0-7) * * *", "random time"),
        ("0 0,H/2 * * *", "random time"),
        ("", "has 0 fields"),
        ("@daily", "has 1 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * * *", "has 8 fields"),
        ("60 * * * *", "'60' is not a minute"),
        ("* 24 * * *", "'24' is not a hour"),
        ("* * 0 * *", "'0' is not a day of the month"),
        ("* * * 13 *", "'13' is not a month"),
        ("* * * FOO *", "'FOO' is not a month"),
        ("* * * * 8", "'8' is not a day of the week"),
        ("50-10 * * * *", "'50-10' is not a minute"),
        ("*/0 * * * *", "'*/0' is not a minute"),
        ("*/60 * * * *", "'*/60' is not a minute"),
        ("*/x * * * *", "'*/x' is not a minute"),
        ("1,,2 * * * *", "'' is not a minute"),
        ("-1 * * * *", "'' is not a minute"),
        ("٣ * * * *", "is not a minute"),
        ("99999999999 * * * *", "is not a minute"),
        ("0 0 ? * *", "'?' is not a day of the month"),
        ("0 0 * * 5L", "'5L' is not a day of the week"),
        ("0 0 * * 5#6", "'#6' is not a day of the week"),
        ("0 0 0 ? * ?", "both day fields"),
        ("0 0 0 1 * MON", "restricts both"),
        ("0 0 0 * * 1", "read in two ways"),
        ("0 0 0 ? * 0", "'0' is not a day of the week"),
        ("0 0 0 ? * 8", "'8' is not a day of the week"),
        ("0 0 0 ? * 2#0", "'#0' is not a day of the week"),
        ("0 0 0 L-31 * ?", "'L-31' is not a day of the month"),
        ("0 0 0 W * ?", "'' is not a day of the month"),
        ("0 0 0 32W * ?", "'32' is not a day of the month"),
        ("0 0 0 1 1 ? 1969", "'1969' is not a year"),
        ("0 0 0 1 1 ? 2100", "'2100' is not a year"),
        ("0 0 0 1 1 ? 2030-2020", "'2030-2020' is not a year"),
    ],
)
def test_an_expression_that_cannot_be_kept_is_refused_with_a_remedy(expression: str, sentence: str):
    with pytest.raises(InvalidInput) as refused:
        parse_cron(expression)
    assert sentence.casefold() in refused.value.message.casefold()
    assert refused.value.remedy


def test_both_readers_of_five_fields_must_agree(monkeypatch: pytest.MonkeyPatch):
    from pam_jobs.records import cron

    monkeypatch.setattr(cron.croniter, "is_valid", staticmethod(lambda *_, **__: False))
    with pytest.raises(InvalidInput, match="two ways"):
        parse_cron.__wrapped__("1 2 3 4 *")


def _item(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    return st.one_of(
        st.just("*"),
        number.map(str),
        pair.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.integers(2, max(2, high // 2)).map(lambda step: f"*/{step}"),
        st.lists(number, min_size=1, max_size=4).map(lambda values: ",".join(map(str, values))),
    )


quartz = st.tuples(_item(0, 59), _item(0, 59), _item(0, 23), _item(1, 28), _item(1, 12), st.just("?")).map(" ".join)
instants = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))


@settings(max_examples=150, deadline=None)
@given(expression=quartz, instant=instants)
def test_the_next_run_matches_and_none_lies_before_it(expression: str, instant: datetime):
    cron = parse_cron(expression)
    run = cron.next_after(instant, UTC)
    assert run is not None
    assert run > instant
    assert run.second in cron.seconds
    assert run.minute in cron.minutes
    assert run.hour in cron.hours
    assert run.month in cron.months
    assert cron.next_after(run - timedelta(seconds=1), UTC) == run
    middle = instant + (run - instant) / 2
    assert cron.next_after(middle, UTC) == run
