"""A random walk over everything that can go wrong, from a seed that is printed: the same seed takes the same steps.

``python -m pytest tests/crash/test_walk.py`` walks for some seconds, ``make crash SEED= MINUTES=`` for as long as asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random  # noqa: TID251 - a seed has to repeat the walk

from connectors.faults import Action, When
from connectors.faults import Fault as LineFault
from tests.crash import judge, table
from tests.crash.disk import fill, is_alive
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
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import PROCESSES, TIMED, World, canary

_MOST_AT_ONCE = 5
_ACTIONS = [action for action in Action if action is not Action.HANG]
_CLOCK_SECONDS = (-20.0, 20.0)  # longer than a lease
_STARTS = ("database", "broker", "router", "control", "beat")


class Walk:
    """Steps of faults; after each of them the judge must be content."""

    def __init__(self, world: World, targets: Sequence[Target], seed: int) -> None:
        self._world = world
        self._targets = targets
        self._random = Random(seed)
        self._is_cut_off = False  # in this step any call to the router may be lost
        self._touched: list[Case] = []  # somebody else was at these accounts in this step
        self._unreachable: set[Target] = set()  # the line to them broke in this step
        self._undo: list[Callable[[], None]] = []
        self.steps = 0
        self.rotations = 0
        self.faults = 0

    def run(self, seconds: float) -> None:
        """Walk for so long, and at least one step."""
        end = time.monotonic() + seconds
        while self.steps == 0 or time.monotonic() < end:
            self.step()

    def step(self) -> None:
        """Let jobs come to random boundaries, let random things happen there, heal them, and judge."""
        world, random = self._world, self._random
        targets = [random.choice(self._targets) for _ in range(random.randint(1, _MOST_AT_ONCE))]
        cases = [Case(target=target, boundary=random.choice(BOUNDARIES)) for target in targets]
        submit(world, cases)
        await_boundaries(world, cases)
        killed = random.sample(PROCESSES, random.choice((0, 1, 1, 1, 2, 2, 3, len(PROCESSES))))
        happenings = random.sample(self._happenings(), random.choice((0, 0, 1, 1, 2)))
        self._is_cut_off = bool({"router", "database"} & set(killed))
        self._touched, self._unreachable, self._undo = [], set(), []
        told = [happen(cases) for happen in happenings]
        told += [self._end(name) for name in killed]
        self.faults += len(told)
        alone = [case.account for case in cases if case not in self._touched]
        if "database" not in killed:
            judge.check_nothing_lost(world, alone)
        if "gateway" not in killed:
            world.orders.release()
        for name in _STARTS:
            if name in killed:
                world.start_one(name)
        self._mend()
        if "gateway" in killed:
            world.start_one("gateway")
        self._judge(cases, told, is_gateway_killed="gateway" in killed)

    def _end(self, name: str) -> str:
        """Kill a process, or let the disk of the database be full until it gives up."""
        world = self._world
        if name != "database" or self._random.random() < 0.7:
            world.kill(name)
            return f"{name} killed"
        fill(world.store.process)
        eventually(lambda: not is_alive(world.store.process), "the database stops for want of space")
        return "disk of the database full"

    def _happenings(self) -> list[Callable[[Sequence[Case]], str]]:
        return [
            self._flush, self._break_target_line, self._break_router_line, self._submit_again, self._edit,
            self._move_clock, self._set_by_hand, self._lock, self._demote,
        ]  # fmt: skip

    def _flush(self, _cases: Sequence[Case]) -> str:
        with self._world.broker.client() as client:
            client.flushall()
        return "broker flushed"

    def _break_target_line(self, cases: Sequence[Case]) -> str:
        action, when = self._random.choice(_ACTIONS), self._random.choice((When.REQUEST_SENT, When.ANSWER_RECEIVED))
        self._unreachable = {case.target for case in cases}
        for target in self._unreachable:
            target.proxies[0].arm(LineFault(action=action, when=when, seconds=0.5))
        return "line to target broken"

    def _break_router_line(self, _cases: Sequence[Case]) -> str:
        action, when = self._random.choice(_ACTIONS), self._random.choice((When.REQUEST_SENT, When.ANSWER_RECEIVED))
        fault = LineFault(action=action, when=when, seconds=0.5, times=self._random.randint(1, 12))
        self._world.router_proxy.arm(fault)
        self._is_cut_off = True
        return "line to router broken"

    def _submit_again(self, cases: Sequence[Case]) -> str:
        """Ask for a verification beside each rotation: it has to wait for it."""
        for case in cases:
            self._world.submit(case.account, "verify")
        return "verification asked for at once"

    def _edit(self, cases: Sequence[Case]) -> str:
        """Edit the record meanwhile: the promotion must not undo it."""
        for case in cases:
            self._world.vault.records.update(case.account.uid, lambda record: record.with_title(canary()))
        return "record edited meanwhile"

    def _move_clock(self, _cases: Sequence[Case]) -> str:
        """Move the control plane's clock: every lease ends at once, or lasts long; and back again when it is mended."""
        seconds = self._random.choice(_CLOCK_SECONDS)
        for name in TIMED:
            self._world.orders.move_clock(name, seconds)
        self._is_cut_off = True
        return "clock moved"

    def _set_by_hand(self, cases: Sequence[Case]) -> str:
        """Set a password behind everybody's back."""
        case = self._random.choice(cases)
        by_hand = canary()
        self._world.secrets.add(by_hand)
        case.target.set_password(case.account.login, by_hand)
        self._touched.append(case)
        return "password set by hand"

    def _lock(self, cases: Sequence[Case]) -> str:
        case = self._random.choice(cases)
        case.target.lock(case.account.login, is_locked=True)
        self._undo.append(lambda: case.target.lock(case.account.login, is_locked=False))
        self._touched.append(case)
        return "account locked"

    def _demote(self, cases: Sequence[Case]) -> str:
        target = self._random.choice(cases).target
        target.demote_admin(is_demoted=True)
        self._undo.append(lambda: target.demote_admin(is_demoted=False))
        self._touched += [case for case in cases if case.target is target]
        return "admin demoted"

    def _mend(self) -> None:
        for target in self._targets:
            target.proxies[0].disarm()
        self._world.router_proxy.disarm()
        for name in TIMED:
            self._world.orders.move_clock(name, 0)
        for undo in self._undo:
            undo()

    def _judge(self, cases: Sequence[Case], told: Sequence[str], *, is_gateway_killed: bool) -> None:
        world = self._world
        what = " and ".join(sorted(told)) or "nothing"
        fault = Fault(
            name=what, strike=nothing, heal=nothing, cuts_gateway=is_gateway_killed, loses_calls=self._is_cut_off
        )
        ends = judge.ended(world, [case.job_uid for case in cases])
        accounts = [case.account for case in cases]
        outcomes = {case: self._outcome(case, ends[case.job_uid], fault) for case in cases}
        judge.check_current(world, accounts)
        judge.check_story(world, accounts)
        for case, outcome in outcomes.items():
            end = ends[case.job_uid]
            assert end.attempts <= MOST_ATTEMPTS + 2, end
            where = f"{what} at {case.boundary}"
            table.add("random walk", case.target.name, outcome, where=where, attempts=end.attempts)
        self.steps += 1
        self.rotations += len(cases)
        world.give_back(accounts)

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
        job_uid = self._world.submit(case.account, kind)
        settled = judge.ended(self._world, [job_uid])[job_uid]
        assert settled.state == "succeeded", f"{kind} after {what}: {settled}"


def nothing(_world: World) -> None:
    """The walk strikes and heals by itself."""
