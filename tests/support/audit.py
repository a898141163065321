"""Events and sinks for tests of the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pam_jobs.audit import siem
from pam_jobs.audit.log import Actor, record_event
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import VirtualClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import SiemSink
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue

ALICE = Actor(username="alice", remote_address="192.0.2.7", client_version="pam-jobs/0.1.0")
START = datetime(2025, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


def write_events(database: Database, clock: VirtualClock, count: int, event: str = "record_update") -> list[str]:
    """Commit so many events, one transaction each, and return the record UIDs they name, in order."""
    uids = [new_uid() for _ in range(count)]
    for uid in uids:
        with database.transaction() as session:
            record_event(session, clock, ALICE, event, record_uid=uid)
    return uids


def write_sealed(database: Database, clock: VirtualClock, count: int) -> list[str]:
    """Commit and order so many events."""
    uids = write_events(database, clock, count)
    seal_once(database, clock)
    return uids


def add_sink(
    database: Database, clock: VirtualClock, keys: KeyStore, kind: str, settings: dict[str, object], token: str | None
) -> str:
    """Set a sink up and return its UID."""
    with database.transaction() as session:
        secret = SecretValue(token) if token else None
        wanted = siem.NewSink(name=f"test {kind}", kind=kind, settings=settings, secret=secret)
        return siem.add(session, clock, keys, ALICE, wanted).uid


def read_sink(database: Database, uid: str) -> SiemSink:
    """Return the sink as it is now."""
    with database.transaction(read_only=True) as session:
        return siem.find(session, uid)


def new_clock() -> VirtualClock:
    """Return a clock that stands at ``START``."""
    return VirtualClock(START)


def new_keys(folder: Path) -> KeyStore:
    """Return a key store with new keys."""
    store = KeyStore(folder / "keys")
    store.ensure()
    return store
