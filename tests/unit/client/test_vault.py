from __future__ import annotations

import pytest

from pam_jobs.client.vault import VaultClient
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.records.record import Record
from pam_jobs.records.types import assign, new_record
from pam_jobs.secret import SecretValue
from tests.support.database import dump
from tests.support.operator import Office

pytestmark = pytest.mark.unit

SECRET = "Tr0ub4dor&3-canary"


def user(title: str = "alice") -> Record:
    return new_record("pamUser", title, [("login", "alice-login"), ("password", SECRET)])


def test_what_is_stored_comes_back_and_the_router_never_sees_it(office: Office, client: VaultClient) -> None:
    folder = client.folders.find(client.folders.add("Servers-canary"))
    uid = client.records.add(user("title-canary"), folder)

    stored = office.client().records.get(uid)

    assert stored.record.password == SecretValue(SECRET)
    assert (stored.title, stored.folder_uid, stored.version) == ("title-canary", folder.uid, 3)
    sent = b"".join(office.transport.seen)
    kept = dump(str(office.database.engine.url))
    for word in (SECRET, "alice-login", "title-canary", "Servers-canary"):
        assert word.encode() not in sent
        assert word.encode() not in kept


def test_a_subfolder_has_its_own_key_under_the_top_folders(office: Office, client: VaultClient) -> None:
    top = client.folders.find(client.folders.add("Top"))
    sub = client.folders.find(client.folders.add("Sub", top))
    uid = client.records.add(user(), sub)

    other = office.client()

    assert other.folders.path(other.folders.find(sub.uid)) == "Top/Sub"
    assert other.folders.find("Top/Sub").root_uid == top.uid
    assert other.records.get(uid).record.login == "alice-login"
    assert [entry.uid for entry in other.records.list(other.folders.find("Sub"))] == [uid]


def test_a_folder_name_that_several_have_is_refused(client: VaultClient) -> None:
    client.folders.add("Twice")
    client.folders.add("Twice")

    with pytest.raises(InvalidInput, match="2 folders"):
        client.folders.find("Twice")
    with pytest.raises(NotFound, match="no folder 'thrice'"):
        client.folders.find("thrice")
    with pytest.raises(InvalidInput):
        client.folders.add("  ")


def test_a_folder_goes_only_when_it_is_empty(client: VaultClient) -> None:
    folder = client.folders.find(client.folders.add("Full"))
    uid = client.records.add(user(), folder)
    with pytest.raises(StateError):
        client.folders.remove(folder)

    client.records.delete(uid)
    client.folders.remove(folder)

    assert client.folders.list() == []


def test_records_are_found_by_uid_or_exact_title(client: VaultClient) -> None:
    folder = client.folders.find(client.folders.add("Servers"))
    uid = client.records.add(user("alice"), folder)
    client.records.add(user("bob"), folder)
    client.records.add(user("bob"), folder)

    assert client.records.find(uid).title == "alice"
    assert client.records.find("alice").uid == uid
    with pytest.raises(NotFound):
        client.records.find("alic")
    with pytest.raises(InvalidInput, match="2 records"):
        client.records.find("bob")
    with pytest.raises(NotFound):
        client.records.find("AAAAAAAAAAAAAAAAAAAAAA")


def test_a_change_made_meanwhile_is_kept(client: VaultClient, office: Office) -> None:
    folder = client.folders.find(client.folders.add("Servers"))
    uid = client.records.add(user(), folder)
    calls = []

    def change(record: Record) -> Record:
        if not calls:  # somebody else is faster, once
            office.client().records.update(uid, lambda other: other.with_notes("theirs"))
        calls.append(1)
        return record.with_title("mine")

    stored = client.records.update(uid, change)

    assert (stored.record.title, stored.record.notes, len(calls)) == ("mine", "theirs", 2)


def test_a_changed_password_becomes_the_ledgers_current_version(client: VaultClient) -> None:
    folder = client.folders.find(client.folders.add("Servers"))
    uid = client.records.add(user(), folder)

    client.records.update(uid, lambda record: assign(record, [("password", "another one")]))
    client.records.update(uid, lambda record: record.with_notes("no new password"))

    versions = client.router.get(f"/api/v1/records/{uid}/versions")["versions"]
    assert [row["state"] for row in versions] == ["current", "previous"]


def test_files_are_sealed_and_listed_in_the_record(client: VaultClient, office: Office) -> None:
    folder = client.folders.find(client.folders.add("Servers"))
    uid = client.records.add(user(), folder)

    file_uid = client.records.attach(uid, "after.sh", b"#!/bin/sh\necho canary-content\n")

    stored = office.client().records.get(uid)
    assert [(file.uid, file.name) for file in stored.files] == [(file_uid, "after.sh")]
    assert stored.record.file_uids() == [file_uid]
    assert client.records.download(stored.files[0]) == b"#!/bin/sh\necho canary-content\n"
    assert b"canary-content" not in dump(str(office.database.engine.url))

    client.records.detach(uid, file_uid)
    assert office.client().records.get(uid).files == ()


def test_a_file_that_nothing_refers_to_does_not_stay(client: VaultClient) -> None:
    folder = client.folders.find(client.folders.add("Servers"))
    uid = client.records.add(user(), folder)

    def fail(_record: Record, _uid: str) -> Record:
        raise InvalidInput("no")

    with pytest.raises(InvalidInput, match="no"):
        client.records.attach(uid, "x", b"x", fail)

    assert client.records.get(uid).files == ()


def test_the_keys_of_one_user_open_nothing_for_another(client: VaultClient, office: Office) -> None:
    from pam_jobs.client.passphrase import new_user
    from pam_jobs.client.session import sign_in

    folder = client.folders.find(client.folders.add("Mine"))
    uid = client.records.add(user(), folder)
    client.router.post("/api/v1/users", new_user("eve", SecretValue("another passphrase"), "operator"))

    eve = office.client(sign_in(office.anonymous(), "eve", SecretValue("another passphrase")))

    assert eve.folders.list() == []
    assert eve.records.list() == []
    with pytest.raises(NotFound):
        eve.records.get(uid)
