"""What discovery found, matched with what the vault has; the result is put into the database as a gateway would."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pam_jobs.client.discovery import Answer, Choice, Processed, Proposal
from pam_jobs.client.vault import VaultClient
from pam_jobs.crypto import aes
from pam_jobs.db.tables import DiscoveryResult, Job, JobState
from pam_jobs.errors import InvalidInput
from pam_jobs.records.record import Record
from pam_jobs.records.types import new_record
from tests.support.operator import Office

pytestmark = pytest.mark.unit

LOGINS = ("app", "late")


def database(title: str) -> Record:
    record = new_record("pamDatabase", title, complete=False)
    return record.set_field("pamHostname", {"hostName": "db", "port": "5432"})


def user(login: str) -> Record:
    return (
        new_record("pamUser", login, complete=False).set_field("login", login).set_field("password", "Found-canary-1")
    )


def network(client: VaultClient, name: str) -> tuple[str, str]:
    """Return the configuration of a new folder with a gateway of its own, and the folder."""
    folder = client.folders.find(client.folders.add(name, None))
    app = client.applications.find(client.applications.add(name))
    client.applications.share(app, folder, can_edit=True)
    app = client.applications.find(app.uid)
    gateway, _ = client.pam.add_gateway(app, name, token_seconds=60)
    record = new_record("pamNetworkConfiguration", name, complete=False)
    uid = client.pam.add_configuration(
        record, folder, client.pam.find_gateway(gateway), environment="local", schedule=[], rotation_enabled=True
    )
    return uid, folder.uid


def found(client: VaultClient, office: Office, configuration: str, admin: str | None = None) -> str:
    """Return a finished discovery of one database with the users ``LOGINS``."""
    job: str = client.discovery.start(configuration, None, {})["uid"]
    host = {"type": "pamHostname", "label": None, "value": [{"hostName": "db", "port": "5432"}]}
    shared = {"description": None, "item": {}, "access_user": {"record_uid": admin} if admin else None}
    objects: list[dict[str, Any]] = [
        {"uid": "DB", "object_type_value": "databases", "record_type": "pamDatabase", "parent_uid": None, "id": "db:5432",
         "name": "db", "title": "Database db:5432", "fields": [host], **shared},
    ]  # fmt: skip
    objects += [
        {"uid": login, "object_type_value": "users", "record_type": "pamUser", "parent_uid": "DB", "id": login,
         "name": login, "title": f"User {login}", "fields": [{"type": "login", "label": None, "value": [login]}], **shared}
        for login in LOGINS
    ]  # fmt: skip
    key = client.pam.find_configuration(configuration).require_record().key
    content = aes.encrypt(json.dumps({"objects": objects, "coverage": []}).encode(), key)
    with office.database.transaction() as session:
        session.add(DiscoveryResult(job_uid=job, content=content, counts={}, stored_at=datetime.now(UTC)))
        row = session.get_one(Job, job)
        row.state, row.finished_at, row.status = JobState.SUCCEEDED, datetime.now(UTC), "ok"
    return job


def process(client: VaultClient, job: str) -> Processed:
    def add(_proposal: Proposal) -> Answer:
        return Answer(choice=Choice.ADD)

    return client.discovery.process(job, add)


def test_the_same_address_in_another_network_is_another_machine(office: Office, client: VaultClient) -> None:
    here, place = network(client, "Here")
    admin = client.records.add(user("admin"), client.folders.find(place))
    there, folder = network(client, "There")
    theirs = client.records.add(database("Theirs"), client.folders.find(folder))
    client.pam.link_resource(theirs, there, None)

    done = process(client, found(client, office, here, admin))

    assert [line["title"] for line in done.added] == ["Database db:5432", "User app", "User late"]
    assert done.warnings == []
    links = {link["record_uid"]: link["configuration_uid"] for link in client.pam.resources()}
    assert links == {theirs: there, done.added[0]["record_uid"]: here}


def test_a_user_of_any_record_of_the_server_is_in_the_vault_already(office: Office, client: VaultClient) -> None:
    here, folder = network(client, "Here")
    place = client.folders.find(folder)
    first, second = (client.records.add(database(title), place) for title in ("First", "Second"))
    owner = client.records.add(user("app"), place)
    client.pam.link_resource(first, here, None)
    client.pam.link_resource(second, here, owner)

    done = process(client, found(client, office, here))

    assert [line["title"] for line in done.added] == ["User late"]
    assert {line["record_uid"] for line in done.existing} & {first, second}
    assert owner in {line["record_uid"] for line in done.existing}
    assert done.warnings == []


def test_a_resource_that_is_in_no_configuration_is_linked_for_its_users(office: Office, client: VaultClient) -> None:
    here, folder = network(client, "Here")
    known = client.records.add(database("Known"), client.folders.find(folder))
    admin = client.records.add(user("admin"), client.folders.find(folder))

    done = process(client, found(client, office, here, admin))

    assert [line["title"] for line in done.added] == ["User app", "User late"]
    assert done.warnings == []
    assert [(link["record_uid"], link["configuration_uid"]) for link in client.pam.resources()] == [(known, here)]
    assert {row["resource_uid"] for row in client.pam.rotations()} == {known}


def test_only_known_parameters_reach_the_job(client: VaultClient) -> None:
    here, _ = network(client, "Here")

    for parameters in ({"password": "Canary"}, {"skip_machines": "Canary"}, {"credential_uids": "Canary"}):
        with pytest.raises(InvalidInput) as caught:
            client.discovery.start(here, None, parameters)
        assert "Canary" not in caught.value.sentence()
    assert client.discovery.jobs() == []
