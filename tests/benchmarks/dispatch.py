"""``python -m tests.benchmarks.dispatch``: publishing beside bare Celery, cost as gateways grow, and what idling costs.

The first table puts the same number of messages on one real Redis in each round, in random order: Celery's ``apply_async`` with
a kept producer is the reference; ours reads the outbox, signs, sends, and records it in a real PostgreSQL (fsync on). The
second makes and publishes the same number of due jobs over ever more gateways; with ``--rabbitmq`` that broker's queues, which
must be declared, come beside it. The third lets embedded mode idle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import structlog
from kombu import messaging
from rich.console import Console
from rich.table import Table

from deploy.lab import postgres
from pam_jobs.app import make_app, queue_for, queue_name
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.settings import ControlSettings
from scheduler import due
from tests.benchmarks import stores
from tests.benchmarks.filling import fill, fleets
from tests.benchmarks.site import Site, processes_of
from tests.benchmarks.usage import conditions, cpu_seconds, pss_megabytes, tree
from tests.support.broker import RedisBroker
from tests.support.servers import rabbitmq

_BATCH = 500
_REFERENCE = "Celery, apply_async, kept producer"


def main() -> int:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gateways", type=int, nargs="*", default=[1, 100, 10_000])
    parser.add_argument("--rabbitmq", action="store_true", help="the second table on RabbitMQ, too")
    parser.add_argument("--idle", type=float, default=60, help="seconds of idling; 0 leaves it out")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console(width=140)
    with stores.servers() as (folder, server, broker):
        console.print(_publishing(folder, server, broker, wanted.messages, wanted.rounds))
        with ExitStack() as stack:
            brokers = {"Redis": broker.url}
            if wanted.rabbitmq:
                brokers["RabbitMQ"] = stack.enter_context(rabbitmq())
            if wanted.gateways:
                console.print(_growing(folder, server, broker, brokers, wanted))
    if wanted.idle:
        console.print(_idling(wanted.idle))
    console.print(conditions())
    return 0


# publishing


def _publisher(folder: Path, url: str, broker_url: str) -> Publisher:
    settings = ControlSettings(database_url=url, broker_url=broker_url, keys_dir=folder / "keys")
    keys = KeyStore(settings.keys_dir)
    keys.ensure()
    return Publisher(broker_url, keys, SystemClock(), settings)


def _made(database: Database) -> list[str]:
    """Make the jobs of all that is due and return their uids."""
    uids: list[str] = []
    while made := due.tick(database, SystemClock()):
        uids += made
    return uids


def _publishing(
    folder: Path, server: postgres.PostgresServer, broker: RedisBroker, messages: int, rounds: int
) -> Table:
    results: dict[str, list[float]] = {}
    for number in range(rounds):
        with stores.new_database(server) as url:
            database = Database(url)
            sites = fleets(database, 1)
            fill(sites, messages, datetime.now(UTC) - timedelta(seconds=1))
            uids = _made(database)
            contenders = _contenders(broker, sites[0].gateway_uid, uids)
            ours = _publisher(folder, url, broker.url)
            contenders["pam-jobs: outbox read, signed, sent, recorded"] = partial(ours.publish, database, uids)
            for name in sorted(contenders, key=lambda _name: secrets.randbits(32)):
                broker.client().flushall()
                begin = time.perf_counter()
                contenders[name]()
                results.setdefault(name, []).append(messages / (time.perf_counter() - begin))
                if broker.length(queue_name(sites[0].gateway_uid)) != messages:
                    raise RuntimeError(f"{name} sent {broker.length(queue_name(sites[0].gateway_uid))} messages")
            ours.close()
            database.dispose()
        print(f"round {number + 1} of {rounds}")
    table = Table(title=f"{messages} messages to one queue on Redis, {rounds} rounds, medians")
    for heading in ("contender", "messages/s", "ratio to the reference"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for name, rates in sorted(results.items(), key=lambda item: statistics.median(item[1])):
        ratios = [mine / other for mine, other in zip(rates, results[_REFERENCE], strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(name, f"{statistics.median(rates):.0f}", "1.00" if name == _REFERENCE else shown)
    return table


def _contenders(broker: RedisBroker, gateway_uid: str, uids: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Return bare Celery's ways to send, from the usual one down to text that is made already."""
    app = make_app(broker.url)

    @app.task(name="pam.rotate")
    def task(_uid: str) -> None:
        """Do nothing."""

    queue = queue_for(gateway_uid)
    make: Any = messaging.Producer
    producer = make(app.connection_for_write().channel(), auto_declare=False)

    def usual(*, batched: bool) -> None:
        for start in range(0, len(uids), _BATCH):
            with producer.batch(_BATCH) if batched else ExitStack():
                for uid in uids[start : start + _BATCH]:
                    task.apply_async(args=[uid], producer=producer, queue=queue)

    def below() -> None:
        for start in range(0, len(uids), _BATCH):
            with producer.batch(_BATCH):
                for uid in uids[start : start + _BATCH]:
                    made = app.amqp.as_task_v2(uid, "pam.rotate", [uid], {}, ignore_result=True)
                    app.amqp.send_task_message(producer, "pam.rotate", made, queue=queue, declare=[], retry=False)

    def floor() -> None:
        envelope = json.dumps({"body": "x" * 80, "headers": {"id": "x" * 700}})
        with broker.client() as redis:
            for start in range(0, len(uids), _BATCH):
                pipe = redis.pipeline(transaction=False)
                for uid in uids[start : start + _BATCH]:
                    pipe.lpush(queue.name, envelope + uid)
                pipe.execute()

    return {
        _REFERENCE: lambda: usual(batched=False),
        "Celery, apply_async in batches of 500": lambda: usual(batched=True),
        "Celery, below apply_async, in batches of 500, unsigned": below,
        "Redis alone: text made before, pipelines of 500": floor,
    }


