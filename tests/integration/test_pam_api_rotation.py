from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pam_jobs.db.engine import Database
from pam_jobs.db.tables import ResourceLink
from pam_jobs.ids import new_uid
from scheduler import due
from tests.support.fleet import cron, new_fleet
from tests.support.pam_api import PamApi, blob, new_api

pytestmark = pytest.mark.integration

NIGHTLY = [{"type": "DAILY", "time": "02:00:00", "tz": "Etc/UTC", "intervalCount": 1}]


@pytest.fixture
def api(database: Database, tmp_path: Path) -> PamApi:
    return new_api(new_fleet(database), tmp_path)


def body(api: PamApi, **changes: Any) -> dict[str, Any]:
    return {
        "configuration_uid": api.fleet.configuration_uid,
        "resource_uid": api.fleet.resource_uid,
        "profile": "general",
        "schedule": NIGHTLY,
        "inherits_schedule": False,
        "complexity": blob(64),
        "disabled": False,
        "revision": 0,
        **changes,
    }


def test_rotation_is_set_read_listed_and_removed(api: PamApi) -> None:
    record = api.fleet.add_record()
    sent = body(api)
    made = api.done("PUT", f"/rotation/{record}", sent)

    assert made == api.get(f"/rotation/{record}")
    assert made == api.get("/rotation")["rotation"][0]
    assert made["next_run_at"] == "2026-03-03T02:00:00Z"
    assert (made["revision"], made["complexity"]) == (1, sent["complexity"])
    assert (made["admin_uid"], made["gateway_name"], made["gateway_status"]) == (
        api.fleet.admin_uid,
        "office",
        "OFFLINE",
    )
    assert (made["ready"], made["blockers"]) == (True, [])

    api.done("DELETE", f"/rotation/{record}")
    api.refused("GET", f"/rotation/{record}", status=404)
    assert api.get("/schedules")["schedules"] == []


def test_an_inherited_schedule_is_shown_as_it_applies(api: PamApi) -> None:
    record = api.fleet.add_record()
    made = api.done("PUT", f"/rotation/{record}", body(api, schedule=[], inherits_schedule=True))
    assert (made["schedule"], made["effective_schedule"][0]["type"]) == ([], "HOURLY")


def test_what_keeps_a_record_from_rotating_is_said(api: PamApi) -> None:
    record = api.fleet.add_record()
    api.done("PUT", f"/rotation/{record}", body(api, disabled=True))
    with api.fleet.database.transaction() as session:
        session.get_one(ResourceLink, api.fleet.resource_uid).admin_uid = None
    api.done("PATCH", f"/configurations/{api.fleet.configuration_uid}", {"rotation_enabled": False})

    seen = api.get(f"/rotation/{record}")
    assert seen["ready"] is False
    assert seen["next_run_at"] is None
    assert [sentence.split(":")[0].rsplit(" ", 1)[-1] for sentence in seen["blockers"]] == [
        "disabled",
        api.fleet.configuration_uid,
        "admin",
    ]
    assert all("`" in sentence or "--" in sentence for sentence in seen["blockers"])


def test_a_stale_revision_is_a_conflict(api: PamApi) -> None:
    record = api.fleet.add_record()
    api.done("PUT", f"/rotation/{record}", body(api))
    problem = api.refused("PUT", f"/rotation/{record}", body(api), status=409)
    assert problem["code"] == "conflict"
    api.done("PUT", f"/rotation/{record}", body(api, revision=1))
    api.done("PUT", f"/rotation/{record}", body(api, revision=None))


