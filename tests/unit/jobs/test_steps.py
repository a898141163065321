from __future__ import annotations

import pytest

from pam_jobs.db.tables import JobState
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.view import read_job
from tests.support.attempts import MINUTE, SECRET, ask, begin, register, reload
from tests.support.fleet import OPERATOR, Fleet


def states(rows) -> dict[str, str]:
    return {row.key: row.state for row in rows}


def test_steps_are_declared_once_and_keep_their_order(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    assert states(attempt.declare("a", "b")) == {"a": "pending", "b": "pending"}
    attempt.start_step("a")
    attempt.finish_step("a")
    assert states(attempt.declare("a", "b", "c")) == {"a": "succeeded", "b": "pending", "c": "pending"}


def test_a_step_is_started_once(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.declare("a")
    attempt.start_step("a")
    with pytest.raises(StateError, match="not run again"):
        attempt.start_step("a")
    attempt.finish_step("a", "failed", 3)
    attempt.finish_step("a", "failed", 3)  # said again after a lost answer
    with pytest.raises(StateError):
        attempt.finish_step("a", "succeeded")
    with pytest.raises(StateError):
        attempt.start_step("a")
    with pytest.raises(NotFound):
        attempt.start_step("unheard of")


def test_an_interrupted_step_is_unknown_and_never_run_again(fleet: Fleet, record: str):
    job = ask(fleet, record)
    first = begin(fleet, job.uid)
    first.declare("a", "b", "c")
    first.start_step("a")
    first.finish_step("a")
    first.start_step("b")
    fleet.clock.advance(MINUTE)
    second = begin(fleet, job.uid)
    assert states(second.claim.steps) == {"a": "succeeded", "b": "unknown", "c": "pending"}
    for key in ("a", "b"):
        with pytest.raises(StateError):
            second.start_step(key)
    second.start_step("c")


def test_a_step_that_may_be_repeated_is_started_again_while_its_end_is_unknown(fleet: Fleet, record: str):
    job = ask(fleet, record)
    for number in (1, 2, 3):
        attempt = begin(fleet, job.uid)
        if number == 1:
            attempt.declare("a", most_attempts=3)
        attempt.start_step("a")
        with pytest.raises(StateError, match="running"):
            attempt.start_step("a")
        fleet.clock.advance(MINUTE)
    last = begin(fleet, job.uid)
    [row] = last.claim.steps
    assert (row.state, row.attempts, row.most_attempts, row.cause) == ("unknown", 3, 3, "interrupted")
    with pytest.raises(StateError, match="not run again"):
        last.start_step("a")


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_a_step_that_ended_is_never_started_again(fleet: Fleet, record: str, end: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.declare("a", most_attempts=3)
    attempt.start_step("a")
    attempt.finish_step("a", end)
    with pytest.raises(StateError, match="not run again"):
        attempt.start_step("a")


def test_starting_a_script_ends_the_time_to_cancel(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.declare("a")
    attempt.start_step("a")
    assert reload(fleet, job.uid).state == JobState.RUNNING
    with fleet.database.transaction() as session, pytest.raises(StateError, match="has begun"):
        cancel(session, fleet.clock, OPERATOR, job.uid)


def test_no_script_starts_in_a_cancelled_job(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.declare("a")
    with fleet.database.transaction() as session:
        cancel(session, fleet.clock, OPERATOR, job.uid)
    with pytest.raises(StateError, match="cancelled"):
        attempt.start_step("a")


@pytest.mark.parametrize("end", ["applying", "abandoned", "recovered", "promoted", "started"])
def test_steps_are_left_to_do_once_their_version_is_current_or_one_was_started(fleet: Fleet, record: str, end: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.intend(attempt.stage())
    attempt.declare("a", "b")
    if end == "abandoned":
        attempt.abandon(effect="not_applied")
    elif end == "recovered":
        attempt.recover(SECRET[::-1])
    elif end == "promoted":
        attempt.promote()
    elif end == "started":
        attempt.start_step("a")
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    again = begin(fleet, job.uid, "i2")
    left = {"promoted": {"a": "pending", "b": "pending"}, "started": {"a": "unknown", "b": "pending"}}
    assert states(again.claim.steps) == left.get(end, {})
    assert set(states(again.declare("a", "b"))) == {"a", "b"}


def test_malformed_steps_are_refused(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    with pytest.raises(InvalidInput):
        attempt.declare("a", "a")
    with pytest.raises(InvalidInput):
        attempt.declare(*map(str, range(2001)))
    attempt.declare("a")
    attempt.start_step("a")
    with pytest.raises(InvalidInput):
        attempt.finish_step("a", "running")


def test_the_view_shows_steps_with_their_sealed_output(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.declare("a")
    attempt.start_step("a")
    attempt.finish_step("a")
    with fleet.database.transaction(read_only=True) as session:
        shown = read_job(session, job.uid)
    [step] = shown.steps
    assert (step.key, step.state, step.exit_code, step.output) == ("a", "succeeded", 0, b"sealed")
