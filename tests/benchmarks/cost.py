"""``python -m tests.benchmarks.cost``: what one rotation costs the control plane, call by call.

Router on a real PostgreSQL, gateway and target are real; the jobs run one after the other, so that the time of a call is the
router's own. Each call's SQL statements and transactions are counted where they are made. Milliseconds are of the
application, from the request's arrival to its answer; TLS and the socket come on top.
"""

from __future__ import annotations

import argparse
import logging
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, event, text, update

from deploy.lab import postgres
from pam_jobs.api import app as application
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import PamConfiguration, Schedule
from pam_jobs.metrics.totals import count_once
from pam_jobs.rotation.schedules import follow_configuration
from scheduler import due
from tests.benchmarks import stores
from tests.benchmarks.bare import BareTarget
from tests.benchmarks.roles import make_roles
from tests.benchmarks.usage import conditions
from tests.support import router as router_support
from tests.support.fleet import cron
from tests.support.gateway_site import GatewaySite
from tests.support.router import run_router

_UID = re.compile(r"/[A-Za-z0-9_-]{22}(?=/|$)")


@dataclass
class Tally:
    """What a kind of call came to."""

    calls: int = 0
    statements: int = 0
    transactions: int = 0
    seconds: list[float] = field(default_factory=list)


class Counting:
    """Counts statements and transactions by the work that they are made for."""

    def __init__(self) -> None:
        self.of: defaultdict[str, Tally] = defaultdict(Tally)
        self.is_on = False
        self._work = "other"  # one request at a time: the thread that serves it need not be known

    def watch(self, engine: Engine) -> None:
        """Listen to a database."""
        event.listen(engine, "before_cursor_execute", lambda *_: self._add("statements"))
        event.listen(engine, "commit", lambda _connection: self._add("transactions"))
        event.listen(engine, "rollback", lambda _connection: self._add("transactions"))

    def _add(self, what: str) -> None:
        if self.is_on:
            name = "publish" if threading.current_thread().name == "publisher" else self._work
            setattr(self.of[name], what, getattr(self.of[name], what) + 1)

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """Attribute what happens in the block."""
        before, self._work = self._work, name
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._work = before
            if self.is_on:
                self.of[name].calls += 1
                self.of[name].seconds.append(time.perf_counter() - begin)

    def around(self, app: Any) -> Any:
        """Return the ASGI application with each request attributed to its path."""

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            with self.work(_name(scope["path"]) if scope["type"] == "http" else "other"):
                await app(scope, receive, send)

        return counted


def _name(path: str) -> str:
    short = _UID.sub("", path)
    return short.removeprefix("/api/device/jobs").removeprefix("/api/device").removeprefix("/api/rest/sm/v1") or path


