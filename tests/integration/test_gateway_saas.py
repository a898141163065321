"""Passwords of online services through the whole protocol: router, vendor's SDK, engine and plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab.saas import SaasServices
from pam_jobs.errors import PamJobsError
from tests.support.benches.saas import service_record
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


@pytest.fixture
def services(saas_services: SaasServices) -> SaasServices:
    saas_services.users.clear()
    yield saas_services
    saas_services.fault = lambda _method, _path: None
    saas_services.after = lambda _method, _path: False


@pytest.fixture
def site(sqlite_router: RunningRouter, tmp_path: Path) -> GatewaySite:
    return GatewaySite(sqlite_router, tmp_path)


def _user(site: GatewaySite, services: SaasServices, plugin: str, login: str = "ann@example.com") -> str:
    services.add(login, "First-Secret-1")
    uid = site.add_user(login, "First-Secret-1")
    service = site.vault.records.add(service_record(services, plugin), site.folder)
    site.rotate_by(uid, None, profile="saas", saas_uid=service)
    return uid


def test_okta_user_is_planned_rotated_verified_and_reconciled(site, services):
    uid = _user(site, services, "Okta")
    engine = site.engine()
    assert site.run("plan", uid, engine)["detail"]["plan"]["connector"] == "saas"
    assert services.users["ann@example.com"].password == "First-Secret-1"

    job = site.run("rotate", uid, engine)

    assert (job["state"], job["cause"]) == ("succeeded", None), job
    new = site.password(uid)
    assert services.users["ann@example.com"].password == new != "First-Secret-1"
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert new.encode() not in site.router.dump()
    assert services.token.encode() not in site.router.dump()

    services.users["ann@example.com"].password = "By-Hand-1"
    assert site.run("verify", uid, engine)["cause"] == "drift"
    assert site.run("reconcile", uid, engine)["state"] == "succeeded"
    assert services.users["ann@example.com"].password == new


def test_answer_that_is_lost_is_settled_by_a_login(site, services):
    uid = _user(site, services, "Okta")
    services.after = lambda method, path: method == "POST" and "users" in path
    job = site.run("rotate", uid)
    assert job["state"] == "succeeded", job
    assert services.users["ann@example.com"].password == site.password(uid)


def test_password_that_the_policy_refuses_is_replaced(site, services):
    uid = _user(site, services, "Okta")
    refused: list[str] = []

    def once(method: str, path: str) -> tuple[int, object] | None:
        if method == "POST" and "users" in path and not refused:
            refused.append(path)
            return 400, {"errorCode": "E0000001"}
        return None

    services.fault = once
    assert site.run("rotate", uid)["state"] == "succeeded"
    assert services.users["ann@example.com"].password == site.password(uid)


def test_service_without_a_login_is_confirmed_and_never_called_proven(site, services):
    uid = _user(site, services, "Cisco Meraki")
    job = site.run("rotate", uid)
    assert (job["state"], job["cause"]) == ("succeeded", "confirmed"), job
    assert services.users["ann@example.com"].password == site.password(uid) != "First-Secret-1"
    proof = site.vault.jobs.proof(uid)
    assert (proof["proven"], proof["status"], proof["drift"]) == (False, "never_proven", "unchecked")
    assert "confirmed" in proof["reason"]

    services.after = lambda method, _path: method == "PUT"  # both answers are lost: nothing is known, and both are kept
    before = site.password(uid)
    lost = site.run("rotate", uid)
    assert (lost["state"], site.password(uid)) == ("unknown", before)
    services.after = lambda _method, _path: False
    assert {row["state"] for row in site.vault.jobs.proof(uid)["unresolved"]} == {"applying"}
    live = services.users["ann@example.com"].password
    assert site.run("rotate", uid)["state"] == "succeeded"
    assert site.password(uid) == live == services.users["ann@example.com"].password


def test_setup_is_refused_with_what_is_missing(site, services):
    uid = site.add_user("ann@example.com", "First-Secret-1")
    with pytest.raises(PamJobsError, match="needs a SaaS configuration"):
        site.rotate_by(uid, None, profile="saas")
    with pytest.raises(PamJobsError, match="profile is scripts_only"):
        site.rotate_by(uid, None, profile="scripts_only", saas_uid=uid)
    user = _user(site, services, "Okta", "bob@example.com")
    service = site.vault.pam.rotation(user)["saas_uid"]
    with pytest.raises(PamJobsError, match="is the SaaS configuration of"):
        site.vault.records.delete(service)