@pytest.mark.parametrize(
    ("status", "said", "change"),
    [
        (422, "never", {"schedule": cron("0 0 31 2 *")}),
        (422, "time zone", {"schedule": cron("0 2 * * *", "Mars/Olympus")}),
        (422, "apart", {"schedule": cron("*/5 * * * *")}),
        (422, "resource", {"resource_uid": None}),
        (422, "profile", {"profile": "iam_user"}),
        (422, "profile", {"profile": "guess"}),
        (404, "no record", {"resource_uid": new_uid()}),
        (404, "no record", {"configuration_uid": new_uid()}),
        (404, "no record", {"admin_uid": new_uid()}),
        (422, "configuration_uid", {"configuration_uid": "nonsense"}),
        (422, "complexity", {"complexity": "AAAA"}),
        (422, "password", {"password": "hunter2"}),
        (422, "schedule", {"schedule": "hourly"}),
        (409, "meanwhile", {"revision": 7}),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(
    api: PamApi, status: int, said: str, change: dict[str, Any]
) -> None:
    record = api.fleet.add_record()
    problem = api.refused("PUT", f"/rotation/{record}", body(api, **change), status=status)
    assert said in problem["detail"]
    assert "hunter2" not in str(problem)
    assert api.get("/rotation")["rotation"] == []
    assert api.fleet.events("record_rotation_created") == []


def test_an_unlinked_resource_and_one_without_admin_are_refused(api: PamApi) -> None:
    record, machine = api.fleet.add_record(), api.fleet.add_record()
    problem = api.refused("PUT", f"/rotation/{record}", body(api, resource_uid=machine), status=422)
    assert "not linked" in problem["detail"]
    api.done("PUT", f"/resources/{machine}", {"configuration_uid": api.fleet.configuration_uid})
    problem = api.refused("PUT", f"/rotation/{record}", body(api, resource_uid=machine), status=422)
    assert "--admin-user" in problem["remedy"]
    made = api.done("PUT", f"/rotation/{record}", body(api, resource_uid=machine, admin_uid=api.fleet.admin_uid))
    assert made["admin_uid"] == api.fleet.admin_uid


def test_resources_are_linked_and_unlinked(api: PamApi) -> None:
    machine, admin = api.fleet.add_record(), api.fleet.add_record()
    path, link = f"/resources/{machine}", {"configuration_uid": api.fleet.configuration_uid, "admin_uid": admin}
    assert api.done("PUT", path, link) == {"record_uid": machine, "set_aside": None, "job_limit": None, **link}
    assert len(api.get("/resources")["resources"]) == 2
    record = api.fleet.add_record()
    api.done("PUT", f"/rotation/{record}", body(api, resource_uid=machine))

    assert record in api.refused("DELETE", path, status=409)["detail"]
    api.done("DELETE", f"/rotation/{record}")
    api.done("DELETE", path)
    api.refused("DELETE", path, status=404)
    assert len(api.fleet.events("pam_resource_removed")) == 1


def test_a_resource_is_no_user_and_its_own_admin_is_none(api: PamApi) -> None:
    configuration = {"configuration_uid": api.fleet.configuration_uid}
    user = api.fleet.add_record()
    api.done("PUT", f"/rotation/{user}", body(api))
    assert "user" in api.refused("PUT", f"/resources/{user}", configuration, status=422)["detail"]
    machine = api.fleet.add_record()
    for admin in (machine, api.fleet.resource_uid):
        api.refused("PUT", f"/resources/{machine}", {**configuration, "admin_uid": admin}, status=422)
    hidden = api.fleet.add_record(folder_uid=api.fleet.add_folder())
    assert "share" in api.refused("PUT", f"/resources/{hidden}", configuration, status=422)["remedy"]


def test_records_of_others_cannot_be_rotated_or_rotated_with(api: PamApi) -> None:
    other = api.as_other("oscar")
    record = api.fleet.add_record()
    other.refused("PUT", f"/rotation/{record}", body(api), status=404)
    api.done("PUT", f"/rotation/{record}", body(api))
    other.refused("DELETE", f"/rotation/{record}", status=404)
    other.refused(
        "PUT", f"/resources/{api.fleet.resource_uid}", {"configuration_uid": api.fleet.configuration_uid}, status=404
    )


def test_the_due_table_is_listed_and_previewed(api: PamApi) -> None:
    nightly, hourly = api.fleet.add_record(), api.fleet.scheduled()
    api.done("PUT", f"/rotation/{nightly}", body(api))

    rows = api.get("/schedules")["schedules"]
    assert [(row["record_uid"], row["paused"], row["gateway_uid"]) for row in rows] == [
        (hourly, False, api.fleet.gateway_uid),
        (nightly, False, api.fleet.gateway_uid),
    ]
    assert "02:00" in rows[1]["description"]

    seen = api.get("/schedules/preview", params={"days": 1})
    assert seen["complete"] is True
    assert [run["due_at"] for run in seen["runs"] if run["record_uid"] == nightly] == ["2026-03-03T02:00:00Z"]
    assert len(seen["runs"]) == 24  # hourly until, not at, the end; and one at night
    capped = api.get("/schedules/preview", params={"days": 30, "limit": 5})
    assert (len(capped["runs"]), capped["complete"]) == (5, False)
    only = api.get("/schedules/preview", params={"days": 3, "record_uid": nightly})
    assert len(only["runs"]) == 3
    assert api.request("GET", "/schedules/preview", params={"days": 0}).status_code == 422


def test_the_preview_is_what_beat_then_does(api: PamApi) -> None:
    record = api.fleet.scheduled(cron("0 */6 * * *", "Asia/Kolkata"))
    told = [run["due_at"] for run in api.get("/schedules/preview", params={"days": 1})["runs"]]
    seen = []
    for _ in range(24 * 4):
        api.fleet.clock.advance(timedelta(minutes=15))
        if due.tick(api.fleet.database, api.fleet.clock):
            seen.append(api.fleet.clock.now().isoformat().replace("+00:00", "Z"))
            with api.fleet.database.transaction() as session:
                session.connection().exec_driver_sql("UPDATE jobs SET state = 'succeeded'")
    assert told == seen
    assert len(api.fleet.jobs(record)) == 4


def test_verifications_go_by_their_own_schedule_or_the_configurations(api: PamApi) -> None:
    own, plain = api.fleet.add_record(), api.fleet.add_record()
    hourly = cron("0 * * * *")
    changed = api.done("PATCH", f"/configurations/{api.fleet.configuration_uid}", {"default_verify_schedule": NIGHTLY})
    assert changed["default_verify_schedule"] == NIGHTLY

    made = api.done("PUT", f"/rotation/{own}", body(api, verify_schedule=hourly, schedule=[]))
    assert (made["verify_schedule"], made["effective_verify_schedule"]) == (hourly, hourly)
    assert (made["next_run_at"], made["next_verify_at"]) == (None, "2026-03-02T13:00:00Z")
    assert made["drift"] == {
        "state": "unchecked", "since": "2026-03-02T12:00:00Z", "checked_at": None, "cause": None,
    }  # fmt: skip
    made = api.done("PUT", f"/rotation/{plain}", body(api))
    assert (made["verify_schedule"], made["effective_verify_schedule"]) == (None, NIGHTLY)

    rows = api.get("/schedules")["schedules"]
    assert [(row["kind"], row["record_uid"]) for row in rows if row["record_uid"] == own] == [("verify", own)]
    assert {row["kind"] for row in rows if row["record_uid"] == plain} == {"rotate", "verify"}
    refused = api.refused("PUT", f"/rotation/{own}", body(api, verify_schedule=cron("* * * * *")), status=422)
    assert "apart" in refused["detail"]


def test_all_proofs_are_for_whoever_may_read_jobs(api: PamApi) -> None:
    record = api.fleet.add_record()
    api.done("PUT", f"/rotation/{record}", body(api))
    auditor = api.as_other("iris", "auditor")
    page = auditor.get("/proofs", params={"max_age_days": 7})
    assert [(entry["record"], entry["status"], entry["drift"]) for entry in page["proofs"]] == [
        (record, "no_version", "unchecked")
    ]
    assert page["next"] is None
    assert auditor.get("/proofs", params={"after": record})["proofs"] == []
    auditor.refused("GET", f"/records/{record}/proof", status=404)
    for wrong in ({"limit": 0}, {"max_age_days": 0}, {"limit": 1001}):
        assert api.request("GET", "/proofs", params=wrong).status_code == 422


def test_calendars_hold_what_runs_by_itself_and_not_what_is_asked_for(api: PamApi) -> None:
    record = api.fleet.scheduled()
    configuration = f"/configurations/{api.fleet.configuration_uid}"
    freeze = {"type": "ONCE", "from": "2026-03-02T13:00", "to": "2026-03-02T18:00"}
    made = api.done("POST", "/calendars", {"name": "freeze", "tz": "Europe/Paris", "periods": [freeze]})
    changed = api.done("PATCH", configuration, {"blackouts": [made["uid"]], "jitter_seconds": 0, "missed_runs": "skip"})
    assert (changed["blackouts"], changed["windows"], changed["missed_runs"]) == ([made["uid"]], [], "skip")
    assert api.get("/calendars")["calendars"][0]["configurations"] == [api.fleet.configuration_uid]

    [row] = api.get("/schedules")["schedules"]
    assert (row["planned_at"], row["next_run_at"]) == ("2026-03-02T13:00:00Z", "2026-03-02T17:00:00Z")
    assert "by the calendar 'freeze'" in row["reasons"][0]
    seen = api.get("/schedules/preview", params={"days": 1, "report": True, "max_age_days": 1})
    assert seen["report"]["moved_count"] == 1
    assert seen["report"]["moved"][0]["moved_by"] == made["uid"]
    assert seen["report"]["misses"][0]["code"] == "never_rotated"

    asked = api.done("POST", "/jobs", {"kind": "rotate", "record_uid": record})
    assert asked["trigger"] == "on_demand"
    api.fleet.clock.advance(timedelta(hours=5))
    with api.fleet.database.transaction() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET state = 'succeeded'")
    [uid] = due.tick(api.fleet.database, api.fleet.clock)
    why = api.get(f"/jobs/{uid}/explain")["reasons"]
    assert why[0].startswith("it was planned for 2026-03-02T13:00:00+00:00 and moved to 2026-03-02T17:00:00+00:00")

    refused = api.refused("DELETE", f"/calendars/{made['uid']}", status=409)
    assert "--no-calendars" in refused["detail"] + refused.get("remedy", "")
    api.done("PATCH", configuration, {"blackouts": []})
    api.done("DELETE", f"/calendars/{made['uid']}")
    assert (
        "two ONCE"
        in api.refused("POST", "/calendars", {"name": "double", "periods": [freeze, freeze]}, status=422)["detail"]
    )


def test_schedules_are_paused_and_resumed_by_those_who_may_edit(api: PamApi) -> None:
    api.fleet.scheduled()
    [row] = api.get("/schedules")["schedules"]
    paused = api.done("POST", f"/schedules/{row['uid']}/pause")
    assert (paused["paused"], paused["next_run_at"]) == (True, None)
    assert paused["reasons"][0].startswith("it is paused since")
    other = api.as_other("mallory")
    for path in (f"/schedules/{row['uid']}/resume", f"/configurations/{api.fleet.configuration_uid}/pause"):
        assert other.request("POST", path).status_code in {403, 404}
    assert api.done("POST", f"/schedules/{row['uid']}/resume")["next_run_at"] == "2026-03-02T13:00:00Z"
    off = api.done("POST", f"/configurations/{api.fleet.configuration_uid}/pause")
    assert off["schedules_paused_at"] == "2026-03-02T12:00:00Z"
    assert api.done("POST", f"/configurations/{api.fleet.configuration_uid}/resume")["schedules_paused_at"] is None
