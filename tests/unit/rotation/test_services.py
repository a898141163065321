"""Who is mapped to which machine: REST, rights, the claim that tells the gateway, and the events of the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pam_jobs.db.engine import Database
from pam_jobs.db.tables import JobState
from pam_jobs.errors import StateError
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.rotation import resources
from tests.support.attempts import ask, begin, register, reload
from tests.support.fleet import OPERATOR, new_fleet
from tests.support.pam_api import PamApi, blob, new_api

pytestmark = pytest.mark.unit


@pytest.fixture
def api(database: Database, tmp_path: Path) -> PamApi:
    made = new_api(new_fleet(database), tmp_path)
    register(made.fleet)
    return made


@pytest.fixture
def user(api: PamApi) -> str:
    uid = api.fleet.add_record()
    api.fleet.put(uid)
    return uid


def path(api: PamApi, user: str) -> str:
    return f"/services/{user}/{api.fleet.resource_uid}"


def test_a_mapping_is_set_read_told_to_the_gateway_and_removed(api: PamApi, user: str) -> None:
    names = blob()
    made = api.done("PUT", path(api, user), {"names": names, "revision": 0})
    assert (made["revision"], made["names"]) == (1, names)
    assert api.get("/services")["services"] == [made]
    assert api.get(f"/services?configuration_uid={'x' * 22}")["services"] == []
    [event] = api.fleet.events("pam_services_mapped")
    assert event.fields["resource_uid"] == api.fleet.resource_uid
    assert event.fields["record_uid"] == user
    [link] = begin(api.fleet, ask(api.fleet, user).uid).claim.services
    assert (link.machine_uid, link.admin_uid) == (api.fleet.resource_uid, api.fleet.admin_uid)
    api.refused("PUT", path(api, user), {"names": names, "revision": 0}, status=409)
    api.done("DELETE", path(api, user))
    api.refused("DELETE", path(api, user), status=404)


def test_whoever_opted_out_is_left_alone(api: PamApi, user: str) -> None:
    api.done("PUT", path(api, user), {"names": blob()})
    for switch in (f"/resources/{api.fleet.resource_uid}/services", f"/rotation/{user}/services"):
        api.done("PUT", switch, {"enabled": False})
        attempt = begin(api.fleet, ask(api.fleet, user).uid)
        assert attempt.claim.services == []
        attempt.report(Status.FAILED)
        api.done("PUT", switch, {"enabled": True})
    assert begin(api.fleet, ask(api.fleet, user).uid).claim.services
    assert [len(api.fleet.events(f"pam_services_{end}")) for end in ("disabled", "enabled")] == [2, 2]


def test_the_rights_are_checked(api: PamApi, user: str) -> None:
    stranger = api.as_other("eve")
    stranger.refused("PUT", path(api, user), {"names": blob()}, status=404)
    stranger.refused("PUT", f"/rotation/{user}/services", {"enabled": False}, status=404)
    auditor = api.as_other("carl", role="auditor")
    auditor.refused("PUT", path(api, user), {"names": blob()}, status=403)
    assert auditor.get("/services")["services"] == []
    unlinked = api.fleet.add_record()
    api.refused("PUT", f"/services/{user}/{unlinked}", {"names": blob()}, status=404)
    api.refused("PUT", f"/services/{unlinked}/{api.fleet.resource_uid}", {"names": blob()}, status=404)


def test_a_machine_with_services_stays_and_a_deleted_user_takes_them_along(api: PamApi) -> None:
    user = api.fleet.add_record()
    api.fleet.put(user, profile="scripts_only", resource_uid=None)
    api.done("PUT", path(api, user), {"names": blob()})
    fleet = api.fleet
    with pytest.raises(StateError, match="run as"), fleet.database.transaction() as session:
        resources.remove(session, fleet.clock, OPERATOR, fleet.resource_uid)
    api.done("DELETE", f"/rotation/{user}")
    api.done("DELETE", f"/records/{user}")
    assert api.get("/services")["services"] == []


def test_failed_services_fail_the_job_and_are_told_by_machine(api: PamApi, user: str) -> None:
    fleet = api.fleet
    attempt = begin(fleet, ask(fleet, user).uid)
    keys = [f"dependant:{fleet.resource_uid}:{number}" for number in range(3)]
    attempt.declare(*keys, kind="dependant")
    for key, state in zip(keys, ("succeeded", "failed", "succeeded"), strict=True):
        attempt.start_step(key)
        attempt.finish_step(key, state)
    attempt.report(Status.OK, services_status=PostStatus.FAILED)
    job = reload(fleet, attempt.claim.job_uid)
    assert (job.state, job.status, job.services_status, job.cause) == (
        JobState.FAILED, "ok", "failed", "services_failed",
    )  # fmt: skip
    [updated], [failed] = fleet.events("pam_services_updated"), fleet.events("pam_services_failed")
    assert (updated.fields["count"], failed.fields["count"]) == (2, 1)
    assert {updated.fields["resource_uid"], failed.fields["resource_uid"]} == {fleet.resource_uid}
    [ended] = fleet.events("record_rotation_on_demand_fail")
    assert ended.fields["services_code"] == "failed"
