"""The judge: what must be true, seen by logins to the target itself and by rows of the ledger opened with a client's key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from pam_jobs.crypto import aes
from pam_jobs.db.tables import AuditEvent, CredentialVersion, Job
from tests.crash.waiting import PATIENCE_SECONDS, eventually
from tests.crash.world import Account, World

FINAL = {"succeeded", "failed", "waiting_human", "cancelled", "expired"}
_PASSES = 3
_STATES = ("applying", "staged", "current", "previous")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A version of the ledger, opened."""

    seq: int
    state: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """What the database says of a job."""

    uid: str
    state: str
    cause: str | None
    status: str | None
    attempts: int
    epoch: int


class CredentialLost(AssertionError):
    """No value in the ledger logs in."""


class Stuck(AssertionError):
    """A job neither ended nor waits for a human who was told."""


class ScriptRanTwice(AssertionError):
    """A script that runs at most once has run more often."""


class ScriptNotRun(AssertionError):
    """A script is said to have succeeded that did not run."""


def check_runs(account: Account, before: int, what: str) -> int:
    """Return how often the record's script ran since then: never more than once for a job."""
    runs = account.runs() - before
    if runs > 1:
        raise ScriptRanTwice(f"{what}: the script ran {runs} times")
    return runs


def ledger(world: World, accounts: Sequence[Account]) -> dict[str, list[Row]]:
    """Return the opened versions of each record, the likeliest to be live first."""
    keys = {account.uid: account.key for account in accounts}
    parts = {account.uid: account.target.part for account in accounts}
    found: dict[str, list[Row]] = {uid: [] for uid in keys}
    query = select(CredentialVersion).where(
        CredentialVersion.record_uid.in_(keys), CredentialVersion.kind == "credential"
    )
    with world.database.transaction(read_only=True) as session:
        for row in session.scalars(query.order_by(CredentialVersion.seq.desc())):
            password = json.loads(aes.decrypt(row.ciphertext, keys[row.record_uid]))[parts[row.record_uid]]
            found[row.record_uid].append(Row(seq=row.seq, state=str(row.state), password=password))
            world.secrets.add(password)
    for rows in found.values():
        rows.sort(key=lambda row: (_STATES.index(row.state) if row.state in _STATES else 9, -row.seq))
    return found


def check_nothing_lost(world: World, accounts: Sequence[Account]) -> None:
    """Log in with the ledger's values, one after the other, until one is accepted.

    The values are tried one by one while a gateway may be at work: one that is refused now can be set before the next
    is tried. So the ledger is read and all are tried again; what is lost stays lost.
    """
    rows = ledger(world, accounts)

    def check(account: Account) -> None:
        mine = rows[account.uid]
        for _ in range(_PASSES):
            if any(account.target.logs_in(account.login, row.password) for row in mine):
                return
            mine = ledger(world, [account])[account.uid]
        told = [(row.seq, row.state) for row in mine]
        raise CredentialLost(f"{account.target.name}: no value of {account.login} in the ledger logs in: {told}")

    _each(check, accounts)


def check_current(world: World, accounts: Sequence[Account]) -> None:
    """Check that each current value logs in, that nothing is unresolved, and that the operator's views say the same."""
    rows = ledger(world, accounts)

    def check(account: Account) -> None:
        mine = rows[account.uid]
        unresolved = [(row.seq, row.state) for row in mine if row.state in {"applying", "staged"}]
        assert not unresolved, f"{account.target.name}: {account.login} has unresolved versions: {unresolved}"
        current = next(row for row in mine if row.state == "current")
        if not account.target.logs_in(account.login, current.password):
            live = [row.seq for row in mine if account.target.logs_in(account.login, row.password)]
            told = f"current is {current.seq}, the target accepts {live or 'none'}"
            raise (AssertionError if live else CredentialLost)(f"{account.target.name} {account.login}: {told}")

    _each(check, accounts)
    for account in accounts:
        current = next(row for row in rows[account.uid] if row.state == "current")
        secret = getattr(world.vault.records.get(account.uid).record, account.target.part)
        assert secret is not None
        assert secret.reveal() == current.password, f"record and ledger of {account.login} disagree"
        proof = world.vault.jobs.proof(account.uid)
        assert proof["proven"], f"prove says of {account.login}: {proof['reason']}"
        assert proof["current"]["seq"] == current.seq


