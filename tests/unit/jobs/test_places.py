"""Places in the lockout budget of an administrator: reserved before a login, settled after it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from pam_jobs.db.tables import CredentialEpoch, LoginReservation
from pam_jobs.ids import new_uid
from pam_jobs.jobs import places, refusals, wire
from pam_jobs.jobs.fence import hold
from pam_jobs.jobs.wire import LoginState
from tests.support.attempts import MINUTE, POLICY, Attempt, ask, begin
from tests.support.fleet import Fleet

pytestmark = pytest.mark.unit
_WINDOW = timedelta(seconds=POLICY.refusal_window_seconds)


class Asking:
    """An attempt that logs in as the fleet's administrator."""

    resource_uid = "the one resource"

    def __init__(self, fleet: Fleet) -> None:
        record = fleet.add_record()
        fleet.put(record)
        self.fleet = fleet
        self.attempt: Attempt = begin(fleet, ask(fleet, record).uid)

    def say(self, state: LoginState, uid: str | None = None, **rule: int) -> tuple[bool, bool]:
        """Ask for a place or settle it; return whether it is granted, and whether the budget is used up."""
        holder = self.attempt.holder
        said = wire.Login(
            uid=uid or new_uid(), state=state, of="admin", epoch=holder.epoch, instance=holder.instance, **rule
        )
        fleet = self.fleet
        with fleet.database.transaction() as session:
            job = hold(session, fleet.clock, holder)
            if state is not LoginState.WANTED:
                places.settle(session, fleet.clock, job, (fleet.admin_uid, self.resource_uid), said)
                return True, False
            answer = places.reserve(session, fleet.clock, POLICY, job, (fleet.admin_uid, self.resource_uid), said)
        return answer.is_granted, answer.is_used_up

    def take(self, **rule: int) -> str:
        """Reserve a place and return its uid."""
        uid = new_uid()
        assert self.say(LoginState.WANTED, uid, **rule) == (True, False)
        return uid

    def lose_lease(self) -> None:
        """Let the attempt be one of a gateway that was killed, and whose job another one has by now."""
        with self.fleet.database.transaction() as session:
            row = session.get_one(CredentialEpoch, self.attempt.claim.record_uid)
            row.epoch += 1


@pytest.fixture
def asking(fleet: Fleet) -> Asking:
    return Asking(fleet)


def refused(fleet: Fleet) -> int:
    with fleet.database.transaction() as session:
        return refusals.count(
            session, fleet.clock, POLICY, record_uid=fleet.admin_uid, gateway_uid=fleet.gateway_uid, new=0
        )


def kept(fleet: Fleet) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(LoginReservation)) or 0


GRANTED, UNDER_WAY, USED_UP = (True, False), (False, False), (False, True)


def test_eight_at_once_get_exactly_as_many_places_as_the_limit_and_are_refused_no_more(fleet: Fleet) -> None:
    attempts = [Asking(fleet) for _ in range(8)]
    together = threading.Barrier(8)

    def log_in(one: Asking) -> tuple[bool, bool]:
        uid = new_uid()
        together.wait(20)
        answer = one.say(LoginState.WANTED, uid)
        together.wait(20)  # none is settled before all have asked
        if answer == GRANTED:
            one.say(LoginState.REFUSED, uid)
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(log_in, attempts))
    assert sorted(answers) == sorted([GRANTED] * 3 + [UNDER_WAY] * 5)
    assert refused(fleet) == 3
    assert {one.say(LoginState.WANTED) for one in attempts} == {USED_UP}


def test_what_was_refused_before_and_what_is_under_way_count_together(asking: Asking) -> None:
    asking.say(LoginState.REFUSED, asking.take())
    asking.take()
    asking.take()
    assert asking.say(LoginState.WANTED) == UNDER_WAY


@pytest.mark.parametrize("state", [LoginState.ACCEPTED, LoginState.UNDECIDED])
def test_a_login_that_was_not_refused_gives_its_place_back(asking: Asking, state: LoginState) -> None:
    taken = [asking.take() for _ in range(3)]
    asking.say(state, taken[1])
    assert asking.say(LoginState.WANTED) == GRANTED
    assert refused(asking.fleet) == 0


def test_asking_again_after_a_lost_answer_takes_one_place(asking: Asking) -> None:
    uid = asking.take()
    asking.take()
    assert asking.say(LoginState.WANTED, uid) == GRANTED
    assert kept(asking.fleet) == 2


def test_a_place_that_was_granted_stays_granted_also_under_a_smaller_limit(asking: Asking) -> None:
    asking.say(LoginState.REFUSED, asking.take())
    uid = asking.take()
    assert asking.say(LoginState.WANTED, uid, limit=1) == GRANTED


def test_a_refusal_that_is_told_again_counts_once(asking: Asking) -> None:
    uid = asking.take()
    asking.say(LoginState.REFUSED, uid)
    asking.say(LoginState.REFUSED, uid)
    assert refused(asking.fleet) == 1


def test_what_a_killed_gateway_left_counts_like_a_refusal_until_the_window_has_passed(asking: Asking) -> None:
    for _ in range(3):
        asking.take()
    asking.lose_lease()
    later = Asking(asking.fleet)
    assert later.say(LoginState.WANTED) == UNDER_WAY
    asking.fleet.clock.advance(_WINDOW)
    assert Asking(asking.fleet).say(LoginState.WANTED) == GRANTED


def test_an_accepted_login_ends_what_killed_gateways_left_and_nothing_else(asking: Asking) -> None:
    live, later = Asking(asking.fleet), Asking(asking.fleet)
    asking.take()
    live.take()
    asking.lose_lease()
    later.say(LoginState.ACCEPTED, later.take())
    assert kept(asking.fleet) == 1
    later.take()
    later.take()
    assert later.say(LoginState.WANTED) == UNDER_WAY


def test_an_undecided_login_ends_nothing_that_killed_gateways_left(asking: Asking) -> None:
    later = Asking(asking.fleet)
    asking.take()
    asking.lose_lease()
    later.say(LoginState.UNDECIDED, later.take())
    assert kept(asking.fleet) == 1


def test_a_login_that_lasts_longer_than_the_window_keeps_its_place(asking: Asking) -> None:
    rule = {"limit": 1, "window_seconds": 10}
    asking.take(**rule)
    asking.fleet.clock.advance(timedelta(seconds=30))  # its lease lasts for 60
    assert Asking(asking.fleet).say(LoginState.WANTED, **rule) == UNDER_WAY
    asking.fleet.clock.advance(MINUTE)
    assert Asking(asking.fleet).say(LoginState.WANTED, **rule) == GRANTED


def test_refusals_count_within_the_targets_own_window(asking: Asking) -> None:
    for _ in range(3):
        asking.say(LoginState.REFUSED, asking.take())
    asking.fleet.clock.advance(timedelta(seconds=30))
    assert asking.say(LoginState.WANTED) == USED_UP
    assert asking.say(LoginState.WANTED, window_seconds=10) == GRANTED


def test_a_target_has_as_many_places_as_its_own_limit(asking: Asking) -> None:
    for _ in range(5):
        asking.take(limit=5)
    assert asking.say(LoginState.WANTED, limit=5) == UNDER_WAY


def test_who_administers_is_told_with_the_claim(fleet: Fleet, record: str) -> None:
    fleet.put(fleet.admin_uid)
    own = begin(fleet, ask(fleet, fleet.admin_uid).uid)
    assert own.claim.administers
    own.report()
    assert not begin(fleet, ask(fleet, record).uid).claim.administers


def test_a_target_that_never_answers_holds_up_only_itself(fleet: Fleet):
    hung, healthy = Asking(fleet), Asking(fleet)
    healthy.resource_uid = "another resource"
    for _ in range(POLICY.refusal_limit):
        hung.take()
    assert hung.say(LoginState.WANTED) == (False, False)
    healthy.say(LoginState.ACCEPTED, healthy.take())
    healthy.say(LoginState.REFUSED, healthy.take())  # which counts for the account, wherever it is
    assert [healthy.say(LoginState.WANTED)[0] for _ in range(POLICY.refusal_limit)] == [True, True, False]


def test_a_login_elsewhere_says_nothing_of_what_a_killed_gateway_left_on_a_target(fleet: Fleet):
    killed, elsewhere, there = Asking(fleet), Asking(fleet), Asking(fleet)
    elsewhere.resource_uid = "another resource"
    for _ in range(POLICY.refusal_limit):
        killed.take()
    killed.lose_lease()
    elsewhere.say(LoginState.ACCEPTED, elsewhere.take())
    assert there.say(LoginState.WANTED) == (False, False)
