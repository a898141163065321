from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Client, Gateway, GatewayInstance, PamConfiguration
from pam_jobs.ids import new_uid
from pam_jobs.rotation import gateways
from scheduler import due
from tests.support.attempts import begin, register
from tests.support.fleet import Fleet, new_fleet
from tests.support.pam_api import PamApi, call, new_api, new_client

pytestmark = pytest.mark.integration


@pytest.fixture
def api(database: Database, tmp_path: Path) -> PamApi:
    return new_api(new_fleet(database), tmp_path)


def add_instance(fleet: Fleet, name: str, *, seconds_ago: float, stopped: bool = False) -> None:
    seen = fleet.clock.now() - timedelta(seconds=seconds_ago)
    with fleet.database.transaction() as session:
        session.add(
            GatewayInstance(
                gateway_uid=fleet.gateway_uid, instance=name, version="0.1.0;linux;6.1;x86_64;12", details={"pid": 7},
                started_at=seen, last_seen_at=seen, stopped_at=seen if stopped else None, running=2,
            )
        )  # fmt: skip


def test_a_gateway_is_created_with_its_device_and_listed(api: PamApi) -> None:
    uid, client = new_uid(), new_client("branch")
    body = {"uid": uid, "name": "branch", "application_uid": api.fleet.application_uid, "client": client}
    made = api.done("POST", "/gateways", body)

    assert made["status"] == "OFFLINE"
    assert [row["name"] for row in api.get("/gateways")["gateways"]] == ["branch", "office"]
    with api.fleet.database.transaction(read_only=True) as session:
        device = session.get_one(Client, client["client_id"])
        assert (device.gateway_uid, device.application_uid) == (uid, api.fleet.application_uid)
    assert [event.fields["gateway_uid"] for event in api.fleet.events("pam_gateway_created")][-1] == uid


def test_status_follows_the_heartbeats(api: PamApi) -> None:
    [row] = api.get("/gateways")["gateways"]
    assert (row["status"], row["instances"]) == ("OFFLINE", [])

    add_instance(api.fleet, "alive", seconds_ago=5)
    add_instance(api.fleet, "silent", seconds_ago=600)
    add_instance(api.fleet, "stopped", seconds_ago=5, stopped=True)
    add_instance(api.fleet, "long gone", seconds_ago=200_000)

    [row] = api.get("/gateways")["gateways"]
    assert row["status"] == "ONLINE"
    assert [(each["instance"], each["status"], each["running"]) for each in row["instances"]] == [
        ("silent", "OFFLINE", 2),
        ("alive", "ONLINE", 2),
    ]
    api.fleet.clock.advance(timedelta(seconds=31))
    assert api.get("/gateways")["gateways"][0]["status"] == "OFFLINE"


def test_waiting_jobs_are_counted(api: PamApi) -> None:
    for _ in range(3):
        api.fleet.scheduled()
    api.fleet.clock.advance(timedelta(hours=1))
    due.tick(api.fleet.database, api.fleet.clock)
    assert api.get("/gateways")["gateways"][0]["queued"] == 3


def test_a_gateway_is_renamed_and_resized(api: PamApi) -> None:
    changed = api.done("PATCH", f"/gateways/{api.fleet.gateway_uid}", {"name": "main", "max_instances": 4})
    assert (changed["name"], changed["max_instances"]) == ("main", 4)
    assert len(api.fleet.events("pam_gateway_updated")) == 1


