"""What the KSM endpoints refuse: the answer, the event in the audit log, and that nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from pam_jobs.clock import SystemClock, VirtualClock
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.db.base import Base
from pam_jobs.db.tables import Client, Gateway, StoredFile
from pam_jobs.ids import new_uid, unb64url
from tests.support.ksm import RawDevice
from tests.support.router import RunningRouter, run_router

pytestmark = pytest.mark.integration


def device(router: RunningRouter, **options: Any) -> RawDevice:
    operator = router.operator
    folder = operator.folder()
    operator.record(folder, password="canary-1")
    return RawDevice(router, operator.device(operator.application(folder), "dev one", **options))


def client(router: RunningRouter, raw: RawDevice) -> Client:
    with router.database.transaction(read_only=True) as session:
        return session.scalars(select(Client).where(Client.client_id == raw.client_id)).one()


def rows(router: RunningRouter) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but the audit log."""
    with router.database.transaction(read_only=True) as session:
        return {
            table.name: sorted(map(tuple, session.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
            if table.name != "audit_events"
        }


@contextmanager
def nothing_changes_but_one_event(
    router: RunningRouter, code: str, event: str = "app_client_access_denied"
) -> Iterator[None]:
    before, known = rows(router), len(router.events())
    yield
    assert rows(router) == before
    new = router.events()[known:]
    assert [(entry.event, entry.fields["result_code"]) for entry in new] == [(event, code)]
    assert new[0].remote_address == "127.0.0.1"


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["error"]) == (status, code)
    assert body["message"]
    return body


def test_a_token_binds_once(router: RunningRouter) -> None:
    first = device(router)
    second = RawDevice(router, first.config)
    assert first.ask().status_code == 200
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(second.ask(), 403, "access_denied")
    assert client(router, first).public_key == p256.public_point(first.key)
    # Its first answer may have been lost: the same key is told again.
    assert first.ask().extensions["opened"]["encryptedAppKey"]
    assert "encryptedAppKey" not in first.ask(bind=False).extensions["opened"]


def test_the_answer_of_the_first_contact_opens_with_the_token(router: RunningRouter) -> None:
    raw = device(router)
    opened = raw.ask().extensions["opened"]
    key = aes.decrypt(from_base64(opened["encryptedAppKey"]), unb64url(raw.config["clientKey"]))
    folder = opened["folders"][0]
    assert len(aes.decrypt(from_base64(folder["folderKey"]), key)) == 32
    assert isinstance(folder["records"], list)
    owner = router.operator.vault.session.public_key
    assert from_base64(opened["appOwnerPublicKey"]) == owner


def test_two_keys_at_once_bind_one(router: RunningRouter) -> None:
    from concurrent.futures import ThreadPoolExecutor

    raw = device(router)
    rivals = [RawDevice(router, raw.config) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(RawDevice.ask, rivals))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 5
    winner = next(rival for rival, answer in zip(rivals, answers, strict=True) if answer.status_code == 200)
    assert client(router, raw).public_key == p256.public_point(winner.key)


def test_a_wrong_signature_is_refused(router: RunningRouter) -> None:
    raw = device(router)
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(signer=p256.generate()), 403, "access_denied")
    assert client(router, raw).public_key is None
    raw.ask()
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(bind=False, signer=p256.generate()), 403, "access_denied")
    event = router.events("app_client_access_denied")[-1]
    assert (event.username, event.fields["device_name"], event.client_version) == (
        "client:dev one",
        "dev one",
        "mp17.3.0",
    )


@pytest.mark.parametrize("key_id", ["10", "7", "20", "999999"])
def test_another_server_key_id_is_told_ours(sqlite_router: RunningRouter, key_id: str) -> None:
    raw = device(sqlite_router)
    raw.key_id = key_id
    with nothing_changes_but_one_event(sqlite_router, "key"):
        body = assert_error(raw.ask(), 400, "key")
    assert body["key_id"] == raw.config["serverPublicKeyId"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cut": 1},
        {"cut": 30},
        {"headers": {"TransmissionKey": to_base64(b"x" * 125)}},
        {"headers": {"TransmissionKey": "*"}},
        {"headers": {"TransmissionKey": None}},
        {"headers": {"Authorization": None}},
        {"headers": {"Authorization": "Signature"}},
        {"headers": {"PublicKeyId": None}},
        {"headers": {"PublicKeyId": "abc"}},
    ],
    ids=repr,
)
def test_a_damaged_request_is_never_answered_with_key(sqlite_router: RunningRouter, wrong: dict[str, Any]) -> None:
    raw = device(sqlite_router)
    answer = raw.ask(**wrong)
    assert answer.status_code in {400, 403}
    assert answer.json()["error"] in {"bad_request", "access_denied"}
    denied = sqlite_router.events("app_client_access_denied")
    assert [event.fields["result_code"] for event in denied] == [answer.json()["error"]]
    assert client(sqlite_router, raw).public_key is None


