"""The control plane's database set back to an older backup; the gateway is killed while it gives back what is missing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deploy.lab import PostgresServer
from pam_jobs.db.tables import AuditEvent
from tests.crash import judge, table
from tests.crash.conftest import new_world
from tests.crash.targets import Postgresql
from tests.crash.waiting import eventually
from tests.crash.world import Account, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_FAULT = "database restored from an older backup, gateway killed"
_PLACES = ("after:claim", "before:recover", "after:recover", "after:intend", "after:change", "before:promote")
_CONTROL = ("router", "control", "beat")


@pytest.fixture(scope="module")
def world(target_postgres: PostgresServer) -> Iterator[World]:
    """A system of its own on SQLite, since what it forgets no other test may have made."""
    target = Postgresql(target_postgres)
    yield from new_world([target], "sqlite")
    target.close()


def test_what_the_backup_lacks_comes_back_from_the_gateways_journal(world: World, tmp_path: Path) -> None:
    database, backup = Path(str(world.database.engine.url.database)), tmp_path / "backup.db"
    accounts = world.accounts(world.targets[0], len(_PLACES))
    _rotate(world, accounts)
    _copy(database, backup)
    newest = _newest_event(world)
    _rotate(world, accounts)
    eventually(lambda: _known(world) > newest, "the gateway's heartbeat brings it beyond the backup")
    lost = {account.uid: _password(world, account) for account in accounts}

    for name in _CONTROL:
        world.kill(name)
    _copy(backup, database)
    for name in _CONTROL:
        world.start_one(name)
    for account in accounts:
        assert not account.target.logs_in(account.login, _password(world, account)), "the vault was set back"
    eventually(lambda: _told(world, "pam_database_restored"), "the gateway notices it by its heartbeat")

    for account, place in zip(accounts, _PLACES, strict=True):
        world.orders.stop_at(account.uid, place)
    jobs = [world.submit(account) for account in accounts]
    eventually(lambda: {each.uid for each in accounts} <= world.orders.reached(), world.gateway.tail)
    world.gateway.kill()
    world.orders.release()
    world.gateway.start()
    ends = judge.ended(world, jobs)

    judge.check_nothing_lost(world, accounts)
    judge.check_current(world, accounts)
    for account, place, job in zip(accounts, _PLACES, jobs, strict=True):
        assert ends[job].state == "succeeded", (place, ends[job])
        held = [row.password for row in judge.ledger(world, [account])[account.uid]]
        assert lost[account.uid] in held, f"{place}: the value that was lost is in the ledger again"
        table.add(_FAULT, account.target.name, "recovered, rotated", where=place, attempts=ends[job].attempts)
    assert len(_told(world, "credential_recovered")) == len(accounts), "each once"
    judge.check_no_secret(world)


def _newest_event(world: World) -> int:
    with world.database.transaction(read_only=True) as session:
        return session.scalars(select(func.max(AuditEvent.id))).one()


def _known(world: World) -> int:
    """Return the newest event that the gateway has been told of."""
    [path] = world.folder.rglob("position")
    event: int = json.loads(path.read_text())["position"]["event_id"]
    return event


def _rotate(world: World, accounts: Sequence[Account]) -> None:
    ends = judge.ended(world, [world.submit(account) for account in accounts])
    assert {end.state for end in ends.values()} == {"succeeded"}


def _password(world: World, account: Account) -> str:
    secret = world.vault.records.get(account.uid).record.password
    assert secret is not None
    return secret.reveal()


def _told(world: World, event: str) -> list[int]:
    with world.database.transaction(read_only=True) as session:
        return list(session.scalars(select(AuditEvent.id).where(AuditEvent.event == event)))


def _copy(source: Path, destination: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(destination)) as new:
        old.backup(new)