def test_a_gateway_is_drained_and_resumed_and_its_jobs_say_so(api: PamApi) -> None:
    # Given a gateway that works on one job, while another waits
    register(api.fleet)
    records = [api.fleet.scheduled(), api.fleet.scheduled()]
    first, second = (api.done("POST", "/jobs", {"kind": "rotate", "record_uid": uid})["uid"] for uid in records)
    begin(api.fleet, first)
    # When it is drained, then it is told wherever somebody looks
    path = f"/gateways/{api.fleet.gateway_uid}"
    drained = api.done("POST", f"{path}/drain")
    assert (drained["drained_at"], drained["running"], drained["queued"]) == ("2026-03-02T12:00:00Z", 1, 1)
    assert api.get("/gateways")["gateways"] == [drained]
    with api.fleet.database.transaction(read_only=True) as session:
        [(uid, name, _, running)] = gateways.drained(session)
    assert (uid, name, running) == (api.fleet.gateway_uid, "office", 1)
    for where in (f"/jobs/{second}", f"/records/{records[1]}"):
        reasons = " ".join(api.get(f"{where}/explain")["reasons"])
        assert "gateway 'office' is drained since 2026-03-02 12:00:00 UTC" in reasons, reasons
        assert "`pam gateway resume --gateway office`" in reasons
    # When it is resumed, then nothing of it is left; and to do so once more is refused by name, or changes nothing
    assert api.done("POST", f"{path}/resume")["drained_at"] is None
    for where in (f"/jobs/{second}", f"/records/{records[1]}"):
        assert "drained" not in " ".join(api.get(f"{where}/explain")["reasons"])
    assert len(api.fleet.events("pam_gateway_drained")) == len(api.fleet.events("pam_gateway_resumed")) == 1
    for verb in ("drain", "resume"):
        api.refused("POST", f"/gateways/{new_uid()}/{verb}", status=404)
        api.as_other(f"eve-{verb}", "auditor").refused("POST", f"{path}/{verb}", status=403)
    api.refused("GET", f"/records/{new_uid()}/explain", status=404)


@pytest.mark.parametrize(
    "change", [{"max_instances": 0}, {"max_instances": 101}, {"name": ""}, {"name": "a\nb"}, {"status": "ONLINE"}]
)
def test_a_change_that_cannot_be_is_refused(api: PamApi, change: dict[str, object]) -> None:
    api.refused("PATCH", f"/gateways/{api.fleet.gateway_uid}", change, status=422)
    assert api.fleet.events("pam_gateway_updated") == []


def test_a_gateway_in_use_stays_and_an_unused_one_goes_with_its_device(api: PamApi) -> None:
    problem = api.refused("DELETE", f"/gateways/{api.fleet.gateway_uid}", status=409)
    assert api.fleet.configuration_uid in problem["detail"]

    uid, client = new_uid(), new_client("branch")
    body = {"uid": uid, "name": "branch", "application_uid": api.fleet.application_uid, "client": client}
    api.done("POST", "/gateways", body)
    api.done("DELETE", f"/gateways/{uid}")
    assert [row["name"] for row in api.get("/gateways")["gateways"]] == ["office"]
    api.refused("DELETE", f"/gateways/{uid}", status=404)
    with api.fleet.database.transaction(read_only=True) as session:
        assert session.get_one(Gateway, uid).removed_at is not None
        assert session.get_one(Client, client["client_id"]).removed_at is not None
    assert len(api.fleet.events("pam_gateway_removed")) == 1
    assert len(api.fleet.events("app_client_removed")) == 1


def test_what_is_taken_or_unknown_is_refused_before_anything_is_written(api: PamApi) -> None:
    good = {"uid": new_uid(), "name": "b", "application_uid": api.fleet.application_uid, "client": new_client()}
    for status, change in (
        (409, {"name": "office"}),
        (409, {"uid": api.fleet.gateway_uid}),
        (404, {"application_uid": new_uid()}),
        (422, {"uid": "-nope"}),
        (422, {"client": {**new_client(), "first_access_expires_in_seconds": 90_000}}),
        (422, {"extra": 1}),
    ):
        api.refused("POST", "/gateways", {**good, **change}, status=status)
    assert len(api.fleet.events("pam_gateway_created")) == 1
    with api.fleet.database.transaction(read_only=True) as session:
        assert session.query(Client).count() == 0
        assert session.query(Gateway).count() == 1


