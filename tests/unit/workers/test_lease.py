from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pam_jobs.errors import EffectUnknown, EpochConflict, LeaseLost, NotFound, PamJobsError, Unreachable
from tests.support.gateway import GatewayWorld
from workers.breaker import BreakerOpen, Breakers, TargetBusy
from workers.engine import Running
from workers.lease import Cancelled, GatewayStopping, Lease
from workers.router import JobLink, MaybeDone, RouterUnavailable

pytestmark = pytest.mark.unit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Job:
    """The one call that a lease makes."""

    answer: PamJobsError | None = None

    def renew(self) -> None:
        if self.answer is not None:
            raise self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def lease(job: Job, clock: Clock) -> Lease:
    return Lease(job, 60, 100.0, monotonic=clock)  # type: ignore[arg-type]


def test_a_renewal_counts_from_when_it_was_sent(lease: Lease, clock: Clock) -> None:
    clock.now = 150
    lease.renew()
    clock.now = 209
    lease.check()
    clock.now = 210
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_router_that_is_away_costs_the_lease_only_at_its_end(lease: Lease, job: Job, clock: Clock) -> None:
    job.answer = RouterUnavailable()
    clock.now = 150
    lease.renew()
    lease.check()
    clock.now = 160
    with pytest.raises(LeaseLost):
        lease.check()


@pytest.mark.parametrize("error", [LeaseLost(), EpochConflict(), NotFound()])
def test_a_refused_renewal_ends_the_work_at_once(lease: Lease, job: Job, error: PamJobsError) -> None:
    job.answer = error
    lease.renew()
    with pytest.raises((LeaseLost, EpochConflict)):
        lease.check()


def test_a_cancellation_counts_until_the_change_begins(lease: Lease) -> None:
    lease.cancel()
    with pytest.raises(Cancelled):
        lease.check()
    lease.begin()
    lease.check()


def test_a_gateway_that_stops_gives_back_what_has_not_begun(lease: Lease) -> None:
    running = Running()
    running.add("job", lease)
    running.give_back()
    with pytest.raises(GatewayStopping):
        lease.check()
    lease.begin()
    lease.check()


@pytest.mark.parametrize(
    ("boundary", "ends"), [("after:claim", False), ("before:change", False), ("after:change", True)]
)
def test_what_a_stop_finds_begun_is_ended_and_the_rest_is_given_back(boundary: str, ends: bool) -> None:
    world = GatewayWorld()
    world.at[boundary] = lambda *_: world.engine.running.give_back()
    job = world.run()
    assert job.released == ([] if ends else ["gateway_stopping"])
    assert (world.password() == "Old-Secret-1") is not ends


def test_a_lease_is_renewed_in_the_background(clock: Clock) -> None:
    import threading

    renewed = threading.Event()

    class Quick:
        def renew(self) -> None:
            renewed.set()

    with Lease(Quick(), 0.05, 100.0, monotonic=clock):  # type: ignore[arg-type]
        assert renewed.wait(5)


def link(world: GatewayWorld) -> JobLink:
    return world.client.job(world.client.claim(world.job().uid))


def test_a_call_gives_up_when_the_router_stays_away() -> None:
    world = GatewayWorld()
    found = link(world)
    world.router.cut_before["fence"] = 10_000
    world.client._patience_seconds = 0.3
    with pytest.raises(RouterUnavailable):
        found.fence()


def test_a_refusal_after_a_lost_answer_is_told_apart() -> None:
    world = GatewayWorld()
    found = link(world)
    seq = found.stage(b"x" * 40)
    found.intend(seq)
    world.router.cut_after["promote"] = 1
    with pytest.raises(MaybeDone):
        found.promote(seq, {"login": "accepted"}, b"record", 1)


@pytest.mark.parametrize("action", ["abandon", "steps/start", "steps/finish", "release"])
def test_calls_that_only_we_can_have_made_count_as_done(action: str) -> None:
    from pam_jobs.jobs.wire import StepRow

    world = GatewayWorld()
    found = link(world)
    found.declare_steps([StepRow(key="k", position=1, kind="script", place="gateway", state="pending")])
    seq = found.stage(b"x" * 40)
    world.router.cut_after[action] = 1
    calls = {
        "abandon": lambda: found.abandon(seq, "policy_refused", {"current": "accepted"}),
        "steps/start": lambda: found.start_step("k"),
        "steps/finish": lambda: (found.start_step("k"), found.finish_step(found.new_finish(key="k", state="unknown"))),
        "release": lambda: found.release("busy"),
    }
    calls[action]()
    assert world.router.calls.count(action) == 2


