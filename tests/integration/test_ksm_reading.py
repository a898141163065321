"""What one read costs the database, and what links tell."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Client, Gateway, PamConfiguration, ResourceLink, RotationSettings
from pam_jobs.ids import new_uid
from tests.support.ksm import RawDevice
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "SELECT CAST", "SELECT pg_catalog")):
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_read_takes_few_statements_however_many_records(router: RunningRouter) -> None:
    operator = router.operator
    folder = operator.folder()
    uids = [operator.record(folder, password="canary") for _ in range(5)]
    raw = RawDevice(router, operator.device(operator.application(folder)))
    raw.ask()
    for asked in ({}, {"requestedRecords": uids}):
        with statements(router.database) as seen:
            answer = raw.ask(bind=False, **asked)
        assert len(answer.extensions["opened"]["folders"][0]["records"]) == 5
        assert len(seen) == 4, seen  # who asks, records, files, event


def test_an_empty_shared_folder_is_told_unless_records_are_asked_for(router: RunningRouter) -> None:
    operator = router.operator
    folder = operator.folder()
    raw = RawDevice(router, operator.device(operator.application(folder)))
    raw.ask()
    opened = raw.ask(bind=False).extensions["opened"]
    assert [(entry["folderUid"], entry["records"]) for entry in opened["folders"]] == [(folder.uid, [])]
    assert opened["records"] == []
    assert raw.ask(bind=False, requestedRecords=[new_uid()]).extensions["opened"]["folders"] == []


def test_links_tell_who_belongs_to_what(router: RunningRouter) -> None:
    operator = router.operator
    folder = operator.folder()
    configuration, machine, admin, user, other = (operator.record(folder, name) for name in "cmauo")
    raw = RawDevice(router, operator.device(operator.application(folder)))
    now = SystemClock().now()
    with router.database.transaction() as session:
        application_uid = session.scalars(select(Client.application_uid)).one()
        gateway = Gateway(uid=new_uid(), name="g", application_uid=application_uid, created_at=now)
        session.add(gateway)
        session.flush()
        session.add(
            PamConfiguration(
                record_uid=configuration, gateway_uid=gateway.uid, environment="local", default_schedule="[]",
                created_at=now,
            )
        )  # fmt: skip
        session.flush()
        session.add(ResourceLink(resource_uid=machine, configuration_uid=configuration, admin_uid=admin))
        session.flush()
        for record_uid, resource_uid, profile in ((user, machine, "general"), (other, None, "scripts_only")):
            session.add(
                RotationSettings(
                    record_uid=record_uid, configuration_uid=configuration, resource_uid=resource_uid, profile=profile,
                    schedule="[]", updated_at=now,
                )
            )  # fmt: skip
    raw.ask()
    opened = raw.ask(bind=False, requestLinks=True).extensions["opened"]
    links = {
        record["recordUid"]: {
            (link["recordUid"], link["path"]): json.loads(base64.b64decode(link["data"])) for link in record["links"]
        }
        for record in opened["folders"][0]["records"]
    }
    assert links[machine][machine, "meta"]["allowedSettings"] == {"rotation": True}
    assert links[machine][admin, None]["is_admin"] is True
    assert links[machine][user, None]["belongs_to"] is True
    assert links[machine][user, None]["rotation_settings"]["noop"] is False
    assert links[configuration][other, None]["rotation_settings"]["noop"] is True
    assert links[user] == {}
    plain = raw.ask(bind=False).extensions["opened"]["folders"][0]["records"]
    assert all(record["links"] == [] for record in plain)
    refused = raw.ask("delete_secret", bind=False, recordUids=[machine, admin, configuration, user])
    codes = {entry["recordUid"]: entry["responseCode"] for entry in refused.extensions["opened"]["records"]}
    assert codes == {machine: "state", admin: "state", configuration: "state", user: "ok"}