def test_roles_decide(api: PamApi) -> None:
    auditor = api.as_other("audrey", "auditor")
    assert len(auditor.get("/gateways")["gateways"]) == 1
    auditor.refused("DELETE", f"/gateways/{api.fleet.gateway_uid}", status=403)
    auditor.refused("PUT", f"/resources/{api.fleet.resource_uid}", {"configuration_uid": new_uid()}, status=403)

    other = api.as_other("oscar")
    body = {"uid": new_uid(), "name": "b", "application_uid": api.fleet.application_uid, "client": new_client()}
    other.refused("POST", "/gateways", body, status=404)  # the application is not his
    assert call(api.app, "GET", "/api/v1/gateways").status_code == 401


class TestConfigurations:
    def body(self, api: PamApi, **changes: object) -> dict[str, object]:
        return {
            "record": api.new_record(version=6),
            "gateway_uid": api.fleet.gateway_uid,
            "environment": "local",
            "default_schedule": [{"type": "DAILY", "time": "02:00:00", "tz": "Europe/Paris"}],
            **changes,
        }

    def test_record_and_configuration_are_made_together(self, api: PamApi) -> None:
        made = api.done("POST", "/configurations", self.body(api))
        listed = {row["record_uid"]: row for row in api.get("/configurations")["configurations"]}
        assert listed.keys() == {api.fleet.configuration_uid, made["record_uid"]}
        assert listed[api.fleet.configuration_uid]["resources"] == [
            {"record_uid": api.fleet.resource_uid, "admin_uid": api.fleet.admin_uid, "job_limit": None}
        ]
        assert made["default_schedule"] == [{"type": "DAILY", "time": "02:00:00", "tz": "Europe/Paris"}]
        assert api.get(f"/records/{made['record_uid']}")["version"] == 6

    def test_neither_is_made_when_one_is_refused(self, api: PamApi) -> None:
        before = len(api.get("/records")["records"])
        unshared = api.fleet.add_folder()
        for status, said, change in (
            (422, "not bound", {"record": api.new_record(version=6, folder_uid=unshared)}),
            (422, "no PAM configuration", {"record": api.new_record(version=3)}),
            (404, "gateway", {"gateway_uid": new_uid()}),
            (422, "environment", {"environment": "moon"}),
            (422, "never", {"default_schedule": [{"type": "CRON", "cron": "0 0 30 2 *"}]}),
            (422, "apart", {"default_schedule": [{"type": "CRON", "cron": "* * * * *"}]}),
        ):
            problem = api.refused("POST", "/configurations", self.body(api, **change), status=status)
            assert said in problem["detail"]
        assert len(api.get("/records")["records"]) == before
        with api.fleet.database.transaction(read_only=True) as session:
            assert session.query(PamConfiguration).count() == 1

    def test_change_and_removal(self, api: PamApi) -> None:
        uid = api.done("POST", "/configurations", self.body(api))["record_uid"]
        changed = api.done("PATCH", f"/configurations/{uid}", {"environment": "domain", "rotation_enabled": False})
        assert (changed["environment"], changed["rotation_enabled"]) == ("domain", False)
        assert len(changed["default_schedule"]) == 1
        api.refused("PATCH", f"/configurations/{uid}", {"gateway_uid": new_uid()}, status=404)
        api.done("DELETE", f"/configurations/{uid}")
        api.refused("GET", f"/records/{uid}", status=404)
        assert len(api.fleet.events("pam_configuration_deleted")) == 1

    def test_a_configuration_in_use_stays(self, api: PamApi) -> None:
        problem = api.refused("DELETE", f"/configurations/{api.fleet.configuration_uid}", status=409)
        assert "1 resources" in problem["detail"]

    def test_only_who_may_edit_its_record_changes_it(self, api: PamApi) -> None:
        other = api.as_other("oscar")
        for method, path, body in (
            ("PATCH", f"/configurations/{api.fleet.configuration_uid}", {"rotation_enabled": False}),
            ("DELETE", f"/configurations/{api.fleet.configuration_uid}", None),
            ("DELETE", f"/resources/{api.fleet.resource_uid}", None),
        ):
            other.refused(method, path, body, status=404)
