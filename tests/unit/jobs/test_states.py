from __future__ import annotations

import itertools

import pytest

from pam_jobs.db.tables import JobState
from pam_jobs.jobs.states import FINAL, HELD, OPEN, TRANSITIONS, WAITING, is_allowed, sources

S = JobState
ALLOWED = {
    (S.CREATED, S.QUEUED), (S.CREATED, S.LEASED), (S.CREATED, S.CANCELLED), (S.CREATED, S.EXPIRED),
    (S.QUEUED, S.QUEUED), (S.QUEUED, S.LEASED), (S.QUEUED, S.CANCELLED), (S.QUEUED, S.EXPIRED),
    (S.LEASED, S.LEASED), (S.LEASED, S.RUNNING), (S.LEASED, S.QUEUED), (S.LEASED, S.SUCCEEDED), (S.LEASED, S.FAILED),
    (S.LEASED, S.UNKNOWN), (S.LEASED, S.WAITING_HUMAN), (S.LEASED, S.CANCELLED),
    (S.RUNNING, S.LEASED), (S.RUNNING, S.RUNNING), (S.RUNNING, S.QUEUED), (S.RUNNING, S.SUCCEEDED),
    (S.RUNNING, S.FAILED), (S.RUNNING, S.UNKNOWN), (S.RUNNING, S.WAITING_HUMAN),
    (S.UNKNOWN, S.QUEUED), (S.UNKNOWN, S.LEASED),
}  # fmt: skip


@pytest.mark.parametrize(("source", "to"), list(itertools.product(S, S)))
def test_every_pair_of_states_is_allowed_or_not_as_written_here(source: S, to: S):
    assert is_allowed(source, to) == ((source, to) in ALLOWED)
    assert (source in sources(to)) == ((source, to) in ALLOWED)


def test_every_state_is_of_exactly_one_kind():
    kinds = [*WAITING, *HELD, S.UNKNOWN, *FINAL]
    assert sorted(kinds) == sorted(S)
    assert set(OPEN) == set(S) - set(FINAL)


def test_nothing_leaves_a_final_state_and_everything_else_can_end():
    assert all(not TRANSITIONS[state] for state in FINAL)
    for state in OPEN:
        reached = {state}
        while more := {to for source in reached for to in TRANSITIONS[source]} - reached:
            reached |= more
        assert reached & set(FINAL)


def test_what_has_begun_on_the_target_is_never_cancelled():
    assert not is_allowed(S.RUNNING, S.CANCELLED)
    assert not is_allowed(S.UNKNOWN, S.CANCELLED)