def check_story(world: World, accounts: Sequence[Account]) -> None:
    """Check that the audit log tells of each value once when it was staged and once when it became current."""
    rows = ledger(world, accounts)
    uids = {account.uid for account in accounts}
    told: dict[tuple[str, str, int], int] = {}
    with world.database.transaction(read_only=True) as session:
        names = ("credential_staged", "credential_promoted")
        for row in session.scalars(select(AuditEvent).where(AuditEvent.event.in_(names))):
            if row.fields["record_uid"] in uids:
                where = (row.event, row.fields["record_uid"], int(row.fields["version_seq"]))
                told[where] = told.get(where, 0) + 1
    for account in accounts:
        for row in rows[account.uid]:
            if row.seq == min(each.seq for each in rows[account.uid]):
                continue  # the operator's own value
            assert told.get(("credential_staged", account.uid, row.seq)) == 1, f"staging of {row.seq} in the log"
            was_current = row.state in {"current", "previous", "retired"}
            count = told.get(("credential_promoted", account.uid, row.seq), 0)
            assert count == int(was_current), f"version {row.seq} is {row.state} and was promoted {count} times"


def check_no_secret(world: World) -> None:
    """Search everything but the gateway's own memory for every secret that was ever used."""
    shown = world.dump()
    found = [secret for secret in world.secrets if secret.encode() in shown]
    # the database's own password stands in the processes' settings and is no secret of a target
    assert not found, f"{len(found)} secrets are in database, broker or logs"


def jobs(world: World, uids: Iterable[str]) -> dict[str, JobRow]:
    """Return the jobs as the database has them."""
    with world.database.transaction(read_only=True) as session:
        rows = session.scalars(select(Job).where(Job.uid.in_(list(uids))))
        return {
            row.uid: JobRow(
                uid=row.uid, state=str(row.state), cause=row.cause, status=row.status, attempts=row.attempts,
                epoch=row.epoch,
            )
            for row in rows
        }  # fmt: skip


def ended(world: World, uids: Sequence[str], seconds: float = PATIENCE_SECONDS) -> dict[str, JobRow]:
    """Wait until the jobs are final and return them."""
    if not uids:
        return {}

    def all_final() -> dict[str, JobRow] | None:
        found = jobs(world, uids)
        return found if all(row.state in FINAL for row in found.values()) and len(found) == len(set(uids)) else None

    def what() -> str:
        left = [row for row in jobs(world, uids).values() if row.state not in FINAL]
        said = [world.vault.jobs.explain(row.uid) for row in left[:3]]
        return f"{len(left)} of {len(uids)} jobs end: {left[:5]} {said}\n{world.gateway.tail()}"

    try:
        result: dict[str, JobRow] = eventually(all_final, what, seconds)
    except AssertionError as error:
        raise Stuck(str(error)) from None
    return result


def _each(check: Any, accounts: Sequence[Account]) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, accounts))


def snapshot(world: World, accounts: Iterable[Account]) -> dict[str, list[tuple[int, str, int]]]:
    """Return number, state and epoch of every version: what a zombie must not touch."""
    return {account.uid: snapshot_of(world, account.uid) for account in accounts}


def snapshot_of(world: World, record_uid: str) -> list[tuple[int, str, int]]:
    """Return number, state and epoch of the versions of one record, the oldest first."""
    query = select(CredentialVersion).where(CredentialVersion.record_uid == record_uid)
    with world.database.transaction(read_only=True) as session:
        rows = session.scalars(query.order_by(CredentialVersion.seq))
        return [(row.seq, str(row.state), row.epoch) for row in rows]
