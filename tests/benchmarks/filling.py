"""A control plane's database with as many schedules as a benchmark wants, without going through the services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import psycopg
from sqlalchemy import insert

from pam_jobs.clock import SystemClock
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import JobKind, RotationSettings, Schedule, StoredRecord
from pam_jobs.ids import new_uid
from pam_jobs.rotation import configurations, gateways, resources
from pam_jobs.rotation.schedules import schedule_uid
from tests.support.fleet import OPERATOR, Fleet, add_folder, add_record, new_fleet, share

__all__ = ["SPECS", "fill", "fleets"]

_ZONES = ("Etc/UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo")
SPECS = tuple(
    f'[{{"type":"CRON","cron":"{minute} {hour} * * *","tz":"{zone}"}}]'
    for zone in _ZONES
    for hour in range(0, 24, 6)
    for minute in range(0, 60, 5)
)
"""Two hundred daily schedules in four zones."""
_CHUNK = 5000


def fleets(database: Database, count: int) -> list[Fleet]:
    """Make so many gateways, each with an application, a folder, a configuration, a resource and its admin."""
    first = new_fleet(database, SystemClock())  # type: ignore[arg-type]
    return [first, *(_further(first, number) for number in range(1, count))]


def _further(first: Fleet, number: int) -> Fleet:
    clock, database = first.clock, first.database
    with database.transaction() as session:
        folder = add_folder(session, clock, first.user_uid)
        share(session, clock, first.application_uid, folder)
        gateway = gateways.create(
            session, clock, OPERATOR, uid=new_uid(), name=f"office {number}", application_uid=first.application_uid
        )
        configuration = add_record(session, clock, folder, first.user_uid, version=6)
        wanted = configurations.NewConfiguration(
            record_uid=configuration, gateway_uid=gateway.uid, environment="local", default_schedule=[]
        )
        configurations.create(session, clock, OPERATOR, wanted, minimum_seconds=3600)
        resource = add_record(session, clock, folder, first.user_uid)
        admin = add_record(session, clock, folder, first.user_uid)
        resources.put(session, clock, OPERATOR, resource, configuration_uid=configuration, admin_uid=admin)
        return Fleet(
            database=database, clock=clock, user_uid=first.user_uid, folder_uid=folder,
            application_uid=first.application_uid, gateway_uid=gateway.uid, configuration_uid=configuration,
            resource_uid=resource, admin_uid=admin,
        )  # fmt: skip


def fill(sites: Sequence[Fleet], count: int, due: datetime, over: timedelta = timedelta(0)) -> None:
    """Add so many records with a schedule each, spread evenly over the fleets.

    Args:
        sites: of ``fleets``.
        count: of schedules.
        due: when the first is due.
        over: within which the others follow, evenly.
    """
    database = sites[0].database
    uids = [new_uid() for _ in range(count)]
    places = [sites[number % len(sites)] for number in range(count)]
    now = sites[0].clock.now()
    _load(
        database,
        StoredRecord,
        {"version": 3, "key_by_folder": b"", "key_by_owner": b"", "data": b"", "revision": 1, "created_at": now,
         "updated_at": now},
        ({"uid": uid, "folder_uid": place.folder_uid, "owner_uid": place.user_uid}
         for uid, place in zip(uids, places, strict=True)),
    )  # fmt: skip
    _load(
        database,
        RotationSettings,
        {"profile": "general", "inherits_schedule": False, "disabled": False, "revision": 1, "updated_at": now,
         "drift": "unchecked"},
        ({"record_uid": uid, "configuration_uid": place.configuration_uid, "resource_uid": place.resource_uid,
          "schedule": SPECS[number % len(SPECS)]}
         for number, (uid, place) in enumerate(zip(uids, places, strict=True))),
    )  # fmt: skip
    _load(
        database,
        Schedule,
        {"kind": "rotate", "anchor_at": now, "paused": False},
        ({"uid": schedule_uid(JobKind.ROTATE, uid), "subject_uid": uid, "spec": SPECS[number % len(SPECS)],
          "next_run_at": due + over * number / count}
         for number, uid in enumerate(uids)),
    )  # fmt: skip


def _load(database: Database, model: Any, common: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows by the fastest way that the database has."""
    table = table_of(model)
    iterator = iter(rows)
    if database.is_sqlite:
        while chunk := [common | row for row in islice(iterator, _CHUNK)]:
            with database.transaction() as session:
                session.execute(insert(table), chunk)
        return
    first = next(iterator)
    names = [*common, *first]
    with psycopg.connect(database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")) as link:
        words = f"COPY {table.name} ({', '.join(names)}) FROM STDIN"
        with link.cursor() as cursor, cursor.copy(words) as copy:
            for row in _with(first, iterator):
                copy.write_row((*common.values(), *row.values()))


def _with(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest
