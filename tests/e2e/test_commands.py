"""The rest of the command line's contract, against a running system."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from keeper_secrets_manager_core import SecretsManager
from keeper_secrets_manager_core.storage import InMemoryKeyValueStorage

from deploy.lab.saas import SaasServices
from deploy.lab.windows import Service, WindowsServer
from tests.e2e.conftest import Site
from tests.support.embedded import PAM, Embedded, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_device_reads_with_the_printed_configuration_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, uid = site.database_user("Device-canary-password", rotation=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", site.system.status()["ca"])

    printed = site.system.pam("app", "client", "add", "Embedded", "--name", "reader", "--config-init", "b64").stdout
    manager = SecretsManager(config=InMemoryKeyValueStorage(printed.strip()))

    [record] = manager.get_secrets([uid])
    assert record.get_standard_field_value("password", single=True) == "Device-canary-password"
    plain = json.loads(site.system.pam("app", "client", "add", "Embedded", "--name", "other").stdout)
    assert set(plain) == {"hostname", "clientKey", "serverPublicKey", "serverPublicKeyId"}
    assert json.loads(base64.b64decode(printed)).keys() == plain.keys()
    site.system.pam("app", "client", "remove", "Embedded", "reader")
    names = [row["name"] for row in site.system.json("app", "client", "list", "Embedded")["clients"]]
    assert names.count("reader") == 0
    assert names.count("other") == 1


def test_users_have_roles_passphrases_and_tokens(site: Site, tmp_path: Path) -> None:
    system = site.system
    system.pam("user", "add", "auditor@example.com", "--role", "auditor", PAM_NEW_PASSPHRASE="first-long-passphrase")
    assert "fewer than" in system.pam("user", "add", "x", code=1, PAM_NEW_PASSPHRASE="short").stderr

    status = system.status()
    other = {"PAM_DATA_DIR": str(tmp_path), "PAM_ROUTER": status["router"], "PAM_CA": status["ca"]}
    login = ("login", "auditor@example.com", "--router", status["router"], "--ca", status["ca"])
    system.pam(*login, PAM_PASSPHRASE="first-long-passphrase", **other)
    assert system.pam("audit", "list", **other).returncode == 0
    assert "auditor" in system.pam("user", "list", code=1, **other).stderr
    change = {"PAM_PASSPHRASE": "first-long-passphrase", "PAM_NEW_PASSPHRASE": "second-long-passphrase"}
    system.pam("passphrase", "change", **other, **change)
    system.pam(*login, code=1, PAM_PASSPHRASE="first-long-passphrase", **other)
    system.pam(*login, PAM_PASSPHRASE="second-long-passphrase", **other)

    made = system.json("token", "new", "short-lived", "-s", "jobs:read")
    with system.api(made["token"]) as api:
        assert api.get("/api/v1/jobs").status_code == 200
        assert api.post("/api/v1/jobs", json={"kind": "rotate", "record_uid": "A" * 22}).status_code == 403
        system.pam("token", "remove", made["uid"])
        assert api.get("/api/v1/jobs").status_code == 401


def test_a_gateway_of_its_own_comes_and_goes_and_its_jobs_wait_for_it(site: Site, tmp_path: Path) -> None:
    system = site.system
    config = tmp_path / "gateway-config.json"
    printed = system.pam("gateway", "new", "-n", "branch", "-a", "Embedded", "--config-init", "json").stdout
    config.write_text(printed)
    config.chmod(0o600)
    assert _status(site, "branch") == "OFFLINE"
    system.pam(
        "config", "new", "-t", "Branch", "-sf", "Office", "-g", "branch", "-pm", f"{site.postgres.port}=postgresql"
    )
    database = system.add_record(
        "pamDatabase", "Branch database", f"host={site.postgres.host}", f"port={site.postgres.port}"
    )
    login, uid = site.database_user("Branch-canary-password", rotation=False)
    system.pam("rotation", "edit", "-r", uid, "-rs", database, "-a", site.database_admin, "-c", "Branch", "-od")

    job = system.json("action", "rotate", "-r", uid)["job"]
    reasons = system.json("job", "explain", job)["reasons"]
    assert any("branch" in reason for reason in reasons), reasons
    cancelled = system.json("action", "job-cancel", job)
    assert cancelled["state"] == "cancelled"

    state = system.status()
    process = subprocess.Popen(
        [PAM, "gateway", "start", "--config", str(config)],
        env=system.variables() | {"PAM_BROKER_URL": state["broker"], "PAM_CA_FILE": state["ca"]},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: _status(site, "branch") == "ONLINE", "the gateway is online")
        assert system.json("action", "rotate", "-r", uid, "--wait")["status"] == "ok"
        assert site.logs_in(login, system.secret_of(uid))
        assert "branch" in system.pam("action", "gateway-info", "-g", "branch").stdout
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    eventually(lambda: _status(site, "branch") == "OFFLINE", "the gateway is offline")
    system.pam("rotation", "remove", "-r", uid, "--force")
    system.pam("gateway", "edit", "-g", "branch", "-n", "branch two")
    system.pam("gateway", "set-max-instances", "-g", "branch two", "-m", "3")
    [row] = [row for row in system.json("gateway", "list")["gateways"] if row["gateway_name"] == "branch two"]
    assert row["max_instances"] == 3
    assert system.status()["drained"] == []
    system.pam("gateway", "drain", "-g", "branch two")
    [drained] = system.status()["drained"]
    assert (drained["gateway"], drained["uid"], drained["running"]) == ("branch two", row["gateway_uid"], 0)
    said = system.pam("status").stderr
    assert f"gateway 'branch two' is drained since {drained['since']}" in said
    assert "it still works on 0 jobs" in said
    system.pam("gateway", "resume", "-g", "branch two")
    assert system.status()["drained"] == []


def _status(site: Site, name: str) -> str:
    rows = site.system.json("gateway", "list")["gateways"]
    return str(next(row["status"] for row in rows if row["gateway_name"] == name))


def test_all_users_of_a_folder_rotate_at_once(site: Site) -> None:
    system = site.system
    users = [site.database_user(f"Folder-canary-{number}") for number in range(2)]

    assert system.json("prove", users[0][1], code=1)["proven"] is False, "nobody has logged in with it yet"
    assert system.json("prove", "--all", code=1)["summary"]["records"] >= len(users)
    assert "--force" in system.refused("action", "rotate", "--folder", "Office", "--wait")
    results = system.json("action", "rotate", "--folder", "Office", "--wait", "--force", "--timeout", "60", code=None)

    done = {row["record"]: row["status"] for row in results["results"]}
    assert all(done[uid] == "ok" for _, uid in users)
    assert all(site.logs_in(login, system.secret_of(uid)) for login, uid in users)
    proofs = {row["record"]: row["proven"] for row in system.json("prove", "--all", code=None)["proofs"]}
    assert all(proofs[uid] for _, uid in users)
    drift = {row["uid"]: row["drift"] for row in system.json("record", "list")["records"]}
    assert {drift[uid] for _, uid in users} == {"healthy"}


def test_settings_are_shown_and_taken_away(site: Site) -> None:
    system = site.system
    _, uid = site.database_user("Settings-canary-password")
    system.pam("rotation", "edit", "-r", uid, "-sj", '{"type":"DAILY","time":"02:30:00","tz":"Europe/Paris"}',
               "-x", "32,2,2,2,2")  # fmt: skip

    info = system.json("rotation", "info", "-r", uid)
    listed = {row["record_uid"]: row for row in system.json("rotation", "list")["rotation"]}
    runs = system.json("schedule", "preview", "--days", "3")["runs"]

    assert (info["status"], info["ready_to_rotate"], info["blockers"]) == ("RRS_ONLINE", True, [])
    assert info["password_complexity"].startswith("32,2,2,2,2")
    assert "02:30" in listed[uid]["schedule"]
    assert len([run for run in runs if run.get("record_uid") == uid]) == 3
    assert system.json("action", "rotate", "-r", uid, "--wait")["status"] == "ok"
    assert len(system.secret_of(uid)) == 32
    _look_for_drift(system, uid)

    system.pam("rotation", "edit", "-r", uid, "--disable")
    assert "disabled" in system.refused("action", "rotate", "-r", uid)
    system.pam("rotation", "edit", "-r", uid, "--enable", "-od")
    system.pam("rotation", "remove", "-r", uid, "--force")
    assert system.json("rotation", "info", "-r", uid)["status"] == "RRS_NO_ROTATION"
    system.pam("record", "delete", uid, "--force")


def _look_for_drift(system: Embedded, uid: str) -> None:
    """Set when the user is verified, and see it where people look."""
    system.pam("rotation", "edit", "-r", uid, "--verify-schedule", "15 4 * * *", "--timezone", "Europe/Paris")
    info = system.json("rotation", "info", "-r", uid)
    assert (info["drift"]["state"], info["verify_schedule"][0]["cron"]) == ("healthy", "15 4 * * *")
    assert "healthy" in system.pam("rotation", "list").stdout
    assert {row["kind"] for row in system.json("schedule", "list")["schedules"] if row["record_uid"] == uid} == {
        "rotate", "verify",
    }  # fmt: skip
    assert "-vod" in system.refused("rotation", "edit", "-r", uid, "-vs", "0 4 * * *", "-vod")
    system.pam("rotation", "edit", "-r", uid, "--verify-on-demand")
    assert system.json("rotation", "info", "-r", uid)["effective_verify_schedule"] == []
    system.pam("rotation", "edit", "-r", uid, "--verify-schedule-config")
    system.pam("config", "edit", "Network", "--default-verify-schedule", '{"type":"CRON","cron":"0 5 1 1 *"}')
    info = system.json("rotation", "info", "-r", uid)
    assert (info["verify_schedule"], info["effective_verify_schedule"][0]["cron"]) == (None, "0 5 1 1 *")
    system.pam("config", "edit", "Network", "-dvs", "")
    assert system.json("config", "list")["configurations"][0]["default_verify_schedule"] == []

    assert system.json("prove", uid, "--max-age", "1")["status"] == "proven"
    old = system.json("prove", "--all", "--max-age", "0.001", code=None)
    assert old["summary"]["records"] == len(old["proofs"])
    shown = system.pam("prove", uid, "--format", "table").stdout
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)
    assert not re.search(r"\d{4}-\d\d-\d\dT", shown)


def test_a_calendar_moves_runs_and_a_pause_holds_them(site: Site) -> None:
    system = site.system
    _, uid = site.database_user("Calendar-canary-password")
    system.pam("rotation", "edit", "-r", uid, "-sc", "30 2 * * *")
    made = system.json("calendar", "new", "Nights", "--weekly", "MON-SUN 02:00-05:00")
    system.pam("config", "edit", "Network", "--blackout", "Nights", "--missed-runs", "skip")

    report = system.json("schedule", "preview", "--days", "4", "--max-age", "1")["report"]
    moved = [run for run in report["moved"] if run["record_uid"] == uid]
    # from half past two to five in the morning the fourth one is moved beyond the four days
    assert [run["due_at"][11:16] for run in moved] in (["05:00"] * 4, ["05:00"] * 3)
    assert {run["moved_by"] for run in moved} == {made["uid"]}
    assert "that a window or a blackout moves" in system.pam("schedule", "preview").stderr
    assert system.json("calendar", "list")["calendars"][0]["configurations"] != []

    assert "it is paused since" in system.pam("schedule", "pause", "-r", uid).stderr
    assert system.json("schedule", "resume", "-r", uid)["schedules"][0]["next_run_at"][11:16] == "05:00"
    system.pam("config", "edit", "Network", "--no-calendars", "--missed-runs", "catch_up")
    system.pam("calendar", "remove", "Nights", "--force")
    system.pam("rotation", "remove", "-r", uid, "--force")


def test_a_job_is_watched_to_its_end(site: Site) -> None:
    _, uid = site.database_user("Watched-canary-password")
    job = site.system.json("action", "rotate", "-r", uid)["job"]

    lines = site.system.pam("job", "watch", job).stdout.splitlines()

    assert "succeeded" in lines[-1]
    assert site.system.pam("job", "list", "-r", uid).stdout.count(job) == 1


def test_a_user_of_an_online_service_is_tied_to_its_plugin_and_rotated(site: Site, saas_services: SaasServices) -> None:
    system = site.system
    saas_services.add("ann@example.com", "First-Secret-1")
    plugins = {each["name"] for each in system.json("action", "saas", "config", "--list", "-g", "embedded")["plugins"]}
    assert {"Okta", "REST", "Snowflake", "Cisco Meraki", "Elasticsearch User"} <= plugins
    create = ("action", "saas", "config", "--plugin", "okta", "--create", "-g", "embedded", "-s", "Office",
              "-t", "Acme at Okta")  # fmt: skip
    assert "needs Okta URL, Okta Token" in system.refused(*create)
    assert "no field 'Okta Tokem'" in system.refused(*create, "--set", "Okta Tokem=x")
    made = system.json(
        *create, "--set", f"Okta URL={saas_services.url}", "--set", "Okta Token=-", stdin=saas_services.token
    )
    shown = json.dumps(system.json("record", "get", made["uid"]))
    assert saas_services.token not in shown

    uid = system.add_record("pamUser", "ann", "login=ann@example.com", secret="First-Secret-1")
    system.pam("action", "saas", "set", "-u", uid, "--config-record-uid", made["uid"], "-c", "Network")
    assert system.json("action", "saas", "user", "-u", uid)["plugin"] == "Okta"
    job = system.json("action", "rotate", "-r", uid, "--wait")
    assert job["status"] == "ok", job
    assert saas_services.users["ann@example.com"].password == system.secret_of(uid) != "First-Secret-1"

    system.pam("action", "saas", "remove", "-u", uid)
    assert system.json("action", "saas", "user", "-u", uid)["saas_config_uid"] is None


def test_services_are_mapped_listed_updated_and_left_alone_as_an_operator_says(
    site: Site, windows_server: WindowsServer
) -> None:
    system, machine = site.system, windows_server.machine
    machine.add_user("svcweb", "First-Secret-1")
    with machine.changing():
        machine.services.clear()
        machine.services["web"] = Service(name="Web", account=".\\svcweb", stored="First-Secret-1", state="Running")
    system.pam(
        "config", "new", "-t", "Windows", "-sf", "Office", "-g", "embedded", "-pm", f"{windows_server.port}=winrm"
    )
    place = system.add_record("pamMachine", "Web server", f"host={windows_server.host}", f"port={windows_server.port}")
    admin = system.add_record(
        "pamUser", "Web admin", f"login={windows_server.admin_login}", secret=windows_server.admin_password
    )
    uid = system.add_record("pamUser", "svcweb", "login=svcweb", secret="First-Secret-1")
    system.pam("rotation", "edit", "-r", uid, "-rs", place, "-a", admin, "-c", "Windows", "-od")

    service = ("action", "service")
    [told] = system.json(*service, "map", "-m", "Web server", "-c", "Windows")["machines"]
    assert [(row["user"], row["type"], row["name"]) for row in told["mapped"]] == [("svcweb", "service", "Web")]
    system.pam(*service, "add", "-m", "Web server", "-u", "svcweb", "-t", "task", "-n", "\\Nightly")
    rows = system.json(*service, "list", "-c", "Windows")["services"]
    assert {(row["type"], row["name"], row["origin"]) for row in rows} == {
        ("service", "Web", "discovery"), ("task", "\\Nightly", "manually set"),
    }  # fmt: skip
    job = system.json("action", "rotate", "-r", uid, "--wait", code=1)
    assert (job["status"], job["services_status"], job["cause"]) == ("ok", "failed", "services_failed")
    assert machine.services["web"].stored == system.secret_of(uid) != "First-Secret-1"
    shown = system.pam("action", "job-info", job["job"]).stdout
    assert "Service 1 (machine): failed (not_found)" in shown or "Service 2 (machine): failed (not_found)" in shown

    system.pam(*service, "remove", "-m", "Web server", "-u", "svcweb", "-t", "task", "--force")
    system.pam(*service, "disable", "-u", "svcweb")
    before = machine.services["web"].stored
    assert system.json("action", "rotate", "-r", uid, "--wait")["services_status"] == "none"
    assert machine.services["web"].stored == before