@pytest.mark.parametrize(
    "payload",
    [
        {"clientId": 7},
        {"requestedRecords": "all"},
        {"publicKey": "AAAA"},
        {"requestedRecords": [{}]},
    ],
    ids=repr,
)
def test_a_wrong_payload_is_refused_without_an_echo(sqlite_router: RunningRouter, payload: dict[str, Any]) -> None:
    raw = device(sqlite_router)
    with nothing_changes_but_one_event(sqlite_router, "bad_request"):
        assert_error(raw.ask(bind=False, **payload), 400, "bad_request")


def test_an_unknown_client_version_is_refused(sqlite_router: RunningRouter) -> None:
    raw = device(sqlite_router)
    raw.version = "<script>"
    with nothing_changes_but_one_event(sqlite_router, "invalid_client_version"):
        assert_error(raw.ask(), 400, "invalid_client_version")


def test_an_unknown_device_is_refused(router: RunningRouter) -> None:
    raw = device(router)
    raw.config["clientKey"] = "A" * 43
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(), 403, "access_denied")
    assert router.events("app_client_access_denied")[-1].username == "client:unknown"


def test_a_device_must_be_bound_before_it_asks_anything_else(router: RunningRouter) -> None:
    raw = device(router)
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask("get_folders"), 403, "access_denied")
    assert client(router, raw).public_key is None


def test_a_removed_device_is_refused(router: RunningRouter) -> None:
    raw = device(router)
    raw.ask()
    router.operator.vault.applications.remove_client(raw.client_id)
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(bind=False), 403, "access_denied")


def test_a_device_locked_to_its_address_is_refused_elsewhere(router: RunningRouter) -> None:
    raw = device(router, lock_ip=True)
    raw.ask()
    assert client(router, raw).locked_ip == "127.0.0.1"
    with router.database.transaction() as session:
        session.execute(update(Client).where(Client.client_id == raw.client_id).values(locked_ip="192.0.2.1"))
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(bind=False), 403, "access_denied")
    with nothing_changes_but_one_event(router, "access_denied"):
        assert_error(raw.ask(bind=False, headers={"X-Forwarded-For": "192.0.2.1"}), 403, "access_denied")


def test_access_expires(database_url: str, tmp_path: Path) -> None:
    clock = VirtualClock(datetime.now(UTC))
    with run_router(tmp_path, database_url, clock=clock) as router:
        late = device(router, first_access_expires_in_seconds=60)
        raw = device(router, access_expires_in_seconds=600)
        expires = raw.ask().extensions["opened"]["expiresOn"]
        assert expires == int((clock.now() + timedelta(seconds=600)).timestamp() * 1000)
        clock.advance(timedelta(seconds=61))
        with nothing_changes_but_one_event(router, "access_denied", "app_client_expired"):
            assert_error(late.ask(), 403, "access_denied")
        assert raw.ask(bind=False).status_code == 200
        clock.advance(timedelta(seconds=600))
        with nothing_changes_but_one_event(router, "access_denied", "app_client_expired"):
            assert_error(raw.ask(bind=False), 403, "access_denied")


def test_a_device_that_asks_too_often_is_told_when_to_come_back(database_url: str, tmp_path: Path) -> None:
    clock = VirtualClock(datetime.now(UTC))
    with run_router(tmp_path, database_url, clock=clock, ksm_requests_per_10s=3) as router:
        raw = device(router)
        assert [raw.ask().status_code for _ in range(3)] == [200] * 3
        clock.advance(timedelta(seconds=4))
        with nothing_changes_but_one_event(router, "throttled"):
            body = assert_error(raw.ask(bind=False), 403, "throttled")
        assert body["retry_after"] == pytest.approx(6)
        known = len(router.events())
        assert_error(raw.ask(bind=False), 403, "throttled")
        assert len(router.events()) == known  # said once a window
        assert raw.ask("get_folders", bind=False).status_code == 200  # each endpoint counts by itself
        clock.advance(timedelta(seconds=6.1))
        assert raw.ask(bind=False).status_code == 200


def test_gateways_are_not_throttled(database_url: str, tmp_path: Path) -> None:
    with run_router(tmp_path, database_url, ksm_requests_per_10s=2) as router:
        raw = device(router)
        with router.database.transaction() as session:
            gateway = Gateway(
                uid=new_uid(),
                name="gateway",
                application_uid=session.scalars(select(Client.application_uid)).one(),
                created_at=SystemClock().now(),
            )
            session.add(gateway)
            session.flush()
            session.execute(update(Client).values(gateway_uid=gateway.uid))
        assert [raw.ask().status_code for _ in range(6)] == [200] * 6


