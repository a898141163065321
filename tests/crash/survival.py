"""Ten thousand rotations by schedule while beats and gateways are killed in turn, each of them done exactly once.

``python -m tests.crash.survival --jobs 10000`` is the long form; ``test_survival.py`` runs a short one.

Two beats make the jobs, three instances of one gateway work on them. After every so many jobs one of the five is ended by
SIGKILL, in turn, and started again. Nothing of the product is asked what happened: the target's own log says how often
each role was changed, a script's own file how often it ran.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Final

from sqlalchemy import func, select, update

from deploy.lab import postgres
from pam_jobs.client.pam import RotationChange
from pam_jobs.db.tables import AuditEvent, CredentialVersion, Job, Schedule
from pam_jobs.jobs.states import OPEN
from tests.benchmarks.usage import conditions
from tests.crash import judge
from tests.crash.targets import Postgresql
from tests.crash.world import Account, Gateway, World
from tests.support.fleet import cron

__all__ = ["Survival", "survive", "survive_alone"]

BEATS: Final = ("beat", "beat-2")
GATEWAYS: Final = ("gateway", "gateway-2", "gateway-3")
_YEARLY: Final = cron("0 4 1 1 *")
_LOOK_SECONDS: Final = 0.3


@dataclass(kw_only=True)
class Survival:
    """What a run came to."""

    jobs: int
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    taken_over: int = 0  # jobs that a second attempt brought to their end
    most_attempts: int = 0
    leases_lost: int = 0  # that the control plane took back
    scripts: int = 0  # that ran
    scripts_unknown: int = 0  # whose end nobody could tell, since their gateway was killed under them

    def sentence(self) -> str:
        """Return the counts."""
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.jobs} jobs in {self.seconds:.0f} s, each made once and done once; killed {self.kills.total()} times"
            f" ({kills}); {self.taken_over} jobs were brought to their end by a later attempt (at most"
            f" {self.most_attempts} attempts, {self.leases_lost} leases taken back); {self.scripts} scripts ran, none"
            f" twice, {self.scripts_unknown} reported as unknown"
        )


def survive(world: World, target: Postgresql, *, accounts: int, rounds: int, kill_every: int) -> Survival:
    """Rotate every account so many times by its schedule, killing one process after every so many jobs.

    Args:
        world: with one beat and one gateway; further ones are started, and are gone afterwards.
        target: a server that logs every statement.
        accounts: roles of it.
        rounds: rotations of each role.
        kill_every: jobs between two kills.

    Raises:
        AssertionError: a job was not made, made twice, not done, or done twice.
    """
    taken = world.accounts(target, accounts)
    changes, runs = target.changes(), {account.uid: account.runs() for account in taken}
    versions = _versions(world, taken)
    _schedule(world, taken, _YEARLY)
    further = [Gateway(world, name) for name in GATEWAYS[1:]]
    found = Survival(jobs=accounts * rounds)
    began, begin = datetime.now(UTC), time.monotonic()
    try:
        for gateway in further:
            gateway.start()
        world.start_one(BEATS[1])
        issued = _drive(
            world, taken, rounds, kill_every, found, {each.name: each for each in (world.gateway, *further)}
        )
    finally:
        for gateway in further:
            gateway.kill()
        world.kill(BEATS[1])
        _schedule(world, taken, [])
    found.seconds = time.monotonic() - begin
    said = _check_jobs(world, issued, found)
    made = target.changes() - changes
    wrong = {account.login: made[account.login] for account in taken if made[account.login] != rounds}
    assert not wrong, f"the server was told to change these roles so often, instead of {rounds} times: {wrong}"
    for uid, count in _versions(world, taken).items():
        assert count - versions[uid] == rounds, f"the ledger has {count - versions[uid]} new values of {uid}"
    ran = Counter({account.uid: account.runs() - runs[account.uid] for account in taken})
    _check_scripts(taken, ran, said, found)
    found.leases_lost = _events(world, "pam_job_lease_lost", began)
    judge.check_current(world, taken)
    world.give_back(taken)
    return found


def survive_alone(*, accounts: int, rounds: int, kill_every: int) -> Survival:
    """Do as ``survive`` in a world of its own, on a server that has a connection for every job of every gateway."""
    with tempfile.TemporaryDirectory(prefix="pam-survival-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its cluster
        # only what changes a role: ten thousand rotations say a lot otherwise
        server = postgres.start(folder / "target", settings={"log_statement": "ddl", "max_connections": "200"})
        target = Postgresql(server)
        world = World(folder / "world", [target], concurrency=16)
        try:
            world.start()
            return survive(world, target, accounts=accounts, rounds=rounds, kill_every=kill_every)
        finally:
            world.stop()
            target.close()
            server.stop()


def _drive(
    world: World,
    accounts: Sequence[Account],
    rounds: int,
    kill_every: int,
    found: Survival,
    gateways: dict[str, Gateway],
) -> dict[str, list[datetime]]:
    """Let each account fall due as soon as its last job has ended, and return when each was due."""
    issued: dict[str, list[datetime]] = {account.uid: [] for account in accounts}
    victims = cycle(name for pair in zip(GATEWAYS, (*BEATS, BEATS[0]), strict=True) for name in pair)
    next_kill, dead = kill_every, ""
    stuck_at, ended_before = time.monotonic() + 300, 0
    while True:
        free = _free(world, accounts)
        ended = sum(len(issued[uid]) for uid in issued) - (len(accounts) - len(free))
        if ended != ended_before:
            stuck_at, ended_before = time.monotonic() + 300, ended
        assert time.monotonic() < stuck_at, f"{ended} of {found.jobs} jobs ended, and no further one in five minutes"
        if dead:
            _revive(world, gateways, dead)
            dead = ""
        if ended >= next_kill and ended < found.jobs:
            dead = next(victims)
            found.kills[dead] += 1
            gateways[dead].kill() if dead in gateways else world.kill(dead)
            next_kill = ended + kill_every
        if ended >= found.jobs:
            return issued
        if due := [uid for uid in free if len(issued[uid]) < rounds]:
            now = _make_due(world, due)
            for uid in due:
                issued[uid].append(now)
        time.sleep(_LOOK_SECONDS)


def _revive(world: World, gateways: dict[str, Gateway], name: str) -> None:
    if name in gateways:
        gateways[name].begin()  # the others work on; nobody waits for it
    else:
        world.start_one(name)


def _free(world: World, accounts: Sequence[Account]) -> list[str]:
    """Return the accounts whose last due run has been made and has ended."""
    uids = [account.uid for account in accounts]
    later = datetime.now(UTC) + timedelta(hours=1)
    with world.database.transaction(read_only=True) as session:
        # the schedules first: a run that is made between the two looks is not free in either
        moved = set(session.scalars(select(Schedule.subject_uid).where(Schedule.next_run_at > later)))
        busy = set(session.scalars(select(Job.record_uid).where(Job.record_uid.in_(uids), Job.state.in_(OPEN))))
    return [uid for uid in uids if uid in moved and uid not in busy]


def _make_due(world: World, uids: Sequence[str]) -> datetime:
    now = datetime.now(UTC)
    with world.database.transaction() as session:
        session.execute(update(Schedule).where(Schedule.subject_uid.in_(uids)).values(next_run_at=now))
    return now


def _schedule(world: World, accounts: Sequence[Account], schedule: list[dict[str, object]]) -> None:
    for account in accounts:
        change = RotationChange(
            configuration_uid=world.site.configuration_uid, resource_uid=account.target.resource, admin_uid=None,
            profile="general", schedule=schedule, inherits_schedule=False, complexity=None, disabled=False,
            revision=None,
        )  # fmt: skip
        world.vault.pam.set_rotation(world.vault.records.get(account.uid), change)


def _check_jobs(world: World, issued: dict[str, list[datetime]], found: Survival) -> Counter[str]:
    """See that every due run has one job, which changed its credential; return how many scripts of each are said done."""
    wanted = {(uid, due) for uid, times in issued.items() for due in times}
    assert len(wanted) == found.jobs
    query = select(Job).where(Job.record_uid.in_(issued))
    with world.database.transaction(read_only=True) as session:
        rows = [row for row in session.scalars(query) if (row.record_uid, row.due_at) in wanted]
    made = Counter((row.record_uid, row.due_at) for row in rows)
    assert set(made) == wanted, f"{len(wanted - set(made))} due runs have no job"
    assert made.total() == len(wanted), "a due run has more than one job"
    ends = Counter((str(row.state), row.status, row.cause) for row in rows)
    assert set(ends) <= {("succeeded", "ok", None), ("failed", "ok", "scripts_unknown")}, ends
    found.taken_over = sum(1 for row in rows if row.attempts > 1)
    found.most_attempts = max(row.attempts for row in rows)
    return Counter(str(row.record_uid) for row in rows if row.post_rotation_status == "ok")


def _check_scripts(accounts: Sequence[Account], ran: Counter[str], said: Counter[str], found: Survival) -> None:
    """See that no job's script ran twice, and that each which is said to have succeeded did run."""
    most = found.jobs // len(accounts)
    for account in accounts:
        if ran[account.uid] > most:
            raise judge.ScriptRanTwice(f"{account.login}: {ran[account.uid]} runs of {most} jobs")
        if ran[account.uid] < said[account.uid]:
            raise judge.ScriptNotRun(f"{account.login}: {ran[account.uid]} runs, {said[account.uid]} said done")
    found.scripts, found.scripts_unknown = ran.total(), found.jobs - said.total()


def _versions(world: World, accounts: Sequence[Account]) -> dict[str, int]:
    query = (
        select(CredentialVersion.record_uid, func.max(CredentialVersion.seq))
        .where(CredentialVersion.record_uid.in_([account.uid for account in accounts]))
        .group_by(CredentialVersion.record_uid)
    )
    with world.database.transaction(read_only=True) as session:
        return {uid: highest for uid, highest in session.execute(query)}  # noqa: C416 # rows are no pairs to mypy


def _events(world: World, name: str, since: datetime) -> int:
    query = select(func.count()).where(AuditEvent.event == name, AuditEvent.created_at >= since)
    with world.database.transaction(read_only=True) as session:
        return session.scalar(query) or 0


def main() -> int:
    """Run the long form and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--roles", type=int, default=100)
    parser.add_argument("--kill-every", type=int, default=100, help="jobs between two kills")
    wanted = parser.parse_args()
    rounds = -(-wanted.jobs // wanted.roles)
    found = survive_alone(accounts=wanted.roles, rounds=rounds, kill_every=wanted.kill_every)
    print(found.sentence())
    print(conditions())
    return 0


if __name__ == "__main__":
    sys.exit(main())
