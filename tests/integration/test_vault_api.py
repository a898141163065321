"""The operator's REST API: vault, applications, users, tokens, health."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from pam_jobs.access import users
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import TokenSource, sign_in
from pam_jobs.clock import SystemClock, VirtualClock
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import to_base64
from pam_jobs.db.tables import CredentialVersion, StoredFile, StoredRecord, VersionKind
from pam_jobs.errors import AccessDenied, AlreadyExists, InvalidInput, NotFound, StateError, VaultConflict
from pam_jobs.ids import new_uid
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from pam_jobs.vault import ledger
from tests.support.router import Operator, RunningRouter, run_router

pytestmark = pytest.mark.integration


def blob(size: int = 60) -> str:
    return to_base64(bytes(size))


def pam_user(title: str, password: str) -> Record:
    return Record.parse(
        {
            "type": "pamUser",
            "title": title,
            "fields": [{"type": "login", "value": ["app"]}, {"type": "password", "value": [password]}],
            "custom": [],
        }
    )


def row_count(router: RunningRouter, table: type[Any]) -> int:
    with router.database.transaction(read_only=True) as session:
        return len(session.scalars(select(table)).all())


def test_folders_and_records_are_seen_by_members_only(router: RunningRouter) -> None:
    ada, bob = router.operator, router.sign_in("bob", "operator")
    folder = ada.folder("canary folder")
    uid = ada.record(folder, "canary title", password="canary-1")
    assert bob.vault.folders.list() == []
    assert bob.vault.records.list() == []
    for work in (
        lambda: bob.vault.records.get(uid),
        lambda: bob.vault.router.get("/api/v1/records", folder_uid=folder.uid),
        lambda: bob.vault.router.put(f"/api/v1/records/{uid}", {"data": blob(), "revision": 1}),
        lambda: bob.vault.router.delete(f"/api/v1/records/{uid}"),
        lambda: bob.vault.router.get(f"/api/v1/records/{uid}/versions"),
        lambda: bob.vault.router.delete(f"/api/v1/folders/{folder.uid}"),
        lambda: bob.vault.router.post(
            "/api/v1/folders", {"uid": new_uid(), "parent_uid": folder.uid, "data": blob(), "key": blob(64)}
        ),
    ):
        with pytest.raises(NotFound):
            work()
    assert ada.vault.records.get(uid).title == "canary title"
    assert b"canary" not in router.dump()
    assert [event.fields["record_uid"] for event in router.events("open_record")] == [uid]


def test_a_record_goes_through_its_life(router: RunningRouter) -> None:
    ada = router.operator
    folder = ada.folder()
    sub = ada.folder("sub", folder)
    uid = ada.vault.records.add(pam_user("db user", "canary-old"), sub)
    stored = ada.vault.records.get(uid)
    assert (stored.folder_uid, stored.root_uid, stored.version, stored.revision) == (sub.uid, folder.uid, 3, 1)
    versions = ada.vault.router.get(f"/api/v1/records/{uid}/versions")["versions"]
    assert [(row["seq"], row["state"], row["evidence"]) for row in versions] == [(1, "current", {"source": "operator"})]
    plain = aes.decrypt(base64.b64decode(versions[0]["ciphertext"]), stored.key)
    assert json.loads(plain)["password"] == "canary-old"

    ada.vault.records.update(uid, lambda record: record.with_credential(password=SecretValue("canary-new")))
    states = [row["state"] for row in ada.vault.router.get(f"/api/v1/records/{uid}/versions")["versions"]]
    assert states == ["current", "previous"]
    with pytest.raises(VaultConflict):
        ada.vault.router.put(f"/api/v1/records/{uid}", {"data": blob(), "revision": 1})
    assert ada.vault.records.get(uid).revision == 2

    file_uid = ada.vault.records.attach(uid, "notes.txt", b"canary-file")
    file = ada.vault.records.get(uid).files[0]
    assert (file.uid, file.name, ada.vault.records.download(file)) == (file_uid, "notes.txt", b"canary-file")
    assert b"canary" not in router.dump()

    ada.vault.router.delete(f"/api/v1/records/{uid}")
    assert [row_count(router, table) for table in (StoredRecord, CredentialVersion, StoredFile)] == [0, 0, 0]
    names = {event.event for event in router.events()}
    assert {"record_add", "folder_add_record", "record_update", "record_password_change", "record_delete"} <= names
    assert {"file_attachment_uploaded", "file_attachment_downloaded"} <= names


def test_a_record_with_an_unresolved_version_is_neither_deleted_nor_given_a_credential(router: RunningRouter) -> None:
    ada = router.operator
    uid = ada.vault.records.add(pam_user("db user", "canary-old"), ada.folder())
    with router.database.transaction() as session:
        ledger.stage(
            session,
            SystemClock(),
            record_uid=uid,
            kind=VersionKind.CREDENTIAL,
            ciphertext=b"x",
            epoch=1,
            staged_by="gateway",
        )
    with pytest.raises(StateError):
        ada.vault.router.delete(f"/api/v1/records/{uid}")
    with pytest.raises(StateError):
        ada.vault.router.put(f"/api/v1/records/{uid}", {"data": blob(), "revision": 1, "credential": blob()})
    with pytest.raises(StateError):
        ada.vault.router.post(f"/api/v1/records/{uid}/rollback")  # a rotation resolves its own
    ada.vault.router.put(f"/api/v1/records/{uid}", {"data": blob(), "revision": 1})
    assert row_count(router, CredentialVersion) == 2


def test_folders_are_deleted_when_empty_and_unshared(router: RunningRouter) -> None:
    ada = router.operator
    folder = ada.folder("root")
    sub = ada.folder("sub", folder)
    uid = ada.record(sub)
    application = ada.application(folder)
    for full in (folder, sub):
        with pytest.raises(StateError):
            ada.vault.folders.remove(full)
    ada.vault.router.delete(f"/api/v1/records/{uid}")
    ada.vault.folders.remove(sub)
    with pytest.raises(StateError):
        ada.vault.folders.remove(folder)
    ada.vault.router.delete(f"/api/v1/applications/{application}/shares/{folder.uid}")
    ada.vault.folders.remove(folder)
    assert ada.vault.folders.list() == []


def test_applications_belong_to_who_made_them(router: RunningRouter) -> None:
    ada, bob = router.operator, router.sign_in("bob", "operator")
    folder = ada.folder()
    sub = ada.folder("sub", folder)
    uid = ada.application(folder)
    ada.device(uid, "laptop")
    known = ada.vault.applications.find(uid)
    assert [client["name"] for client in known.clients] == ["laptop"]
    assert known.clients[0]["is_bound"] is False
    with pytest.raises(InvalidInput):
        ada.vault.router.put(f"/api/v1/applications/{uid}/shares/{sub.uid}", {"key": blob(), "can_edit": True})
    with pytest.raises(AlreadyExists):
        ada.vault.router.post("/api/v1/applications", {"uid": uid, "data": blob(), "key": blob(125)})
    assert bob.vault.applications.list() == []
    for work in (
        lambda: bob.vault.router.get(f"/api/v1/applications/{uid}/clients"),
        lambda: bob.vault.router.delete(f"/api/v1/applications/{uid}"),
        lambda: bob.vault.router.delete("/api/v1/clients", client_id=known.clients[0]["client_id"]),
        lambda: bob.vault.router.put(f"/api/v1/applications/{uid}/shares/{folder.uid}", {"key": blob()}),
    ):
        with pytest.raises(NotFound):
            work()
    ada.vault.applications.remove_client(known.clients[0]["client_id"])
    assert ada.vault.router.get(f"/api/v1/applications/{uid}/clients")["clients"] == []
    ada.vault.router.delete(f"/api/v1/applications/{uid}")
    assert ada.vault.applications.list() == []
    told = [event.event for event in router.events("app_created", "app_folder_shared", "app_client_added")]
    assert sorted(told) == ["app_client_added", "app_created", "app_folder_shared"]


def test_a_user_signs_in_by_a_proof_and_the_passphrase_stays_away(router: RunningRouter) -> None:
    words = SecretValue("canary correct horse")
    new, _ = users.make_user("carol", words, "operator")
    router.operator.vault.router.post("/api/v1/users", new.model_dump(mode="json"))
    with RouterClient(router.url, ca=router.tls.ca) as anonymous:
        session = sign_in(anonymous, "carol", words)
        assert session.public_key == new.public_key
        with pytest.raises(AccessDenied):
            sign_in(anonymous, "carol", SecretValue("wrong"))
        first, second = (
            anonymous.post("/api/v1/sign-in/parameters", {"username": name}) for name in ("nobody", "nobody")
        )
        assert first == second  # an unknown name answers as a known one does
        assert first != anonymous.post("/api/v1/sign-in/parameters", {"username": "nobody else"})
    with RouterClient(router.url, ca=router.tls.ca, token=TokenSource(session)) as carol:
        assert carol.get("/api/v1/me")["permissions"].count("users") == 0
        with pytest.raises(AccessDenied):
            carol.get("/api/v1/users")
    assert {entry["username"] for entry in router.operator.vault.router.get("/api/v1/users")["users"]} == {
        "carol",
        "operator@example.test",
    }
    assert [event.event for event in router.events("login", "login_failure")] == ["login", "login_failure"]
    assert b"canary" not in router.dump()


def test_an_address_that_signs_in_too_often_is_told_to_wait(database_url: str, tmp_path: Path) -> None:
    clock = VirtualClock(datetime.now(UTC))
    body = {"username": "nobody", "proof": blob(32)}
    with run_router(tmp_path, database_url, clock=clock) as router, router.http() as http:
        answers = [http.post("/api/v1/sign-in", json=body) for _ in range(101)]
        assert [answer.status_code for answer in answers] == [401] * 100 + [429]
        assert answers[-1].headers["retry-after"] == "10"
        assert len(router.events("login_failure")) == 100
        clock.advance(timedelta(seconds=10))
        assert http.post("/api/v1/sign-in", json=body).status_code == 401


def test_nobody_gets_in_without_a_good_token(sqlite_router: RunningRouter) -> None:
    with sqlite_router.http() as http:
        for authorization in (None, "Bearer", "Bearer x.y.z", "Basic eDp5", "Bearer pamt_" + "A" * 43):
            headers = {"Authorization": authorization} if authorization else {}
            answer = http.get("/api/v1/records", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "access_denied")
            assert answer.headers["www-authenticate"] == "Bearer"
        stranger = TokenSource(sqlite_router.operator.vault.session.__class__(
            username="operator@example.test", private_key=p256.generate()
        ))  # fmt: skip
        assert http.get("/api/v1/me", headers={"Authorization": f"Bearer {stranger()}"}).status_code == 401


def test_an_api_token_does_what_its_scopes_say(sqlite_router: RunningRouter) -> None:
    ada = sqlite_router.operator
    made = ada.vault.router.post("/api/v1/tokens", {"name": "ci", "scopes": ["jobs:read"], "expires_in_seconds": 3600})
    assert made["token"].encode() not in sqlite_router.dump()
    with sqlite_router.http() as http:
        http.headers["Authorization"] = f"Bearer {made['token']}"
        assert http.get("/api/v1/me").json()["permissions"] == ["jobs_read"]
        assert http.get("/api/v1/jobs").status_code == 200
        assert http.get("/api/v1/records").status_code == 403
        assert http.get("/api/v1/tokens").status_code == 403
        assert [token["uid"] for token in ada.vault.router.get("/api/v1/tokens")["tokens"]] == [made["uid"]]
        ada.vault.router.delete(f"/api/v1/tokens/{made['uid']}")
        assert http.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"uid": "short", "data": blob(), "key": blob()},
        {"uid": "-" + "A" * 21, "data": blob(), "key": blob()},
        {"uid": "A" * 22, "data": blob(5), "key": blob()},
        {"uid": "A" * 22, "data": blob(), "key": blob(300)},
        {"uid": "A" * 22, "data": "*", "key": blob()},
        {"uid": "A" * 22, "data": blob(), "key": blob(), "extra": 1},
    ],
    ids=["empty", "short uid", "dash", "short data", "long key", "no base64", "extra"],
)
def test_a_wrong_body_is_refused_with_the_field_and_without_an_echo(
    sqlite_router: RunningRouter, body: dict[str, Any]
) -> None:
    operator: Operator = sqlite_router.operator
    with pytest.raises(InvalidInput) as caught:
        operator.vault.router.post("/api/v1/folders", body)
    assert "input_value" not in caught.value.message
    assert operator.vault.folders.list() == []


def test_health_and_server_need_no_sign_in(router: RunningRouter) -> None:
    with router.http() as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ok"}
        told = http.get("/api/v1/server").json()
        assert (told["server_public_key"], told["server_public_key_id"]) == (router.context.keys.server_public, "77")
        assert "/api/v1/jobs" in http.get("/api/v1/openapi.json").json()["paths"]
        assert http.get("/api/v1/no-such-thing").status_code == httpx.codes.NOT_FOUND


def test_the_openapi_document_tells_of_problems_and_of_what_authorises(router: RunningRouter) -> None:
    with router.http() as http:
        document = http.get("/api/v1/openapi.json").json()
        problem = http.get("/api/v1/nowhere").json()
        broken = http.post("/api/v1/sign-in", content=b"{", headers={"content-type": "application/json"}).json()

    submit = document["paths"]["/api/v1/jobs"]["post"]
    assert submit["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/api/v1/sign-in"]["post"]
    kind, schema = next(iter(submit["responses"]["default"]["content"].items()))
    assert (kind, schema["schema"]["$ref"]) == ("application/problem+json", "#/components/schemas/Problem")
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert set(problem) <= set(document["components"]["schemas"]["Problem"]["properties"])
    assert problem["remedy"] == "look for the path in /api/v1/openapi.json"
    assert broken["detail"] == "the body is not valid JSON"