# growing


@dataclass(frozen=True, kw_only=True)
class _Cost:
    made: float  # microseconds of processors a job: our process and PostgreSQL
    sent: float  # the same, with the broker
    wall: float  # microseconds a job until it was in the broker
    first: float  # seconds that declaring all queues took, once


def _growing(
    folder: Path,
    server: postgres.PostgresServer,
    redis: RedisBroker,
    brokers: dict[str, str],
    wanted: argparse.Namespace,
) -> Table:
    table = Table(
        title=f"{wanted.messages} due jobs made and published over ever more gateways, {wanted.rounds} rounds, medians"
    )
    for heading in (
        "broker",
        "gateways",
        "made: us CPU a job",
        "published: us CPU a job",
        "us a job",
        "ratio",
        "queues declared s",
    ):
        table.add_column(heading, justify="left" if heading == "broker" else "right")
    for name, broker_url in brokers.items():
        costs: dict[int, list[_Cost]] = {count: [] for count in wanted.gateways}
        for _ in range(wanted.rounds):
            for count in sorted(wanted.gateways, key=lambda _count: secrets.randbits(32)):
                costs[count].append(_cost(folder, server, redis, broker_url, count, wanted.messages))
        reference = costs[wanted.gateways[0]]
        for count, found in costs.items():
            ratios = [(a.made + a.sent) / (b.made + b.sent) for a, b in zip(found, reference, strict=True)]
            table.add_row(
                name,
                f"{count}",
                f"{statistics.median(each.made for each in found):.0f}",
                f"{statistics.median(each.sent for each in found):.0f}",
                f"{statistics.median(each.wall for each in found):.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{statistics.median(each.first for each in found):.1f}",
            )
    return table


def _cost(
    folder: Path, server: postgres.PostgresServer, redis: RedisBroker, broker_url: str, gateways: int, jobs: int
) -> _Cost:
    """Make and publish so many jobs, spread over so many gateways."""
    with stores.new_database(server) as url:
        database = Database(url)
        sites = fleets(database, gateways)
        fill(sites, jobs, datetime.now(UTC) - timedelta(seconds=1))
        redis.client().flushall()
        publisher = _publisher(folder, url, broker_url)
        begin = time.perf_counter()
        publisher.declare_queues([site.gateway_uid for site in sites])
        first = time.perf_counter() - begin
        used = [_used(server, redis)]
        begin = time.perf_counter()
        uids = _made(database)
        used.append(_used(server, redis))
        if publisher.publish(database, uids) != jobs:
            raise RuntimeError(f"not all of {jobs} jobs were published")
        wall = time.perf_counter() - begin
        used.append(_used(server, redis))
        publisher.close()
        database.dispose()
    made, sent = ((after - before) / jobs * 1e6 for before, after in pairwise(used))
    return _Cost(made=made, sent=sent, wall=wall / jobs * 1e6, first=first)


def _used(server: postgres.PostgresServer, redis: RedisBroker) -> float:
    return time.process_time() + cpu_seconds(*tree(server.process.pid), redis.pid)


# idling


def _idling(seconds: float) -> Table:
    """Bring the system up, give it nothing to do, and see what it uses."""
    with tempfile.TemporaryDirectory(prefix="pam-idle-", ignore_cleanup_errors=True) as name:
        site = Site.bare(Path(name) / "site", 8)
        try:
            time.sleep(10)
            pids = processes_of(site)
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            time.sleep(seconds)
            used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
            memory = {name: pss_megabytes(pid) for name, pid in pids.items()}
        finally:
            site.stop()
    table = Table(title=f"Embedded mode with one gateway and nothing to do, {seconds:.0f} s")
    for heading in ("process", "ms of a processor a second", "processor seconds an hour", "memory MB (proportional)"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name in pids:
        each = used[name] / seconds
        table.add_row(name, f"{each * 1000:.1f}", f"{each * 3600:.0f}", f"{memory[name]:.0f}")
    total = sum(used.values()) / seconds
    table.add_row("in all", f"{total * 1000:.1f}", f"{total * 3600:.0f}", f"{sum(memory.values()):.0f}", style="bold")
    return table


if __name__ == "__main__":
    os.environ.pop("PAM_DATA_DIR", None)
    raise SystemExit(main())
