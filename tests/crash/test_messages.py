"""Messages that come twice, never, in the wrong order, too late or from nobody; many clients; a system that starts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pam_jobs.app import queue_name
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import TokenSource
from pam_jobs.client.vault import VaultClient
from tests.crash import judge, table
from tests.crash.forged import forgeries
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import CONTROL, Account, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


class Bench:
    """Some accounts on one target, and the queue between router and gateway."""

    def __init__(self, world: World, target: Target, count: int = 5) -> None:
        self.world = world
        self.target = target
        self.accounts: list[Account] = world.accounts(target, count)
        self._before = {account.uid: (account.runs(), self._staged(account)) for account in self.accounts}

    @property
    def queue(self) -> str:
        return queue_name(self.world.site.gateway_uid)

    def submit(self, kind: str = "rotate") -> list[str]:
        return [self.world.submit(account, kind) for account in self.accounts]

    def waiting(self, count: int) -> list[bytes]:
        """Return the messages in the queue once there are so many."""
        with self.world.broker.client() as client:
            eventually(lambda: client.llen(self.queue) >= count, f"{count} messages in the queue")
            return list(client.lrange(self.queue, 0, -1))

    def push(self, *messages: bytes) -> None:
        """Put messages where the gateway takes the next one."""
        with self.world.broker.client() as client:
            for message in messages:
                client.rpush(self.queue, message)

    def await_empty(self) -> None:
        with self.world.broker.client() as client:
            eventually(lambda: client.llen(self.queue) == 0, "the gateway takes every message")

    def judge(self, fault: str, *, rotations: int = 1, jobs: Sequence[str] = ()) -> None:
        """Check that each record was rotated so often and its script ran so often, and note it."""
        ends = judge.ended(self.world, list(jobs))
        assert {end.state for end in ends.values()} <= {"succeeded"}, ends
        judge.check_current(self.world, self.accounts)
        for account in self.accounts:
            runs, staged = self._before[account.uid]
            assert (account.runs() - runs, self._staged(account) - staged) == (rotations, rotations), fault
            attempts = max((end.attempts for end in ends.values()), default=1)
            table.add(fault, self.target.name, "rotated once", where="queue", attempts=attempts)
        judge.check_story(self.world, self.accounts)
        self.world.give_back(self.accounts)

    def _staged(self, account: Account) -> int:
        return len(judge.snapshot(self.world, [account])[account.uid])


@pytest.fixture
def bench(world: World, crash_targets: Sequence[Target]) -> Bench:
    """Accounts of the target that is quick to log in to: messages know nothing of targets."""
    return Bench(world, next(target for target in crash_targets if not target.is_slow))


def test_redelivered_messages_change_nothing(bench: Bench) -> None:
    world = bench.world
    world.kill("gateway")
    for account in bench.accounts:
        world.orders.stop_at(account.uid, "after:change")
    jobs = bench.submit()
    messages = bench.waiting(len(jobs))
    world.start_one("gateway")
    wanted = {account.uid for account in bench.accounts}
    eventually(lambda: wanted <= world.orders.reached(), "every job stands after its change")
    bench.push(*messages)  # the same again, to the same gateway, while it works
    eventually(lambda: _refused(world, "replayed") >= len(messages), "the repetitions are refused")
    with world.second_gateway() as second:  # and to one that has never seen them, whichever of the two takes them

        def is_refused() -> bool:
            bench.push(*messages)
            return sum(line.get("event") == "not_claimed" for line in second.lines()) >= len(messages)

        eventually(is_refused, "another gateway is refused the jobs")
        world.orders.release()
        judge.ended(world, jobs)
    bench.push(*messages)
    bench.await_empty()
    bench.judge("message redelivered", jobs=jobs)


def test_lost_messages_are_sent_again(bench: Bench) -> None:
    world = bench.world
    world.kill("gateway")
    jobs = bench.submit()
    bench.waiting(len(jobs))
    with world.broker.client() as client:
        client.flushall()
    world.start_one("gateway")
    bench.judge("message lost, broker flushed", jobs=jobs)


def test_the_broker_is_emptied_while_jobs_run(bench: Bench) -> None:
    world = bench.world
    for account in bench.accounts:
        world.orders.stop_at(account.uid, "after:intend")
    jobs = bench.submit()
    wanted = {account.uid for account in bench.accounts}
    eventually(lambda: wanted <= world.orders.reached(), "every job stands before its change")
    with world.broker.client() as client:
        client.flushall()
    world.kill("gateway")
    world.start_one("gateway")
    bench.judge("broker flushed under running jobs, gateway killed", jobs=jobs)


def test_reordered_messages(bench: Bench) -> None:
    world = bench.world
    world.kill("gateway")
    jobs = bench.submit() + bench.submit("verify")
    messages = bench.waiting(len(jobs))
    with world.broker.client() as client:
        client.delete(bench.queue)
        client.rpush(bench.queue, *reversed(messages))
    world.start_one("gateway")
    bench.judge("messages reordered", jobs=jobs)


def test_expired_and_forged_messages_run_nothing(bench: Bench) -> None:
    world = bench.world
    world.kill("gateway")
    jobs = bench.submit()
    messages = bench.waiting(len(jobs))
    with world.broker.client() as client:
        client.delete(bench.queue)
    bench.push(*forgeries(messages, bench.queue, world.keys.signing))
    world.gateway.start()
    eventually(lambda: _refused(world, "expired") >= len(messages), "expired messages are refused")
    eventually(lambda: _refused(world, "unknown_key") >= len(messages), "messages of an unknown key are refused")
    eventually(lambda: _refused(world, "bad_signature") >= len(messages), "another queue's messages are refused")
    bench.judge("message expired or forged", jobs=jobs)  # the reconciler has sent good ones meanwhile


def test_eight_clients_rotate_one_record_at_once(bench: Bench) -> None:
    world, account = bench.world, bench.accounts[0]
    world.give_back(bench.accounts[1:])
    before = judge.snapshot(world, [account])[account.uid]
    clients = [_client(world) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda client: str(client.jobs.submit("rotate", account.uid)["uid"]), clients))
    ends = judge.ended(world, sorted(set(jobs)))
    assert {end.state for end in ends.values()} == {"succeeded"}
    judge.check_current(world, [account])
    rotated = len(judge.snapshot(world, [account])[account.uid]) - len(before)
    assert 1 <= rotated == len(set(jobs)) <= 2, "one rotation, and at most one more that was asked for after it began"
    judge.check_story(world, [account])
    table.add("eight clients at once", bench.target.name, "rotated once for all", where="API")
    world.give_back([account])


def test_rotation_during_start(bench: Bench) -> None:
    world = bench.world
    world.kill("gateway")
    world.gateway.begin()
    jobs = bench.submit()
    bench.judge("rotation asked for while the gateway starts", jobs=jobs)


def test_everything_is_killed_at_once(bench: Bench) -> None:
    world = bench.world
    boundaries = ("after:stage", "after:intend", "after:change", "before:promote", "after:declare")
    for account, boundary in zip(bench.accounts, boundaries, strict=True):
        world.orders.stop_at(account.uid, boundary)
    jobs = bench.submit()
    wanted = {account.uid for account in bench.accounts}
    eventually(lambda: wanted <= world.orders.reached(), "every job stands at its boundary")
    for name in ("gateway", *reversed(CONTROL)):
        world.kill(name)
    for name in CONTROL:
        world.start_one(name)
    world.start_one("gateway")
    bench.judge("everything killed at once", jobs=jobs)


def _client(world: World) -> VaultClient:
    session = world.vault.session
    return VaultClient(RouterClient(world.url, ca=world.tls.ca, token=TokenSource(session)), session)


def _refused(world: World, reason: str) -> int:
    lines = world.gateway.lines()
    return sum(line.get("event") == "message_refused" and line.get("reason") == reason for line in lines)