def test_an_address_that_is_refused_all_the_time_does_not_fill_the_log(database_url: str, tmp_path: Path) -> None:
    with run_router(tmp_path, database_url, ksm_requests_per_10s=3) as router:
        raw = device(router)
        raw.config["clientKey"] = "A" * 43
        codes = [raw.ask().json()["error"] for _ in range(8)]
        assert codes == ["access_denied"] * 3 + ["throttled"] * 5
        assert len(router.events("app_client_access_denied")) == 4


def _announced(router: RunningRouter, raw: RawDevice, size: int = 100) -> dict[str, Any]:
    raw.ask()
    with router.database.transaction(read_only=True) as session:
        from pam_jobs.db.tables import StoredRecord

        uid = session.scalars(select(StoredRecord.uid)).one()
    answer = raw.ask(
        "add_file",
        bind=False,
        fileRecordUid=new_uid(),
        fileRecordKey=to_base64(b"k" * 125),
        fileRecordData=to_base64(b"d" * 60),
        ownerRecordUid=uid,
        ownerRecordData=to_base64(b"r" * 60),
        ownerRecordRevision=1,
        linkKey=to_base64(b"l" * 60),
        fileSize=size,
    )
    opened: dict[str, Any] = answer.extensions["opened"]
    return opened


def test_an_upload_address_serves_once(router: RunningRouter) -> None:
    told = _announced(router, device(router))
    with router.http() as http:
        assert http.post(told["url"], files={"file": b"x" * 100}).status_code == told["successStatusCode"]
        with nothing_changes_but_one_event(router, "not_found"):
            assert http.post(told["url"], files={"file": b"y" * 100}).status_code == 404
        with router.database.transaction(read_only=True) as session:
            file = session.scalars(select(StoredFile)).one()
        assert (file.upload_token_hash, file.uploaded_at is not None) == (None, True)
        assert http.get(f"/api/files/{file.download_token}").content == b"x" * 100
        with nothing_changes_but_one_event(router, "not_found"):
            assert http.get(f"/api/files/{'A' * 43}").status_code == 404


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"files": {"file": b"x" * 99}}, "invalid_input"),
        ({"files": {"file": b"x" * 300_000}}, "invalid_input"),
        ({"files": {"other": b"x" * 100}}, "invalid_input"),
        ({"content": b"x" * 100}, "invalid_input"),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 100,
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            "invalid_input",
        ),
    ],
    ids=["short", "long", "unnamed", "no form", "cut off"],
)
def test_a_wrong_upload_is_refused_and_may_be_repeated(router: RunningRouter, wrong: dict[str, Any], code: str) -> None:
    told = _announced(router, device(router))
    with router.http() as http:
        with nothing_changes_but_one_event(router, code):
            assert http.post(told["url"], **wrong).status_code == 422
        assert http.post(told["url"], files={"file": b"x" * 100}).status_code == 200


def test_a_file_larger_than_allowed_is_refused(database_url: str, tmp_path: Path) -> None:
    with run_router(tmp_path, database_url, max_file_bytes=1000) as router:
        raw = device(router)
        raw.ask()
        with router.database.transaction(read_only=True) as session:
            from pam_jobs.db.tables import StoredRecord

            uid = session.scalars(select(StoredRecord.uid)).one()
        with nothing_changes_but_one_event(router, "invalid_input"):
            answer = raw.ask(
                "add_file",
                bind=False,
                fileRecordUid=new_uid(),
                fileRecordKey=to_base64(b"k" * 125),
                fileRecordData=to_base64(b"d" * 60),
                ownerRecordUid=uid,
                ownerRecordData=to_base64(b"r" * 60),
                ownerRecordRevision=1,
                linkKey=to_base64(b"l" * 60),
                fileSize=1001,
            )
            assert_error(answer, 422, "invalid_input")


def test_a_request_that_is_too_large_is_refused_before_it_is_read(sqlite_router: RunningRouter) -> None:
    with sqlite_router.http() as http:
        answer = http.post("/api/rest/sm/v1/get_secret", content=b"x" * (9 * 2**20))
        assert answer.status_code == 413
        chunked = http.post("/api/rest/sm/v1/get_secret", content=(b"x" * 2**20 for _ in range(9)))
        assert chunked.status_code == 413
        assert http.post("/api/rest/sm/v1/no_such_endpoint", content=b"x").status_code == 404
