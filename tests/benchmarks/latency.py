"""``python -m tests.benchmarks.latency``: from an operator's submission until a worker begins on it.

All of embedded mode runs. First nothing else does; then so many scheduled jobs wait for the same gateway, which works on them
all the time, and those that it has done fall due again. Submissions are of real rotations, one a moment; the ones that wait
are of records without a target, so that the queue and not a target is what is measured.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import OperationalError

from pam_jobs.cli.embedded.state import DataFolder
from pam_jobs.client.pam import RotationChange
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import CredentialVersion, Job, JobKind, RotationSettings, Schedule, StoredRecord
from pam_jobs.ids import new_uid
from pam_jobs.jobs.states import OPEN, WAITING
from pam_jobs.records.types import new_record
from pam_jobs.rotation.schedules import schedule_uid
from tests.benchmarks.roles import make_roles
from tests.benchmarks.site import Site
from tests.benchmarks.stores import target_server
from tests.benchmarks.usage import conditions

_SPEC = '[{"type":"CRON","cron":"0 4 1 1 *","tz":"Etc/UTC"}]'
_CHUNK = 1000
_REFILL_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Latencies of one situation."""

    name: str
    milliseconds: list[float]
    left: int  # not begun within the patience
    waiting: str  # how many scheduled jobs waited meanwhile

    def percentile(self, share: float) -> float:
        """Return a percentile; what did not begin is longer than all others."""
        ordered = [*sorted(self.milliseconds), *([float("inf")] * self.left)]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    """Run both situations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=10_000, help="scheduled jobs that wait for the gateway")
    parser.add_argument("--samples", type=int, default=100, help="submissions in each situation")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two submissions")
    parser.add_argument("--concurrency", type=int, default=8, help="jobs at a time in the gateway")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds after which a submission counts as not begun"
    )
    wanted = parser.parse_args()
    console = Console(width=120)
    with target_server() as (folder, target, _):
        site = Site.start(folder / "site", wanted.concurrency, [target], make_roles(target, "r", wanted.samples))
        try:
            figures = _run(site, wanted)
        finally:
            site.stop()
    _report(console, figures, wanted.concurrency)
    return 0


def _run(site: Site, wanted: argparse.Namespace) -> list[Figures]:
    database = Database(DataFolder(site.folder).database_url)
    site.rotate(site.records[:8])  # connections and caches are warm
    idle = _measure(site, database, wanted, "nothing else runs")
    waiting = _many(site, database, wanted.waiting)
    is_over = threading.Event()
    refill = threading.Thread(target=_keep_full, args=(database, is_over), daemon=True)
    refill.start()
    try:
        end = time.monotonic() + 600
        while _waiting(database) < wanted.waiting * 0.9:
            if time.monotonic() > end:
                raise RuntimeError(f"only {_waiting(database)} of {waiting} jobs wait")
            time.sleep(0.5)
        busy = _measure(site, database, wanted, f"{wanted.waiting} scheduled jobs wait for the same gateway")
    finally:
        is_over.set()
        refill.join()
        database.dispose()
    return [idle, busy]


def _measure(site: Site, database: Database, wanted: argparse.Namespace, name: str) -> Figures:
    """Submit one job after the other, waiting for none, then see when each was begun."""
    uids, depths = [], []
    with site.client() as client:
        for record in site.records[: wanted.samples]:
            uids.append(client.jobs.submit("rotate", record)["uid"])
            depths.append(_waiting(database))
            time.sleep(wanted.pause)
    end = time.monotonic() + wanted.patience
    while True:
        with database.transaction(read_only=True) as session:
            rows = session.execute(select(Job.created_at, Job.started_at).where(Job.uid.in_(uids))).all()
        begun = [(row.started_at - row.created_at).total_seconds() * 1000 for row in rows if row.started_at]
        if len(begun) == len(uids) or time.monotonic() > end:
            waiting = f"{min(depths)} to {max(depths)}"
            return Figures(name=name, milliseconds=begun, left=len(uids) - len(begun), waiting=waiting)
        time.sleep(0.5)


def _waiting(database: Database) -> int:
    query = select(func.count()).where(Job.state.in_(WAITING), Job.trigger == "scheduled")
    with database.transaction(read_only=True) as session:
        return session.scalar(query) or 0


def _many(site: Site, database: Database, count: int) -> int:
    """Make one record without a target that the gateway rotates, and as many copies of it, each with a schedule."""
    with site.client() as client:
        stored = client.records.get(site.records[0])
        settings = client.pam.rotation(stored.uid)
        if settings is None:
            raise RuntimeError("the first record has no rotation settings")
        folder = client.folders.find("Benchmark")
        fields: list[tuple[str, Any]] = [("login", "nobody"), ("password", "unused")]
        uid = client.records.add(new_record("pamUser", "no target", fields), folder)
        change = RotationChange(
            configuration_uid=settings["configuration_uid"], resource_uid=None, admin_uid=None, profile="scripts_only",
            schedule=[], inherits_schedule=False, complexity=None, disabled=False, revision=None,
        )  # fmt: skip
        client.pam.set_rotation(client.records.get(uid), change)
        ended = client.jobs.wait(client.jobs.submit("rotate", uid)["uid"], seconds=60)
        if ended["state"] != "succeeded":
            raise RuntimeError(f"the record without a target ended as {ended['state']}")
    _copy(database, uid, count)
    return count


def _copy(database: Database, template: str, count: int) -> None:
    """Write the copies: the same ciphertext by the same key under other uids."""
    rows = {}
    with database.transaction(read_only=True) as session:
        for model, column in (
            (StoredRecord, "uid"),
            (RotationSettings, "record_uid"),
            (CredentialVersion, "record_uid"),
        ):
            table = table_of(model)
            found = session.execute(select(table).where(table.c[column] == template)).mappings().all()
            rows[table, column] = [{name: row[name] for name in row if name != "id"} for row in found]
    now = datetime.now(UTC)
    uids = [new_uid() for _ in range(count)]
    for start in range(0, count, _CHUNK):
        part = uids[start : start + _CHUNK]
        with database.transaction() as session:
            for (table, column), found in rows.items():
                copies = [{**row, column: uid} for uid in part for row in found]
                if copies:
                    session.execute(insert(table), copies)
            due = [
                {"uid": schedule_uid(JobKind.ROTATE, uid), "kind": "rotate", "subject_uid": uid, "spec": _SPEC,
                 "anchor_at": now, "next_run_at": now, "paused": False}
                for uid in part
            ]  # fmt: skip
            session.execute(insert(table_of(Schedule)), due)


def _keep_full(database: Database, is_over: threading.Event) -> None:
    """Let what is done fall due again."""
    open_jobs = select(Job.record_uid).where(Job.state.in_(OPEN), Job.record_uid.is_not(None))
    while not is_over.wait(_REFILL_SECONDS):
        now = datetime.now(UTC)
        ended = Schedule.next_run_at > now + timedelta(hours=1), Schedule.subject_uid.not_in(open_jobs)
        with suppress(OperationalError), database.transaction() as session:
            session.execute(
                update(Schedule).where(*ended).values(next_run_at=now).execution_options(synchronize_session=False)
            )


def _report(console: Console, figures: Sequence[Figures], concurrency: int) -> None:
    table = Table(title=f"On demand: submission until a worker begins ({concurrency} jobs at a time in the gateway)")
    for heading in ("meanwhile", "waiting", "submissions", "p50 ms", "p99 ms", "not begun"):
        table.add_column(heading, justify="left" if heading == "meanwhile" else "right")
    for each in figures:
        count = len(each.milliseconds) + each.left
        middle = statistics.median(each.milliseconds) if each.milliseconds and not each.left else each.percentile(0.5)
        table.add_row(
            each.name, each.waiting, f"{count}", f"{middle:.0f}", f"{each.percentile(0.99):.0f}", f"{each.left}"
        )
    console.print(table)
    console.print(
        f"p99 with the queue full is {figures[1].percentile(0.99) / figures[0].percentile(0.99):.1f} times p99 idle"
    )
    console.print(conditions())


if __name__ == "__main__":
    raise SystemExit(main())
