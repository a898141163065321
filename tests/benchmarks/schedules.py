"""``python -m tests.benchmarks.schedules``: a hundred thousand schedules, two beats, every run made into one job.

Real beat processes on a real PostgreSQL (fsync on) and a real Redis: all schedules due in the same second, then spread over
a minute; then how long a beat takes to start, and how much memory it has, with ever more rows that are not due. With
``--peers`` the schedulers of others do the same work in the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from deploy.lab import postgres
from pam_jobs.app import queue_name
from pam_jobs.db.engine import Database
from tests.benchmarks import peers, stores
from tests.benchmarks.filling import fill, fleets
from tests.benchmarks.usage import conditions, cpu_seconds, pss_megabytes, tree
from tests.support.beat import Beats, beats_on, wait_until
from tests.support.broker import RedisBroker
from tests.support.database import create_schema
from tests.support.fleet import Fleet

_LAGS = text(
    "SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - j.due_at) FROM audit_events e"
    " JOIN jobs j ON j.uid = e.fields ->> 'job_uid' WHERE e.event = 'pam_job_created'"
)
_PATIENCE_SECONDS = 900.0


@dataclass(kw_only=True)
class Run:
    """What one run showed."""

    name: str
    jobs: int
    seconds: float = 0.0  # from the first due moment until the last job was committed
    published: float = 0.0  # the same, until the last message was in the broker
    lags: list[float] = field(default_factory=list)  # seconds
    cpu: dict[str, float] = field(default_factory=dict)  # processor microseconds for each job
    memory: float = 0.0  # MB of the largest beat

    def lag(self, share: float) -> float:
        """Return a percentile of the lags in seconds."""
        ordered = sorted(self.lags)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> int:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--sqlite-schedules", type=int, default=20_000, help="of the run on SQLite; 0 leaves it out")
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--beats", type=int, nargs="+", default=[1, 2], help="how many beats, one run each")
    parser.add_argument("--over", type=float, nargs="+", default=[0, 60], help="seconds that the runs are due within")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 100_000, 1_000_000], help="of the start-up's tables")
    parser.add_argument(
        "--peers", action="store_true", help="beside celery beat, redbeat, django-celery-beat, APScheduler"
    )
    parser.add_argument("--peer-sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--peer-seconds", type=float, default=60, help="after which a peer is cut off")
    wanted = parser.parse_args()
    console = Console(width=140)
    with stores.servers() as (folder, server, broker):
        runs = []
        for over in wanted.over:
            for beats in wanted.beats:
                with stores.new_database(server) as url:
                    runs.append(run(folder, url, broker, server, wanted.schedules, wanted.gateways, beats, over))
                console.print(_line(runs[-1]))
        if wanted.sqlite_schedules:
            for beats in wanted.beats:
                url = f"sqlite:///{folder}/{beats}.db"
                create_schema(url)
                runs.append(run(folder, url, broker, None, wanted.sqlite_schedules, wanted.gateways, beats, 0))
                console.print(_line(runs[-1]))
        console.print(_table(runs))
        if wanted.rows:
            console.print(
                _start_table([_started(folder, server, broker, rows, wanted.gateways) for rows in wanted.rows])
            )
        if wanted.peers:
            best = max((each for each in runs if each.seconds), key=lambda each: each.jobs / each.seconds)
            found = peers.run_all(folder, server, broker, wanted.peer_sizes, wanted.peer_seconds, console)
            console.print(peers.table(found, best.name, best.jobs / best.seconds))
    console.print(conditions())
    return 0


def run(
    folder: Path,
    url: str,
    broker: RedisBroker,
    server: postgres.PostgresServer | None,
    count: int,
    gateways: int,
    beats: int,
    over: float,
) -> Run:
    """Let so many beats make the jobs of so many schedules that come due within some seconds."""
    database = Database(url)
    sites = fleets(database, gateways)
    broker.client().flushall()
    fill(sites, count, datetime.now(UTC) + timedelta(days=2))
    where = "SQLite" if server is None else "PostgreSQL"
    found = Run(name=f"{where}, {beats} beat{'s' * (beats > 1)}, due within {over or 1:.0f} s", jobs=count)
    home = folder / f"beats-{time.monotonic_ns()}"
    home.mkdir()
    with beats_on(url, broker.url, home) as started:
        processes = [started.start() for _ in range(beats)]
        wait_until(lambda: started.log().count("Starting") >= beats, seconds=60, what="the beats start")
        due = _plan(database, count, over)
        before = _cpu(processes, server, broker)
        _follow(database, broker, sites, found, due, started)
        after = _cpu(processes, server, broker)
        found.cpu = {name: (after[name] - before[name]) / count * 1e6 for name in after}
        found.memory = max(pss_megabytes(process.pid) for process in processes)
    _check(database, broker, sites, found)
    database.dispose()
    return found


def _plan(database: Database, count: int, over: float) -> datetime:
    """Let all schedules come due soon, evenly over some seconds, and return when the first one does."""
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=8 + count / 8000)
    with database.transaction() as session:
        if database.is_sqlite:
            words = f"UPDATE schedules SET next_run_at = '{due:%Y-%m-%d %H:%M:%S.%f}'"
        else:
            order = "(SELECT uid, row_number() OVER (ORDER BY subject_uid) - 1 AS number FROM schedules) AS o"
            words = (
                f"UPDATE schedules AS s SET next_run_at = timestamptz '{due.isoformat()}'"
                f" + interval '1 second' * (o.number * {over} / {count}) FROM {order} WHERE o.uid = s.uid"
            )
        session.execute(text(words))
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    if datetime.now(UTC) >= due:
        raise RuntimeError("the machine is too slow to plan so many schedules in time")
    return due


def _follow(
    database: Database, broker: RedisBroker, sites: Sequence[Fleet], found: Run, due: datetime, beats: Beats
) -> None:
    """Wait until all jobs are made and published, and note when."""
    horizon = due + timedelta(hours=1)
    limit = time.monotonic() + _PATIENCE_SECONDS
    left = text("SELECT count(*) FROM schedules WHERE next_run_at < :until")
    with broker.client() as redis:
        time.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
        while not found.published:
            if time.monotonic() > limit:
                raise RuntimeError(f"not within {_PATIENCE_SECONDS} s: {beats.log()[-2000:]}")
            time.sleep(0.1)
            now = (datetime.now(UTC) - due).total_seconds()
            if not found.seconds:
                with database.transaction(read_only=True) as session:
                    until = horizon.replace(tzinfo=None) if database.is_sqlite else horizon
                    found.seconds = 0.0 if session.scalar(left, {"until": until}) else now
            elif sum(redis.llen(queue_name(site.gateway_uid)) for site in sites) >= found.jobs:
                found.published = now


def _check(database: Database, broker: RedisBroker, sites: Sequence[Fleet], found: Run) -> None:
    """See that each run has its one job and each job its one message, and take the lags."""
    with database.transaction(read_only=True) as session:
        jobs = set(session.scalars(text("SELECT uid FROM jobs")))
        runs = session.scalar(text("SELECT count(*) FROM (SELECT DISTINCT schedule_uid, due_at FROM jobs) AS runs"))
        if not database.is_sqlite:
            found.lags = [float(lag) for lag in session.scalars(_LAGS)]
    sent = []
    with broker.client() as redis:
        for site in sites:
            messages = redis.lrange(queue_name(site.gateway_uid), 0, -1)
            sent += [json.loads(message)["headers"]["id"].partition(".")[0] for message in messages]
    if not (len(jobs) == runs == found.jobs and len(sent) == found.jobs and set(sent) == jobs):
        raise RuntimeError(f"{found.jobs} runs, {len(jobs)} jobs, {runs} of them distinct, {len(sent)} messages")
    if found.lags:
        found.seconds = max(found.lags) if "within 1 s" in found.name else found.seconds


def _cpu(
    beats: Sequence[subprocess.Popen[bytes]], server: postgres.PostgresServer | None, broker: RedisBroker
) -> dict[str, float]:
    used = {"beats": cpu_seconds(*(process.pid for process in beats))}
    if server is not None:
        used["PostgreSQL"] = cpu_seconds(*tree(server.process.pid))
    used["Redis"] = cpu_seconds(broker.pid)
    return used


def _line(found: Run) -> str:
    parts = ", ".join(f"{name} {value:.0f}" for name, value in found.cpu.items())
    return f"{found.name}: {found.jobs / found.seconds:.0f} jobs/s; processor microseconds a job: {parts}"


def _table(runs: Sequence[Run]) -> Table:
    table = Table(title="Schedules that come due, each made into one job, once, and published")
    headings = (
        "contender", "runs", "created/s", "published/s", "lag p50 s", "lag p99 s", "us of a processor a job", "beat MB",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for found in runs:
        table.add_row(
            found.name,
            f"{found.jobs}",
            f"{found.jobs / found.seconds:.0f}",
            f"{found.jobs / found.published:.0f}",
            f"{found.lag(0.5):.2f}" if found.lags else "",
            f"{found.lag(0.99):.2f}" if found.lags else "",
            ", ".join(f"{name} {value:.0f}" for name, value in found.cpu.items()),
            f"{found.memory:.0f}",
        )
    return table


@dataclass(frozen=True, kw_only=True)
class _Start:
    rows: int
    seconds: float  # from the start of the process to its first job
    memory: float
    idle: float  # processor milliseconds of each second without anything due


def _started(folder: Path, server: postgres.PostgresServer, broker: RedisBroker, rows: int, gateways: int) -> _Start:
    """Start a beat over a table of which one row is due."""
    with stores.new_database(server) as url:
        database = Database(url)
        sites = fleets(database, gateways)
        broker.client().flushall()
        fill(sites, rows, datetime.now(UTC) + timedelta(days=2), timedelta(days=1))
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
        with database.transaction() as session:
            first = session.scalar(text("SELECT uid FROM schedules ORDER BY next_run_at LIMIT 1"))
            session.execute(text("UPDATE schedules SET next_run_at = now() WHERE uid = :uid"), {"uid": first})
        home = folder / f"start-{rows}"
        home.mkdir()
        with beats_on(url, broker.url, home) as beats:
            begin = time.monotonic()
            process = beats.start()
            while not _has_job(database):
                time.sleep(0.01)
            seconds = time.monotonic() - begin
            time.sleep(2)
            before = cpu_seconds(process.pid)
            time.sleep(10)
            idle = (cpu_seconds(process.pid) - before) * 100
            memory = pss_megabytes(process.pid)
        database.dispose()
    return _Start(rows=rows, seconds=seconds, memory=memory, idle=idle)


def _has_job(database: Database) -> bool:
    with database.transaction(read_only=True) as session:
        return bool(session.scalar(text("SELECT count(*) FROM jobs")))


def _start_table(starts: Sequence[_Start]) -> Table:
    table = Table(title="A beat that starts over a table of which one row is due")
    for heading in ("rows", "start to first job s", "memory MB", "idle ms of a processor a second", "ratio of memory"):
        table.add_column(heading, justify="right")
    for each in starts:
        table.add_row(
            f"{each.rows}",
            f"{each.seconds:.2f}",
            f"{each.memory:.1f}",
            f"{each.idle:.1f}",
            f"{each.memory / starts[0].memory:.2f}",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
