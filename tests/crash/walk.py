"""The random walk: a state machine whose rules are everything that can go wrong, over one running system.

Hypothesis chooses the rules and their arguments from a seed, so the same seed takes the same steps. A system of processes
cannot be set back to be run again: the first thing that does not hold ends the walk, with the steps that led to it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from connectors.faults import Action, When
from connectors.faults import Fault as LineFault
from pam_jobs.app import queue_name
from pam_jobs.jobs.wire import LOCKOUT_BUDGET
from tests.crash import judge, table
from tests.crash.disk import fill, is_alive
from tests.crash.forged import forgeries
from tests.crash.rounds import (
    BOUNDARIES,
    MOST_ATTEMPTS,
    ROTATED,
    Case,
    Fault,
    await_boundaries,
    outcome_of,
    submit,
)
from tests.crash.targets import NAMES, Linux, Target
from tests.crash.waiting import eventually
from tests.crash.world import PROCESSES, TIMED, World, canary

_MOST_FAULTS = 5  # at once
_CLOCK_SECONDS = (-20.0, 20.0)  # longer than a lease
_HOURS = 3 * 3600.0
_STARTS = ("database", "broker", "router", "control", "beat")
_AS_SENT = "messages as they were sent"
_cases = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(BOUNDARIES)),
    min_size=1, max_size=5,
)  # fmt: skip
_FORGED = "messages expired or forged"
_ASKED = "asked for by eight clients at once"
_CLIENTS = 8
_messages = st.sampled_from(
    (*[_AS_SENT] * 9, "messages sent twice", "messages in reverse order", "messages lost", _FORGED, _ASKED)
)
_actions = st.sampled_from(list(Action))
_moments = st.sampled_from((When.REQUEST_SENT, When.ANSWER_RECEIVED))
_which = st.integers(0, 99)  # of the cases


class TimeIsUp(BaseException):
    """Ends the walk between two rounds; Hypothesis lets it pass."""


class Fell(BaseException):
    """Something did not hold. Hypothesis lets it pass, and does not try to repeat it."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(kw_only=True)
class Course:
    """What the examples of a walk share."""

    world: World
    targets: Sequence[Target]
    until: float = 0.0
    story: list[str] = field(default_factory=list)  # the steps of the example under way
    rounds: int = 0
    rotations: int = 0
    faults: int = 0


def _once(function: Callable[..., None]) -> Callable[..., None]:
    """Let the first failure of a step be the last thing that happens."""

    @functools.wraps(function)
    def step(self: Walk, **arguments: Any) -> None:
        try:
            function(self, **arguments)
        except HypothesisException:
            raise
        except Exception as error:
            self.has_fallen = True
            raise Fell(error) from error

    return step