def main() -> int:
    """Run the jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    wanted = parser.parse_args()
    console = Console(width=120)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    counting = Counting()
    make = application.create_app
    router_support.create_app = lambda context: counting.around(make(context))  # type: ignore[attr-defined]
    with (
        stores.servers("pam-cost-") as (folder, server, broker),
        stores.new_database(server) as url,
        run_router(folder, url, ksm_requests_per_10s=100_000) as router,
    ):
        counting.watch(router.database.engine)
        site = GatewaySite(router, folder, port_mapping=f"{server.port}=postgresql")
        publisher = site.publish(broker.url)
        users = _users(site, server, wanted.jobs)
        _on_demand(site, counting, users)
        _by_schedule(site, counting, users)
        publisher.close()
    _report(console, counting, wanted.jobs)
    return 0


def _users(site: GatewaySite, server: postgres.PostgresServer, count: int) -> list[str]:
    target = BareTarget(host=server.host, port=server.port, admin=server.admin_login, password=server.admin_password)
    admin = site.add_user(server.admin_login, server.admin_password)
    resource = site.add_resource("pamDatabase", server.host, server.port, admin)
    uids = []
    for role, password in make_roles(target, f"r{secrets.token_hex(3)}", count).items():
        uids.append(site.add_user(role, password))
        site.rotate_by(uids[-1], resource)
    return uids


def _on_demand(site: GatewaySite, counting: Counting, users: Sequence[str]) -> None:
    """Submit and run each job, one after the other, then let control see to the log."""
    engine = site.engine()
    engine.run(site.submit("rotate", users[0]))  # connections and caches are warm
    database = site.router.database
    for uid in users:
        counting.is_on = True
        job = site.submit("rotate", uid)
        _published(database)
        engine.run(job)
        counting.is_on = False
        status = site.opened(job)["status"]
        if status != "ok":
            raise RuntimeError(f"a rotation ended with {status}")
    seal_once(database, SystemClock())
    count_once(database)
    for uid in users:  # what control does for a job: to its events, many at a time
        engine.run(site.submit("rotate", uid))
    _published(database)
    counting.is_on = True
    with counting.work("control: events into their order"):
        while seal_once(database, SystemClock()):
            pass
    with counting.work("control: events counted"):
        count_once(database)
    counting.is_on = False


def _by_schedule(site: GatewaySite, counting: Counting, users: Sequence[str]) -> None:
    """Let all fall due at once, as beat finds them."""
    database = site.router.database
    for uid in users:
        with database.transaction() as session:
            words = "UPDATE rotation_settings SET schedule = :spec WHERE record_uid = :uid"
            session.execute(text(words), {"spec": str(cron("0 4 * * *")).replace("'", '"'), "uid": uid})
    with database.transaction() as session:
        configuration = session.get_one(PamConfiguration, site.configuration_uid)
        follow_configuration(session, SystemClock(), configuration)
    with database.transaction() as session:
        session.execute(update(Schedule).values(next_run_at=datetime.now(UTC)))
    counting.is_on = True
    with counting.work("beat: due runs made into jobs"):
        made = due.tick(database, SystemClock())
    counting.is_on = False
    if len(made) != len(users):
        raise RuntimeError(f"{len(made)} jobs were made of {len(users)} due runs")


def _published(database: Database) -> None:
    """Wait for the publisher's thread: a job's own message is part of its cost."""
    while True:
        with database.engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("SELECT count(*) FROM outbox")
            left = raw.fetchone()
        if left is not None and left[0] == 0:
            return
        time.sleep(0.002)


def _report(console: Console, counting: Counting, jobs: int) -> None:
    table = Table(title="One rotation of a PostgreSQL role on demand: what it costs the control plane")
    for heading in ("call", "calls a job", "SQL statements", "transactions", "ms"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    total = Tally()
    shared = {name for name in counting.of if name.startswith(("control", "beat"))}
    http = 0
    for name, tally in counting.of.items():
        if name in shared:
            continue
        is_call = bool(tally.calls)
        http += tally.calls
        total.statements += tally.statements
        total.transactions += tally.transactions
        total.seconds += tally.seconds
        table.add_row(
            name if is_call else f"{name} (no HTTP)",
            f"{tally.calls / jobs:.2f}" if is_call else "",
            f"{tally.statements / jobs:.2f}",
            f"{tally.transactions / jobs:.2f}",
            f"{sum(tally.seconds) / jobs * 1000:.2f}" if is_call else "",
        )
    table.add_row(
        "in all",
        f"{http / jobs:.2f}",
        f"{total.statements / jobs:.2f}",
        f"{total.transactions / jobs:.2f}",
        f"{sum(total.seconds) / jobs * 1000:.2f}",
        style="bold",
    )
    for name in sorted(shared):
        tally = counting.of[name]
        table.add_row(
            f"{name}, {jobs} jobs at once",
            "",
            f"{tally.statements / jobs:.2f}",
            f"{tally.transactions / jobs:.2f}",
            f"{sum(tally.seconds) / jobs * 1000:.2f}",
        )
    console.print(table)
    console.print(conditions())


if __name__ == "__main__":
    raise SystemExit(main())
