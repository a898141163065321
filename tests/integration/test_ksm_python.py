"""The vendor's Python SDK, unmodified, through its whole cycle."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from keeper_secrets_manager_core import SecretsManager
from keeper_secrets_manager_core.dto.dtos import KeeperFileUpload, Record, RecordCreate, RecordField
from keeper_secrets_manager_core.dto.payload import CreateOptions, QueryOptions, UpdateOptions
from keeper_secrets_manager_core.exceptions import KeeperError

from pam_jobs.clock import SystemClock
from pam_jobs.db.tables import VersionKind
from pam_jobs.ids import unb64url
from pam_jobs.vault import ledger
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration

Connect = Callable[[dict[str, str]], SecretsManager]


@pytest.fixture
def connect(router: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a function that makes an SDK out of a device's configuration, as a user's program does."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(router.tls.ca))

    def make(config: dict[str, str]) -> SecretsManager:
        monkeypatch.setenv("KSM_CONFIG", base64.b64encode(json.dumps(config).encode()).decode())
        sdk = SecretsManager()
        monkeypatch.delenv("KSM_CONFIG")
        return sdk

    return make


def one(sdk: SecretsManager, uid: str) -> Record:
    records = sdk.get_secrets([uid])
    assert len(records) == 1
    return records[0]


def password(record: Record) -> str:
    return str(record.get_standard_field_value("password", single=True))


def new_login(title: str, secret: str) -> RecordCreate:
    record = RecordCreate("login", title)
    record.fields = [RecordField(field_type="login", value=["app"]), RecordField(field_type="password", value=[secret])]
    return record


def states(router: RunningRouter, uid: str) -> list[str]:
    with router.database.transaction(read_only=True) as session:
        return [row.state for row in ledger.versions(session, uid)]


def test_binds_and_reads_by_uid_title_and_notation(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder("prod")
    sub = operator.folder("inner", folder)
    uid = operator.record(folder, "database", login="app", password="canary-read-1")
    inner = operator.record(sub, "inner one", login="x", password="canary-read-2")
    hidden = operator.record(operator.folder("other"), "not shared", password="canary-read-3")

    sdk = connect(operator.device(operator.application(folder)))
    answer = sdk.get_secrets(full_response=True)

    assert (answer.appData.title, answer.warnings) == ("application", [])
    by_uid = {record.uid: record for record in answer.records}
    assert set(by_uid) == {uid, inner}
    assert by_uid[uid].password == "canary-read-1"
    assert (by_uid[uid].inner_folder_uid, by_uid[inner].inner_folder_uid) == (None, sub.uid)
    assert by_uid[uid].is_editable is True
    assert sdk.get_notation(f"keeper://{uid}/field/password") == "canary-read-1"
    assert sdk.get_notation_results("keeper://database/field/login") == ["app"]
    assert [record.uid for record in sdk.get_secrets([inner])] == [inner]
    assert sdk.get_secrets([hidden]) == []
    folders_only = sdk.get_secrets_with_options(QueryOptions(records_filter=None, folders_filter=[sub.uid]))
    assert [record.uid for record in folders_only] == [inner]
    assert [event.event for event in router.events("app_client_connected")] == ["app_client_connected"]
    assert len(router.events("app_client_access")) == 7  # the SDK asks twice when it binds
    assert b"canary-read" not in router.dump()


def test_read_only_shares_are_not_editable(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-1")
    sdk = connect(operator.device(operator.application(folder, can_edit=False)))
    record = one(sdk, uid)
    assert record.is_editable is False
    record.set_standard_field_value("password", "canary-2")
    with pytest.raises(KeeperError, match="access_denied"):
        sdk.save(record)
    with pytest.raises(KeeperError, match="access_denied"):
        sdk.create_secret(folder.uid, new_login("new", "canary-3"))
    assert sdk.delete_secret([uid])[0]["responseCode"] == "access_denied"
    assert password(one(sdk, uid)) == "canary-1"


def test_creates_in_a_shared_folder_and_in_a_subfolder(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    sub = operator.folder("sub", folder)
    sdk = connect(operator.device(operator.application(folder)))
    sdk.get_secrets()
    top = sdk.create_secret(folder.uid, new_login("top", "canary-top"))
    low = sdk.create_secret_with_options(CreateOptions(folder.uid, sub.uid), new_login("low", "canary-low"))
    assert password(one(sdk, top)) == "canary-top"
    assert one(sdk, low).inner_folder_uid == sub.uid
    stored = operator.vault.records.get(low)  # the operator opens what the device made
    assert (stored.title, stored.folder_uid, stored.revision) == ("low", sub.uid, 1)
    assert stored.record.password is not None
    assert stored.record.password.reveal() == "canary-low"
    assert {event.fields["record_uid"] for event in router.events("app_client_record_create")} == {top, low}
    assert b"canary-" not in router.dump()


def test_an_update_without_a_transaction_counts_at_once(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    record = one(sdk, uid)
    record.set_standard_field_value("password", "canary-new")
    sdk.save(record)
    again = one(sdk, uid)
    assert (password(again), again.revision) == ("canary-new", record.revision + 1)
    assert states(router, uid) == []


def test_a_stale_revision_is_refused_and_overwrites_nothing(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    first, second = one(sdk, uid), one(sdk, uid)
    first.set_standard_field_value("password", "canary-first")
    second.set_standard_field_value("password", "canary-second")
    sdk.save(first)
    with pytest.raises(KeeperError, match="vault_conflict"):
        sdk.save(second)
    with pytest.raises(KeeperError, match="vault_conflict"):
        sdk.save(second, transaction_type="rotation")
    assert password(one(sdk, uid)) == "canary-first"
    assert states(router, uid) == []
    assert [event.fields["result_code"] for event in router.events("app_client_access_denied")] == [
        "vault_conflict",
        "vault_conflict",
    ]


@pytest.mark.parametrize("kind", ["general", "rotation"])
def test_a_transaction_is_staged_then_finalized(router: RunningRouter, connect: Connect, kind: str) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    record = one(sdk, uid)
    record.set_standard_field_value("password", "canary-new")
    sdk.save(record, transaction_type=kind)
    assert password(one(sdk, uid)) == "canary-old"
    assert states(router, uid) == ["staged", "current"]  # the value before is kept too

    sdk.complete_transaction(uid)
    assert password(one(sdk, uid)) == "canary-new"
    assert states(router, uid) == ["current", "previous"]
    sdk.complete_transaction(uid)  # its answer may have been lost: asked again, it is done already
    assert states(router, uid) == ["current", "previous"]
    assert [event.fields.get("status") for event in router.events("app_client_record_update")] == [
        "staged",
        "finalized",
    ]
    assert b"canary-" not in router.dump()


def test_a_transaction_is_rolled_back(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    record = one(sdk, uid)
    record.set_standard_field_value("password", "canary-new")
    sdk.save(record, transaction_type="rotation")
    with pytest.raises(KeeperError, match="state"):
        sdk.save(record)
    assert sdk.delete_secret([uid])[0]["responseCode"] == "state"
    sdk.complete_transaction(uid, rollback=True)
    sdk.complete_transaction(uid, rollback=True)
    assert password(one(sdk, uid)) == "canary-old"
    assert states(router, uid) == ["abandoned", "current"]
    with pytest.raises(KeeperError, match="state"):
        sdk.complete_transaction(uid)


def test_an_operators_edit_meanwhile_is_not_overwritten_by_finalize(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, "before", password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    record = one(sdk, uid)
    record.set_standard_field_value("password", "canary-new")
    sdk.save(record, transaction_type="rotation")
    operator.vault.records.update(uid, lambda known: known.with_title("after"))
    with pytest.raises(KeeperError, match="vault_conflict"):
        sdk.complete_transaction(uid)
    assert one(sdk, uid).title == "after"
    assert states(router, uid) == ["staged", "current"]
    operator.vault.router.post(f"/api/v1/records/{uid}/rollback")
    assert states(router, uid) == ["abandoned", "current"]


def test_while_a_rotation_is_unresolved_no_device_changes_the_secret(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    record = one(sdk, uid)
    with router.database.transaction() as session:
        ledger.stage(
            session, SystemClock(), record_uid=uid, kind=VersionKind.CREDENTIAL, ciphertext=b"x", epoch=1,
            staged_by="gateway",
        )  # fmt: skip
    record.set_standard_field_value("password", "canary-new")
    for kind in (None, "general", "rotation"):
        with pytest.raises(KeeperError, match="state"):
            sdk.save(record, transaction_type=kind)
    for rollback in (False, True):
        with pytest.raises(KeeperError, match="state"):
            sdk.complete_transaction(uid, rollback=rollback)
    assert sdk.delete_secret([uid])[0]["responseCode"] == "state"
    assert (password(one(sdk, uid)), states(router, uid)) == ("canary-old", ["staged"])


def test_files_go_up_and_come_down_the_same(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    content = b"canary-file-content " + bytes(range(256)) * 300
    record = one(sdk, uid)
    sdk.upload_file(record, KeeperFileUpload(name="a.bin", title="A file", mime_type="text/plain", data=content))
    again = one(sdk, uid)
    file = again.find_file_by_title("A file")
    assert file.get_file_data() == content
    assert (file.name, file.size, again.revision) == ("a.bin", len(content), record.revision + 1)
    assert again.get_standard_field_value("fileRef", single=True) == file.f["fileUid"]
    notation = sdk.get_notation_results(f"keeper://{uid}/file/a.bin")
    assert [unb64url(text) for text in notation] == [content]
    stored = operator.vault.records.get(uid)
    assert operator.vault.records.download(stored.files[0]) == content

    sdk.save_with_options(again, UpdateOptions(None, [file.f["fileUid"]]))
    assert one(sdk, uid).files == []
    with router.http() as http:
        assert http.get(file.f["url"]).status_code == 404
    assert b"canary-" not in router.dump()


def test_a_removed_file_stays_until_its_transaction_is_finalized(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-old")
    sdk = connect(operator.device(operator.application(folder)))
    sdk.upload_file(one(sdk, uid), KeeperFileUpload(name="a", title="a", mime_type="text/plain", data=b"content"))
    record = one(sdk, uid)
    sdk.save_with_options(record, UpdateOptions("general", [record.files[0].f["fileUid"]]))
    assert len(one(sdk, uid).files) == 1
    sdk.complete_transaction(uid)
    assert one(sdk, uid).files == []


def test_folders_are_created_renamed_and_deleted(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder("root")
    sdk = connect(operator.device(operator.application(folder)))
    sdk.get_secrets()
    first = sdk.create_folder(CreateOptions(folder.uid, None), "first")
    second = sdk.create_folder(CreateOptions(folder.uid, first), "second")
    sdk.update_folder(second, "renamed")
    assert {(entry.folder_uid, entry.parent_uid, entry.name) for entry in sdk.get_folders()} == {
        (folder.uid, "", "root"),
        (first, folder.uid, "first"),
        (second, first, "renamed"),
    }
    assert operator.vault.folders.__class__(operator.vault.router, operator.vault.session).find("root/first/renamed")
    uid = sdk.create_secret_with_options(CreateOptions(folder.uid, second), new_login("deep", "canary-deep"))
    assert sdk.delete_folder([first])[0]["responseCode"] == "state"
    assert sdk.delete_folder([folder.uid], force_deletion=True)[0]["responseCode"] == "access_denied"
    assert sdk.delete_folder([first], force_deletion=True) == [
        {"folderUid": first, "responseCode": "ok", "errorMessage": ""}
    ]
    assert sdk.delete_folder([first])[0]["responseCode"] == "ok"
    assert [entry.folder_uid for entry in sdk.get_folders()] == [folder.uid]
    assert sdk.get_secrets([uid]) == []
    assert {event.fields["folder_uid"] for event in router.events("app_client_folder_delete")} == {first, second}


def test_secrets_are_deleted_each_or_not_at_all(router: RunningRouter, connect: Connect) -> None:
    operator = router.operator
    folder = operator.folder()
    uid = operator.record(folder, password="canary-1")
    other = operator.record(operator.folder("other"), password="canary-2")
    sdk = connect(operator.device(operator.application(folder)))
    sdk.get_secrets()
    answer = {entry["recordUid"]: entry["responseCode"] for entry in sdk.delete_secret([uid, other])}
    assert answer == {uid: "ok", other: "not_found"}
    assert sdk.get_secrets() == []
    assert operator.vault.records.get(other).title == "title"
    assert [event.fields["record_uid"] for event in router.events("app_client_record_delete")] == [uid]
    assert [event.fields["record_uid"] for event in router.events("app_client_access_denied")] == [other]