def step(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule of the machine."""
    return lambda function: rule(**arguments)(_once(function))


_stands = precondition(lambda self: bool(self.cases))
_may_strike = precondition(lambda self: bool(self.cases) and len(self.told) < _MOST_FAULTS)


class Walk(RuleBasedStateMachine):
    """Jobs come to random boundaries, random things happen while they stand there, then all is mended and judged."""

    course: ClassVar[Course]

    def __init__(self) -> None:
        super().__init__()
        self.cases: list[Case] = []  # of the round under way; they stand at their boundaries
        self.told: list[str] = []  # its faults
        self.killed: set[str] = set()
        self.has_fallen = False
        self._is_cut_off = False  # any call to the router may be lost
        self._touched: list[Case] = []  # somebody else was at these accounts
        self._unreachable: set[Target] = set()  # the line to them broke
        self._undo = ExitStack()
        self.course.story.clear()

    @property
    def world(self) -> World:
        return self.course.world

    # rounds

    @initialize(number=st.integers(1, 2**32), cases=_cases, messages=_messages)
    @_once
    def begin(self, number: int, cases: list[tuple[str, str]], messages: str) -> None:
        assume(number != 1)  # the simplest example comes first whatever the seed; it shows nothing
        self._bring(cases, messages)

    @precondition(lambda self: not self.cases)
    @step(cases=_cases, messages=_messages)
    def rotate(self, cases: list[tuple[str, str]], messages: str) -> None:
        self._bring(cases, messages)

    @_stands
    @step()
    def go_on(self) -> None:
        """Mend everything, follow each job to its end, and judge."""
        self._finish()

    @invariant()
    @_once
    def some_value_of_the_ledger_logs_in(self) -> None:
        if self.cases and "database" not in self.killed:
            alone = [case.account for case in self.cases if case not in self._touched]
            judge.check_nothing_lost(self.world, alone)

    def teardown(self) -> None:
        if self.cases and not self.has_fallen:
            _once(Walk._finish)(self)

    # faults

    @_may_strike
    @step(name=st.sampled_from(PROCESSES))
    def kill(self, name: str) -> None:
        if name not in self.killed:
            self.world.kill(name)
            self.killed.add(name)
            self._tell(f"{name} killed")

    @_may_strike
    @step()
    def fill_the_databases_disk(self) -> None:
        if "database" not in self.killed:
            self.killed.add("database")
            self._tell("disk of the database full")
            fill(self.world.store.process)
            eventually(lambda: not is_alive(self.world.store.process), "the database stops for want of space")

    @_may_strike
    @step()
    def stop_the_gateway(self) -> None:
        """Stop its threads, as a suspended machine does; they go on when everything is mended."""
        if "gateway" not in self.killed:
            self.world.gateway.pause()
            self._undo.callback(self.world.gateway.resume)
            self._tell("gateway stopped for a while")

    @_may_strike
    @step()
    def flush_the_broker(self) -> None:
        if "broker" not in self.killed:
            with self.world.broker.client() as client:
                client.flushall()
            self._tell("broker flushed")

    @_may_strike
    @step(action=_actions, when=_moments)
    def break_the_line_to_the_targets(self, action: Action, when: When) -> None:
        self._unreachable = {case.target for case in self.cases}
        for target in self._unreachable:
            target.proxies[0].arm(LineFault(action=action, when=when, seconds=0.5))
            self._undo.callback(target.proxies[0].mend)
        self._tell("line to target broken")

    @_may_strike
    @step(action=_actions, when=_moments, times=st.integers(1, 12))
    def break_the_line_to_the_router(self, action: Action, when: When, times: int) -> None:
        self.world.router_proxy.arm(LineFault(action=action, when=when, seconds=0.5, times=times))
        self._undo.callback(self.world.router_proxy.mend)
        self._is_cut_off = True
        self._tell("line to router broken")

    @_may_strike
    @step(seconds=st.sampled_from(_CLOCK_SECONDS))
    def move_the_control_planes_clock(self, seconds: float) -> None:
        """Every lease ends at once, or lasts long; and back again when it is mended."""
        self._move_clock(TIMED, seconds)
        self._tell("clock moved")

    @_may_strike
    @step(seconds=st.sampled_from((-_HOURS, _HOURS)))
    def set_the_gateways_clock_wrong(self, seconds: float) -> None:
        """The router believes none of its calls."""
        self._move_clock(["gateway"], seconds)
        self._tell("clock of the gateway wrong")

    @_may_strike
    @step()
    def edit_the_records(self) -> None:
        """The promotion must not undo it."""
        if not {"router", "database"} & self.killed:
            for case in self.cases:
                self.world.vault.records.update(case.account.uid, lambda record: record.with_title(canary()))
            self._tell("record edited meanwhile")

    @_may_strike
    @step()
    def ask_for_a_verification(self) -> None:
        """It has to wait for the rotation."""
        if not {"router", "database"} & self.killed:
            for case in self.cases:
                self.world.submit(case.account, "verify")
            self._tell("verification asked for at once")

    @_may_strike
    @step(which=_which)
    def set_a_password_by_hand(self, which: int) -> None:
        case = self._touch(which)
        by_hand = canary()
        self.world.secrets.add(by_hand)
        case.target.set_password(case.account.login, by_hand)
        self._tell("password set by hand")

    @_may_strike
    @step(which=_which)
    def restore_an_older_password(self, which: int) -> None:
        if "database" not in self.killed:
            case = self._touch(which)
            kept = judge.ledger(self.world, [case.account])[case.account.uid]
            case.target.set_password(case.account.login, kept[-1].password)
            self._tell("older password restored")

    @_may_strike
    @step(which=_which)
    def lock_an_account(self, which: int) -> None:
        if not self.cases[which % len(self.cases)].target.can_lock:
            return
        case = self._touch(which)
        case.target.lock(case.account.login, is_locked=True)
        self._undo.callback(case.target.lock, case.account.login, is_locked=False)
        self._tell("account locked")

    @_may_strike
    @step(which=_which)
    def demote_an_admin(self, which: int) -> None:
        target = self.cases[which % len(self.cases)].target
        name = f"admin of {target.name} demoted"
        if name not in self.told:
            target.demote_admin(is_demoted=True)
            self._undo.callback(target.demote_admin, is_demoted=False)
            self._touched += [case for case in self.cases if case.target is target]
            self._tell(name)

    @_may_strike
    @step()
    def refuse_every_second_password(self) -> None:
        name = "every second password refused"
        linux = next((case.target for case in self.cases if isinstance(case.target, Linux)), None)
        if linux is not None and name not in self.told:
            self._undo.enter_context(linux.refusing_every_second())
            self._tell(name)

    # how

    def _bring(self, cases: Sequence[tuple[str, str]], messages: str) -> None:
        """Let a job come to each boundary."""
        course, world = self.course, self.world
        if time.monotonic() >= course.until and course.rounds:
            raise TimeIsUp
        named = {target.name: target for target in course.targets}
        made = [Case(target=named[name], boundary=boundary) for name, boundary in cases]
        course.story.append("rotations come to " + ", ".join(f"{name} {boundary}" for name, boundary in cases))
        self.told, self.killed = [], set()
        self._is_cut_off, self._touched, self._unreachable = False, [], set()
        if messages != _AS_SENT:
            world.kill("gateway")
        submit(world, made)
        if messages != _AS_SENT:
            if messages == _ASKED:
                self._ask_again(made)
            else:
                self._meddle(messages, len(made))
            world.start_one("gateway")
        await_boundaries(world, made)
        self.cases = made

    def _meddle(self, how: str, count: int) -> None:
        queue = queue_name(self.world.site.gateway_uid)
        with self.world.broker.client() as client:
            eventually(lambda: client.llen(queue) >= count, f"{count} messages in the queue")
            found = client.lrange(queue, 0, -1)
            client.delete(queue)
            again = {
                "messages sent twice": [*found, *found],
                "messages in reverse order": found[::-1],
                _FORGED: forgeries(found, queue, self.world.keys.signing),
            }.get(how, [])
            if again:
                client.rpush(queue, *again)
        self._tell(how)

    def _ask_again(self, cases: Sequence[Case]) -> None:
        """Let seven others ask for the rotations that nobody has begun: they join the open ones."""
        wanted = [case for case in cases for _ in range(_CLIENTS - 1)]
        with ThreadPoolExecutor(_CLIENTS) as pool:
            jobs = list(pool.map(lambda case: self.world.submit(case.account), wanted))
        assert jobs == [case.job_uid for case in wanted], "a second request makes a rotation of its own"
        self._tell(_ASKED)

    def _tell(self, fault: str) -> None:
        self.told.append(fault)
        self.course.story.append(fault)
        self.course.faults += 1

    def _touch(self, which: int) -> Case:
        case = self.cases[which % len(self.cases)]
        self._touched.append(case)
        return case

    def _move_clock(self, names: Sequence[str], seconds: float) -> None:
        for name in names:
            self.world.orders.move_clock(name, seconds)
            self._undo.callback(self.world.orders.move_clock, name, 0)
        self._is_cut_off = True

    def _finish(self) -> None:
        world, cases = self.world, self.cases
        self.course.story.append("go on")
        if "gateway" not in self.killed:
            world.orders.release()
        for name in _STARTS:
            if name in self.killed:
                world.start_one(name)
        self._undo.close()
        if "gateway" in self.killed:
            world.start_one("gateway")
        self._judge(cases)
        self.cases = []
        world.give_back([case.account for case in cases])

    def _judge(self, cases: Sequence[Case]) -> None:
        world = self.world
        what = " and ".join(sorted(self.told)) or "nothing"
        fault = Fault(
            name=what, strike=_nothing, heal=_nothing, cuts_gateway="gateway" in self.killed,
            loses_calls=self._is_cut_off or bool({"router", "database"} & self.killed),
            ends_leases="gateway stopped for a while" in self.told,
        )  # fmt: skip
        ends = judge.ended(world, [case.job_uid for case in cases])
        outcomes = {case: self._outcome(case, ends[case.job_uid], fault) for case in cases}
        accounts = [case.account for case in cases]
        judge.check_current(world, accounts)
        judge.check_story(world, accounts)
        for case, outcome in outcomes.items():
            end = ends[case.job_uid]
            assert end.attempts <= MOST_ATTEMPTS + 2, end
            where = f"{what} at {case.boundary}"
            table.add("random walk", case.target.name, outcome, where=where, attempts=end.attempts)
        self.course.rounds += 1
        self.course.rotations += len(cases)

    def _outcome(self, case: Case, end: judge.JobRow, fault: Fault) -> str:
        """Judge one job's end; where somebody else was at the account, a human is told and puts it right."""
        what = f"{fault.name} at {case.boundary}: {end}"
        runs = judge.check_runs(case.account, case.runs, what)
        if case.target in self._unreachable and (end.state, end.cause, runs) == ("failed", "unreachable", 0):
            self._settle(case, "rotate", what)
            return "told, nothing changed; then rotated"
        if case not in self._touched:
            return outcome_of(end, runs, what, may_cut_script=fault.may_cut_script(case.boundary))
        assert end.state == "succeeded" or end.cause is not None, f"ended without a reason: {what}"
        self._settle(case, "reconcile", what)
        return "told, then put right" if end.state != "succeeded" else ROTATED

    def _settle(self, case: Case, kind: str, what: str) -> None:
        settled = self._ask(case, kind)
        if (settled.state, settled.cause) == (
            "waiting_human",
            LOCKOUT_BUDGET,
        ):  # told; later a login may be tried again
            self.world.let_refusals_age(case.account)
            settled = self._ask(case, kind)
        assert settled.state == "succeeded", f"{kind} after {what}: {settled}"

    def _ask(self, case: Case, kind: str) -> judge.JobRow:
        job_uid = self.world.submit(case.account, kind)
        return judge.ended(self.world, [job_uid])[job_uid]


def _nothing(_world: World) -> None:
    """The walk strikes and heals by itself."""
