"""Jobs over the router's own interfaces: operators on one side, a gateway's device on the other."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pam_jobs.api.device import calls as device_calls
from pam_jobs.app import queue_name
from pam_jobs.crypto import p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Client, Gateway, ResourceLink
from pam_jobs.ids import new_uid
from pam_jobs.jobs.signing import key_id
from tests.support.devices import SEALED, DeviceCaller, add_device
from tests.support.fleet import new_fleet
from tests.support.pam_api import PamApi, call, new_api

pytestmark = pytest.mark.integration


@pytest.fixture
def api(database: Database, tmp_path: Path) -> PamApi:
    return new_api(new_fleet(database), tmp_path)


@pytest.fixture
def published(api: PamApi) -> list[str]:
    uids: list[str] = []
    api.app.state.context.after_commit = uids.extend
    return uids


@pytest.fixture
def shown(api: PamApi) -> list[tuple[str, dict[str, Any]]]:
    """What was sent to Flower."""
    events: list[tuple[str, dict[str, Any]]] = []
    api.app.state.context.notify = lambda kind, fields: events.append((kind, fields))
    return events


@pytest.fixture
def device(api: PamApi) -> DeviceCaller:
    return add_device(api)


@pytest.fixture
def record(api: PamApi) -> str:
    uid = api.fleet.add_record()
    api.fleet.put(uid)
    return uid


def submit(api: PamApi, record_uid: str, kind: str = "rotate", status: int = 202, **headers: str) -> dict[str, Any]:
    answer = submit_raw(api, {"kind": kind, "record_uid": record_uid}, **headers)
    assert answer.status_code == status, answer.text
    job: dict[str, Any] = answer.json()
    return job


def submit_raw(api: PamApi, body: dict[str, Any], path: str = "/api/v1/jobs", **headers: str) -> Any:
    from pam_jobs.access import sign_in_token

    token = sign_in_token.issue(api.key, api.username, api.fleet.clock.now())
    sent = {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return call(api.app, "POST", path, json=body, headers=sent)


def rotate(device: DeviceCaller, job_uid: str, *, revision: int = 1) -> None:
    claim = device.claim(job_uid)
    seq = device.on(job_uid, "stage", claim["epoch"], ciphertext=SEALED)["seq"]
    device.on(job_uid, "intend", claim["epoch"], seq=seq)
    device.on(job_uid, "fence", claim["epoch"])
    report = {"epoch": claim["epoch"], "instance": device.instance, "status": "ok", "effect": "applied"}
    answer = device.on(
        job_uid, "promote", claim["epoch"], seq=seq, evidence={"login": "accepted"},
        record_data=to_base64(b"merged"), record_revision=revision, report={**report, "timings": {"change": 2.0}},
    )  # fmt: skip
    assert answer == {"revision": revision + 1, "state": "succeeded"}


def test_a_job_from_submission_to_proof(
    api: PamApi, device: DeviceCaller, record: str, published: list[str], shown: list[tuple[str, dict[str, Any]]]
):
    job = submit(api, record)
    assert published == [job["uid"]]
    assert (job["state"], job["trigger"], job["requested_by"], job["steps"]) == ("created", "on_demand", "ada", [])
    greeting = device.hello()
    assert greeting["queue"] == queue_name(api.fleet.gateway_uid)
    assert greeting["signing_key_id"] == key_id(from_base64(greeting["signing_key"]))
    assert published[1:] == [job["uid"]]  # the gateway came online: what waits for it is sent again
    rotate(device, job["uid"])
    ended = api.get(f"/jobs/{job['uid']}")
    assert (ended["state"], ended["status"], ended["effect"], ended["timings"]) == (
        "succeeded", "ok", "applied", {"change": 2.0},
    )  # fmt: skip
    proof = api.get(f"/records/{record}/proof")
    assert proof["proven"]
    assert proof["current"]["evidence"]["login"] == "accepted"
    assert [kind for kind, _ in shown] == ["worker-online", "task-received", "task-started", "task-succeeded"]
    assert {fields["hostname"] for _, fields in shown} == {"office.i1"}
    assert {fields["uuid"] for _, fields in shown if "uuid" in fields} == {job["uid"]}
    assert record not in json.dumps(shown)


def test_a_second_submission_joins_and_a_key_is_remembered(api: PamApi, device: DeviceCaller, record: str):
    first = submit(api, record, Idempotency_Key="once")
    assert submit(api, record, status=200)["uid"] == first["uid"]
    device.hello()
    rotate(device, first["uid"])
    assert submit(api, record, status=200, Idempotency_Key="once")["uid"] == first["uid"]
    problem = submit_raw(api, {"kind": "verify", "record_uid": record}, Idempotency_Key="once")
    assert (problem.status_code, problem.json()["code"]) == (409, "conflict")


def test_many_records_are_submitted_at_once_and_a_refused_one_keeps_none_from_theirs(
    api: PamApi, record: str, published: list[str]
):
    others = [api.fleet.add_record() for _ in range(60)]  # more than go in one transaction
    for uid in others[1:]:
        api.fleet.put(uid)
    asked = [record, *others, new_uid()]
    body = {"kind": "rotate", "record_uids": asked}
    answers = submit_raw(api, body, "/api/v1/jobs/batch", Idempotency_Key="night").json()["jobs"]
    assert [answer["record_uid"] for answer in answers] == asked
    refused = {answer["record_uid"]: answer["problem"]["code"] for answer in answers if answer["problem"]}
    assert refused == {others[0]: "invalid_input", asked[-1]: "not_found"}
    jobs = [answer["job"]["uid"] for answer in answers if answer["job"]]
    assert len(set(jobs)) == 60
    assert published == jobs
    again = submit_raw(api, body, "/api/v1/jobs/batch", Idempotency_Key="night").json()["jobs"]
    assert [answer["job"]["uid"] for answer in again if answer["job"]] == jobs
    assert not any(answer["is_new"] for answer in again)


@pytest.mark.parametrize("uids", [[], ["not a uid"], [new_uid()] * 1001])
def test_a_malformed_batch_is_refused_and_nothing_is_written(
    api: PamApi, record: str, published: list[str], uids: list[str]
):
    body = {"kind": "rotate", "record_uids": [record, *uids] if uids else []}
    assert submit_raw(api, body, "/api/v1/jobs/batch").status_code == 422
    assert published == []
    assert api.get("/jobs")["jobs"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "rotate", "record_uid": "short"}, 422),
        ({"kind": "rotate", "record_uid": new_uid()}, 404),
        ({"kind": "discover", "record_uid": new_uid()}, 422),
        ({"kind": "explode", "record_uid": new_uid()}, 422),
        ({"kind": "rotate"}, 422),
        ({"kind": "rotate", "record_uid": new_uid(), "extra": 1}, 422),
        ({"kind": "rotate", "record_uid": new_uid(), "parameters": {"a": {"b": 1}}}, 422),
        ({"kind": "rotate", "record_uid": new_uid(), "parameters": {"a": "x" * 5000}}, 422),
        ({"kind": "rotate", "record_uid": new_uid(), "parameters": {"password": "canary"}}, 422),
        ({"kind": "rotate", "record_uid": new_uid(), "parameters": {"reconcile": "canary"}}, 422),
    ],
)
def test_a_malformed_submission_is_refused_and_nothing_is_written(
    api: PamApi, published: list[str], body: dict[str, Any], status: int
):
    problem = api.refused("POST", "/jobs", body, status=status)
    assert problem["remedy"]
    assert api.fleet.jobs() == []
    assert published == []


def test_a_record_that_cannot_be_rotated_is_refused_with_the_remedy(api: PamApi, record: str):
    without = api.fleet.add_record()
    body = {"kind": "rotate", "record_uid": without}
    assert "pam rotation edit" in api.refused("POST", "/jobs", body, status=422)["remedy"]
    body = {"kind": "rotate", "record_uid": record}
    with api.fleet.database.transaction() as session:
        session.get_one(ResourceLink, api.fleet.resource_uid).admin_uid = None
    assert "admin" in api.refused("POST", "/jobs", body, status=422)["detail"]
    with api.fleet.database.transaction() as session:
        session.get_one(ResourceLink, api.fleet.resource_uid).admin_uid = api.fleet.admin_uid
    api.fleet.put(record, disabled=True)
    assert "disabled" in api.refused("POST", "/jobs", body, status=422)["detail"]
    assert submit(api, record, "verify")["kind"] == "verify"  # looking is not changing
    api.fleet.put(record, disabled=False)
    with api.fleet.database.transaction() as session:
        session.get_one(Gateway, api.fleet.gateway_uid).removed_at = api.fleet.clock.now()
    assert "gateway" in api.refused("POST", "/jobs", body, status=422)["detail"]
    assert [job.kind for job in api.fleet.jobs(record)] == ["verify"]


def test_only_who_may_submits_and_only_on_records_of_the_own_folders(api: PamApi, record: str):
    body = {"kind": "rotate", "record_uid": record}
    assert call(api.app, "POST", "/api/v1/jobs", json=body).status_code == 401
    api.as_other("eve", "auditor").refused("POST", "/jobs", body, status=403)
    api.as_other("bob", "operator").refused("POST", "/jobs", body, status=404)
    assert api.as_other("zoe", "auditor").get("/jobs") == {"jobs": [], "next": None}


def test_jobs_are_listed_newest_first_by_pages_and_filters(api: PamApi, device: DeviceCaller):
    uids = []
    for _ in range(5):
        record = api.fleet.add_record()
        api.fleet.put(record)
        uids.append(submit(api, record)["uid"])
        api.fleet.clock.advance(timedelta(seconds=1))
    uids.reverse()
    page = api.get("/jobs", params={"limit": 2})
    assert [job["uid"] for job in page["jobs"]] == uids[:2]
    rest = api.get("/jobs", params={"limit": 3, "before": page["next"]})
    assert [job["uid"] for job in rest["jobs"]] == uids[2:]
    assert rest["next"] is None
    device.hello()
    assert device.claim(uids[1])["job_uid"] == uids[-1]  # whatever the message named: the one that has waited longest
    assert [job["uid"] for job in api.get("/jobs", params={"state": "leased"})["jobs"]] == [uids[-1]]
    assert api.get("/jobs", params={"record_uid": record})["jobs"][0]["uid"] == uids[0]
    assert api.get("/jobs", params={"kind": "verify"})["jobs"] == []
    assert len(api.get("/jobs", params={"gateway_uid": api.fleet.gateway_uid})["jobs"]) == 5
    assert api.request("GET", "/jobs", params={"limit": 0}).status_code == 422
    assert api.request("GET", "/jobs", params={"before": new_uid()}).status_code == 404


def test_a_job_is_cancelled_explained_and_told_to_its_instance(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)
    answer = api.get(f"/jobs/{job['uid']}/explain")
    assert answer["state"] == "created"
    assert any("never online" in sentence for sentence in answer["reasons"])
    device.hello()
    claim = device.claim(job["uid"])
    assert api.done("POST", f"/jobs/{job['uid']}/cancel")["state"] == "leased"
    beat = device.done("/heartbeat", instance="i1", running=[job["uid"]])
    assert beat["cancelled"] == [job["uid"]]
    device.refused(f"/jobs/{job['uid']}/intend", 409, "state", instance="i1", epoch=claim["epoch"], seq=1)
    device.on(job["uid"], "report", claim["epoch"], status="cancelled")
    problem = api.refused("POST", f"/jobs/{job['uid']}/cancel", status=409)
    assert "has ended" in problem["detail"]
    api.refused("POST", f"/jobs/{new_uid()}/cancel", status=404)
    api.refused("GET", f"/jobs/{new_uid()}/explain", status=404)


def test_a_stale_epoch_is_refused_at_every_endpoint(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)["uid"]
    device.hello()
    old = device.claim(job)["epoch"]
    device.on(job, "stage", old, ciphertext=SEALED)
    api.fleet.clock.advance(timedelta(seconds=61))
    device.hello()
    new = device.claim(job)["epoch"]
    assert new == old + 1
    bodies: dict[str, dict[str, Any]] = {
        "renew": {}, "fence": {}, "exclusive": {"tags": ["t" * 22]}, "stage": {"ciphertext": SEALED}, "intend": {"seq": 1},
        "promote": {"seq": 1, "evidence": {"login": "accepted"}, "record_data": SEALED, "record_revision": 1},
        "abandon": {"seq": 1, "reason": "policy_refused", "evidence": {"current": "accepted"}},
        "refusals": {"count": 1}, "login": {"uid": "p" * 22, "state": "wanted", "of": "admin"}, "admin": {}, "steps": {"steps": []}, "steps/start": {"key": "a"},
        "steps/finish": {"key": "a", "state": "succeeded"}, "report": {"status": "failed"},
        "release": {"reason": "shutdown"}, "discovery": {"content": SEALED, "counts": {}}, "lift": {"known": 9},
        "recover": {
            "ciphertext": SEALED, "evidence": {"login": "accepted"}, "record_data": SEALED, "record_revision": 1,
        },
    }  # fmt: skip
    paths = {path.removeprefix("/jobs/{uid}/") for path in device_calls.paths if "/jobs/" in path}
    assert paths == {*bodies, "claim"}  # every endpoint there is stands in this test
    for what, body in bodies.items():
        device.refused(f"/jobs/{job}/{what}", 409, "epoch_conflict", instance="i1", epoch=old, **body)
    device.on(job, "intend", new, seq=1)


def test_an_administrator_waits_while_another_one_of_its_server_is_changed(
    api: PamApi, device: DeviceCaller, published: list[str], shown: list[tuple[str, dict[str, Any]]]
):
    records = []
    for _ in range(2):
        admin, resource = api.fleet.add_record(), api.fleet.add_record()
        link = {"configuration_uid": api.fleet.configuration_uid, "admin_uid": admin}
        api.done("PUT", f"/resources/{resource}", link)
        api.fleet.put(admin, resource_uid=resource)
        records.append(admin)
    first, second = (submit(api, record)["uid"] for record in records)
    device.hello()
    claims = {claim["job_uid"]: claim for claim in (device.claim(uid) for uid in (first, second))}
    assert [claims[uid]["administers"] for uid in (first, second)] == [True, True]
    tags = ["t" * 22, "u" * 22]
    assert device.on(first, "exclusive", claims[first]["epoch"], tags=tags) == {"waits_for": None}
    assert device.on(second, "exclusive", claims[second]["epoch"], tags=tags[1:]) == {"waits_for": first}
    device.refused(f"/jobs/{second}/renew", 409, "lease_lost", instance="i1", epoch=claims[second]["epoch"])
    answer = api.get(f"/jobs/{second}/explain")
    assert answer["state"] == "queued"
    assert f"job {first} changes another administrator of the same server" in answer["reasons"][0]
    published.clear()
    device.on(first, "report", claims[first]["epoch"], status="failed")
    assert published == [second]
    again = device.claim(second)
    assert device.on(second, "exclusive", again["epoch"], tags=tags) == {"waits_for": None}
    for wrong in ([], ["db1.example.com:5432"], tags * 20):
        device.refused(f"/jobs/{second}/exclusive", 422, instance="i1", epoch=again["epoch"], tags=wrong)
    assert not any(tag in str(shown) + str(api.get(f"/jobs/{first}")) for tag in tags)


def test_the_lockout_budget_is_shared_by_all_attempts_and_refills(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)["uid"]
    device.hello()
    claim = device.claim(job)
    assert claim["refusals_left"] == 3
    assert device.on(job, "refusals", claim["epoch"], count=2) == {"refused": 2, "refusals_left": 1}
    device.on(job, "report", claim["epoch"], status="failed")
    other = submit(api, record, "verify")["uid"]
    claim = device.claim(other)
    assert claim["refusals_left"] == 1
    assert device.on(other, "refusals", claim["epoch"], count=5) == {"refused": 7, "refusals_left": 0}
    device.on(other, "report", claim["epoch"], status="failed")
    api.fleet.clock.advance(timedelta(seconds=901))
    device.hello()
    assert device.claim(submit(api, record)["uid"])["refusals_left"] == 3


def test_a_login_as_the_administrator_has_a_place_in_its_budget_first(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)["uid"]
    device.hello()
    epoch = device.claim(job)["epoch"]

    def say(state: str, place: str, **rule: Any) -> tuple[bool, bool]:
        told = device.on(job, "login", epoch, uid=place * 22, state=state, of="admin", **rule)
        return told["is_granted"], told["is_used_up"]

    assert [say("wanted", place) for place in "abcd"] == [(True, False)] * 3 + [(False, False)]
    for place in "ab":
        say("refused", place)
    say("undecided", "c")
    assert [say("wanted", "e"), say("wanted", "f")] == [(True, False), (False, False)]
    assert say("wanted", "g", limit=2, window_seconds=60) == (False, True)
    assert device.on(job, "refusals", epoch, count=0, of="admin")["refused"] == 2
    assert device.on(job, "refusals", epoch, count=0)["refused"] == 0, "the job's own account has a budget of its own"


@pytest.mark.parametrize("rule", [{"limit": 0}, {"limit": 101}, {"window_seconds": 86_401}, {"uid": "short"}])
def test_a_place_is_not_asked_for_by_a_rule_out_of_range(
    api: PamApi, device: DeviceCaller, record: str, rule: dict[str, Any]
):
    job = submit(api, record)["uid"]
    device.hello()
    body = {"instance": "i1", "epoch": device.claim(job)["epoch"], "uid": "a" * 22, "state": "wanted", "of": "admin"}
    device.refused(f"/jobs/{job}/login", 422, "invalid_input", **{**body, **rule})


def test_steps_are_sealed_and_shown(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)["uid"]
    device.hello()
    epoch = device.claim(job)["epoch"]
    step = {"key": "script:r:f:0", "position": 0, "kind": "script", "place": "gateway", "state": "pending"}
    assert device.on(job, "steps", epoch, steps=[step])["steps"][0]["state"] == "pending"
    device.on(job, "steps/start", epoch, key=step["key"])
    device.on(job, "steps/finish", epoch, key=step["key"], state="failed", exit_code=3, output=SEALED)
    device.on(job, "report", epoch, status="ok", post_rotation_status="failed", detail=SEALED)
    shown = api.get(f"/jobs/{job}")
    assert (shown["state"], shown["status"], shown["post_rotation_status"]) == ("failed", "ok", "failed")
    assert shown["detail"] == SEALED
    assert (shown["steps"][0]["exit_code"], shown["steps"][0]["output"]) == (3, SEALED)


def test_server_sent_events_follow_a_job_to_its_end(api: PamApi, device: DeviceCaller, record: str):
    job = submit(api, record)["uid"]
    device.hello()

    def work() -> None:
        time.sleep(0.8)
        rotate(device, job)

    thread = threading.Thread(target=work)
    thread.start()
    answer = api.request("GET", f"/jobs/{job}/events")
    thread.join(30)
    assert answer.headers["content-type"].startswith("text/event-stream")
    states = [json.loads(line[6:])["state"] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert states[0] == "created"
    assert states[-1] == "succeeded"
    assert api.request("GET", f"/jobs/{new_uid()}/events").status_code == 404


def test_a_device_proves_itself_and_must_still_have_access(api: PamApi, device: DeviceCaller):
    assert device.request("/hello", {}, Authorization="Bearer x").status_code == 401
    assert device.request("/hello", {}, Authorization="KeeperDevice nonsense").status_code == 401
    now = int(api.fleet.clock.now().timestamp())
    for claims in ({"aud": "others"}, {"iss": "unknown"}, {"exp": now + 4000}):
        device.claims = claims
        device.refused("/hello", 401, instance="i1", version="1")
    for claims in ({"exp": now - 100}, {"iat": now + 900, "exp": now + 999}):
        device.claims = claims
        device.refused("/hello", 401, "clock_differs", instance="i1", version="1")
    device.claims = {}
    device.hello()
    own, device.key = device.key, p256.generate()
    device.refused("/hello", 401, instance="i1", version="1")
    device.key = own
    with api.fleet.database.transaction() as session:
        session.get_one(Client, device.client_id).removed_at = api.fleet.clock.now()
    device.refused("/heartbeat", 403, "access_denied", instance="i1")


@pytest.mark.parametrize(
    "columns",
    [{"gateway": False}, {"access_expires_at": "now"}, {"lock_ip": True, "locked_ip": "192.0.2.7"}],
)
def test_a_device_without_access_is_refused(api: PamApi, columns: dict[str, Any]):
    if "access_expires_at" in columns:
        columns = {"access_expires_at": api.fleet.clock.now()}
    add_device(api, **columns).refused("/hello", 403, "access_denied", instance="i1", version="1")
    [event] = api.fleet.events("app_client_access_denied")
    assert (event.username, event.fields["result_code"]) == ("client:device", "access_denied")


def test_a_removed_gateway_and_one_too_many_instances_are_refused(api: PamApi, device: DeviceCaller):
    device.hello()
    device.refused("/hello", 409, "state", instance="i2", version="1")
    device.done("/goodbye", instance="i1")
    assert len(api.fleet.events("pam_gateway_offline")) == 1
    with api.fleet.database.transaction() as session:
        session.get_one(Gateway, api.fleet.gateway_uid).removed_at = api.fleet.clock.now()
    device.refused("/hello", 403, "access_denied", instance="i1", version="1")


def discover(api: PamApi, status: int = 202, **changes: Any) -> dict[str, Any]:
    body = {"configuration_uid": api.fleet.configuration_uid, "parameters": {"skip_databases": True}, **changes}
    answer = api.request("POST", "/discovery", body)
    assert answer.status_code == status, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_discovery_from_start_to_removal(api: PamApi, device: DeviceCaller, published: list[str]):
    job = discover(api, resource_uid=api.fleet.resource_uid)
    assert published == [job["uid"]]
    uid = job["uid"]
    assert "under way" in discover(api, 409)["detail"]
    api.refused("GET", f"/discovery/{uid}/result", status=404)
    device.hello()
    claim = device.claim(uid)
    assert (claim["kind"], claim["profile"], claim["record_uid"], claim["versions"]) == ("discover", None, None, [])
    assert (claim["resource_uid"], claim["admin_uid"]) == (api.fleet.resource_uid, api.fleet.admin_uid)
    assert claim["parameters"]["skip_databases"] is True
    device.on(uid, "discovery", claim["epoch"], content=SEALED, counts={"machines": 1})
    device.on(uid, "report", claim["epoch"], status="ok")
    result = api.get(f"/discovery/{uid}/result")
    assert (result["content"], result["counts"], result["processed_at"]) == (SEALED, {"machines": 1}, None)
    api.done("POST", f"/discovery/{uid}/processed")
    [row] = api.get("/discovery", params={"configuration_uid": api.fleet.configuration_uid})["jobs"]
    assert (row["state"], row["counts"]) == ("succeeded", {"machines": 1})
    assert row["processed_at"] is not None
    assert api.as_other("bob").get("/discovery")["jobs"] == []
    api.done("DELETE", f"/discovery/{uid}")
    assert api.get("/discovery")["jobs"] == []
    for name in (
        "discovery_job_started",
        "discovery_job_completed",
        "discovery_job_processed",
        "discovery_job_removed",
    ):
        [event] = api.fleet.events(name)
        assert event.fields["job_uid"] == uid
    discover(api)


def test_a_discovery_that_runs_is_cancelled_by_its_removal(api: PamApi, device: DeviceCaller):
    uid = discover(api)["uid"]
    device.hello()
    claim = device.claim(uid)
    assert api.done("DELETE", f"/discovery/{uid}")["state"] == "leased"
    assert device.done("/heartbeat", instance="i1", running=[uid])["cancelled"] == [uid]
    device.on(uid, "report", claim["epoch"], status="cancelled")
    discover(api)


def test_a_discovery_of_nothing_is_refused(api: PamApi, record: str):
    assert discover(api, 404, configuration_uid=new_uid())["remedy"]
    assert discover(api, 404, configuration_uid=record)["remedy"]
    assert discover(api, 404, resource_uid=new_uid())["remedy"]
    assert discover(api, 422, configuration_uid="short")["remedy"]
    assert api.fleet.jobs() == []
