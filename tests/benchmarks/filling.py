"""A control plane's database with as many schedules as a benchmark wants, without going through the services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import psycopg
from sqlalchemy import insert

from pam_jobs.clock import SystemClock
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import (
    Gateway,
    JobKind,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    Schedule,
    StoredRecord,
)
from pam_jobs.ids import new_uid
from pam_jobs.rotation.schedules import schedule_uid
from tests.support.fleet import Fleet, new_fleet

__all__ = ["fill", "fleets"]

_ZONES = ("Etc/UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo")
_CHUNK = 5000


def _specs(now: datetime) -> list[str]:
    """Return two hundred monthly schedules in four zones, none of which has a run in the coming days."""
    day = min(28, (now + timedelta(days=10)).day)
    return [
        f'[{{"type":"CRON","cron":"{minute} {hour} {day} * *","tz":"{zone}"}}]'
        for zone in _ZONES
        for hour in range(0, 24, 6)
        for minute in range(0, 60, 5)
    ]


def fleets(database: Database, count: int) -> list[Fleet]:
    """Make so many gateways, each with a configuration and a resource of its own; folder and application are shared."""
    first = new_fleet(database, SystemClock())  # type: ignore[arg-type]
    sites = [first]
    for _ in range(1, count):
        uids = {f"{name}_uid": new_uid() for name in ("gateway", "configuration", "resource")}
        sites.append(replace(first, **uids))
    further, now = sites[1:], first.clock.now()
    if not further:
        return sites
    _load(
        database,
        Gateway,
        {"application_uid": first.application_uid, "max_instances": 1, "created_at": now},
        ({"uid": site.gateway_uid, "name": f"office {number}"} for number, site in enumerate(further)),
    )
    _load(
        database,
        StoredRecord,
        _record(first, now),
        ({"uid": uid, "version": version}
         for site in further for uid, version in ((site.configuration_uid, 6), (site.resource_uid, 3))),
    )  # fmt: skip
    _load(
        database,
        PamConfiguration,
        {"environment": "local", "default_schedule": "[]", "rotation_enabled": True, "created_at": now},
        ({"record_uid": site.configuration_uid, "gateway_uid": site.gateway_uid} for site in further),
    )
    _load(
        database,
        ResourceLink,
        {"admin_uid": first.admin_uid},
        ({"resource_uid": site.resource_uid, "configuration_uid": site.configuration_uid} for site in further),
    )
    return sites


def _record(first: Fleet, now: datetime) -> dict[str, Any]:
    return {
        "folder_uid": first.folder_uid, "owner_uid": first.user_uid, "key_by_folder": b"", "key_by_owner": b"",
        "data": b"", "revision": 1, "created_at": now, "updated_at": now,
    }  # fmt: skip


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
    specs = _specs(now)
    _load(database, StoredRecord, _record(sites[0], now), ({"uid": uid, "version": 3} for uid in uids))
    _load(
        database,
        RotationSettings,
        {"profile": "general", "inherits_schedule": False, "disabled": False, "revision": 1, "updated_at": now,
         "drift": "unchecked"},
        ({"record_uid": uid, "configuration_uid": place.configuration_uid, "resource_uid": place.resource_uid,
          "schedule": specs[number % len(specs)]}
         for number, (uid, place) in enumerate(zip(uids, places, strict=True))),
    )  # fmt: skip
    _load(
        database,
        Schedule,
        {"kind": "rotate", "anchor_at": now, "paused": False},
        ({"uid": schedule_uid(JobKind.ROTATE, uid), "subject_uid": uid, "spec": specs[number % len(specs)],
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