@pytest.mark.parametrize("action", ["abandon", "steps/start", "steps/finish"])
def test_a_lost_call_of_one_who_is_overtaken_meanwhile_counts_as_lost(action: str) -> None:
    """Else two attempts would run the same script: the one whose call was lost, and the one that came after it."""
    from pam_jobs.jobs.wire import StepRow

    world = GatewayWorld()
    found = link(world)
    found.declare_steps([StepRow(key="k", position=1, kind="script", place="gateway", state="pending")])
    seq = found.stage(b"x" * 40)
    calls = {
        "abandon": lambda: found.abandon(seq, "policy_refused", {"current": "accepted"}),
        "steps/start": lambda: found.start_step("k"),
        "steps/finish": lambda: found.finish_step(found.new_finish(key="k", state="unknown")),
    }
    if action == "steps/finish":
        found.start_step("k")
    world.router.cut_after[action] = 1
    world.client._sleep = lambda _: world.router.epochs.update(world.router.epochs.keys())
    with pytest.raises(EpochConflict):
        calls[action]()


def test_a_refusal_without_a_lost_answer_is_a_refusal() -> None:
    world = GatewayWorld()
    found = link(world)
    with pytest.raises(PamJobsError):
        found.abandon(found.stage(b"x" * 40), "policy_refused", {})


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(slots=2, wait_seconds=0.01, monotonic=clock)


def fail(breakers: Breakers, error: PamJobsError, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(type(error)), breakers.slot("t"):
            raise error


def test_three_failures_in_a_row_open_the_breaker(breakers: Breakers) -> None:
    fail(breakers, Unreachable(), 2)
    fail(breakers, EffectUnknown())
    with pytest.raises(BreakerOpen), breakers.slot("t"):
        pass
    with breakers.slot("other"):
        pass


def test_a_target_that_answers_is_forgiven(breakers: Breakers) -> None:
    fail(breakers, Unreachable(), 2)
    breakers.worked("t")
    fail(breakers, Unreachable(), 2)
    with breakers.slot("t"):
        pass


def test_after_a_rest_one_job_may_try(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, Unreachable(), 3)
    clock.now += 31
    with breakers.slot("t"):
        with pytest.raises(BreakerOpen), breakers.slot("t"):
            pass
        breakers.worked("t")
    with breakers.slot("t"):
        pass


def test_a_job_that_is_refused_does_not_let_a_second_one_try(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, Unreachable(), 3)
    clock.now += 31
    with breakers.slot("t"):
        for _ in range(2):
            with pytest.raises(BreakerOpen), breakers.slot("t"):
                pass


def test_a_failed_try_closes_the_door_again(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, Unreachable(), 3)
    clock.now += 31
    fail(breakers, Unreachable())
    with pytest.raises(BreakerOpen), breakers.slot("t"):
        pass


def test_nobody_waits_for_a_target_on_which_every_job_hangs(clock: Clock) -> None:
    breakers = Breakers(slots=1, wait_seconds=30, monotonic=clock)
    with breakers.slot("t"):
        clock.now += 31
        began = time.monotonic()
        with pytest.raises(TargetBusy), breakers.slot("t"):
            pass
        assert time.monotonic() - began < 10


def test_the_machines_clock_counts_the_time_for_which_it_was_suspended() -> None:
    """Else a gateway that wakes up would believe that it still holds its leases."""
    told = "import time; from pam_jobs.clock import SystemClock; print(SystemClock().monotonic() - time.monotonic())"
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *rights, "--time", "--boottime", "7200", "--fork", sys.executable, "-c", told]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) > 7000


def test_no_more_than_so_many_at_a_time(breakers: Breakers) -> None:
    with breakers.slot("t"), breakers.slot("t"):
        with pytest.raises(TargetBusy), breakers.slot("t"):
            pass
        with breakers.slot("other"):
            pass
