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
from tests.crash.rounds import BOUNDARIES, MOST_ATTEMPTS, Case, await_boundaries, submit
from tests.crash.targets import Target
from tests.crash.world import PROCESSES, World, canary

_MOST_AT_ONCE = 5
_ACTIONS = [action for action in Action if action is not Action.HANG]


class Walk:
    """Steps of faults; after each of them the judge must be content."""

    def __init__(self, world: World, targets: Sequence[Target], seed: int) -> None:
        self._world = world
        self._targets = targets
        self._random = Random(seed)
        self.steps = 0
        self.rotations = 0

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
        accounts = [case.account for case in cases]
        killed = random.sample(PROCESSES, random.choice((0, 1, 1, 1, 2, 2, 3, len(PROCESSES))))
        happenings = random.sample(self._happenings(), random.choice((0, 0, 1, 1, 2)))
        told = [happen(cases) for happen in happenings]
        for name in killed:
            world.kill(name)
            told.append(f"{name} killed")
        if "database" not in killed:
            judge.check_nothing_lost(world, accounts)
        if "gateway" not in killed:
            world.orders.release()
        order = [name for name in ("database", "broker", "router", "control", "beat") if name in killed]
        for name in order:
            world.start_one(name)
        self._mend()
        if "gateway" in killed:
            world.start_one("gateway")
        self._judge(cases, told)

    def _happenings(self) -> list[Callable[[Sequence[Case]], str]]:
        return [self._flush, self._break_target_line, self._break_router_line, self._submit_again, self._edit]

    def _flush(self, _cases: Sequence[Case]) -> str:
        with self._world.broker.client() as client:
            client.flushall()
        return "broker flushed"

    def _break_target_line(self, cases: Sequence[Case]) -> str:
        action, when = self._random.choice(_ACTIONS), self._random.choice((When.REQUEST_SENT, When.ANSWER_RECEIVED))
        for target in {case.target for case in cases}:
            target.proxies[0].arm(LineFault(action=action, when=when, seconds=0.5))
        return "line to target broken"

    def _break_router_line(self, _cases: Sequence[Case]) -> str:
        action, when = self._random.choice(_ACTIONS), self._random.choice((When.REQUEST_SENT, When.ANSWER_RECEIVED))
        fault = LineFault(action=action, when=when, seconds=0.5, times=self._random.randint(1, 12))
        self._world.router_proxy.arm(fault)
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

    def _mend(self) -> None:
        for target in self._targets:
            target.proxies[0].disarm()
        self._world.router_proxy.disarm()

    def _judge(self, cases: Sequence[Case], told: Sequence[str]) -> None:
        world = self._world
        ends = judge.ended(world, [case.job_uid for case in cases])
        accounts = [case.account for case in cases]
        judge.check_current(world, accounts)
        judge.check_story(world, accounts)
        what = " and ".join(sorted(told)) or "nothing"
        for case in cases:
            end = ends[case.job_uid]
            judge.check_runs(case.account, case.runs, f"{what} at {case.boundary}")
            is_reported = (end.state, end.cause) in {("succeeded", None), ("failed", "scripts_unknown")}
            assert is_reported, f"{what} at {case.boundary}: {end}"
            assert end.attempts <= MOST_ATTEMPTS + 2, end
            table.add(
                "random walk", case.target.name, "rotated", where=f"{what} at {case.boundary}", attempts=end.attempts
            )
        self.steps += 1
        self.rotations += len(cases)
        world.give_back(accounts)
