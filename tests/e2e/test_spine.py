"""From the command line through queue, gateway and vault to real targets, and back."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site
from tests.support.embedded import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_status_names_what_runs_and_where(site: Site) -> None:
    status = site.system.status()

    assert {"router", "ca", "server_public_key", "server_public_key_id", "broker", "flower", "processes"} <= set(status)
    assert [entry["name"] for entry in status["processes"]] == [
        "supervisor", "broker", "router", "control", "beat", "gateway", "flower",
    ]  # fmt: skip
    assert {entry["state"] for entry in status["processes"]} == {"running"}
    assert Path(status["ca"]).exists()
    [gateway] = site.system.json("gateway", "list")["gateways"]
    assert (gateway["gateway_name"], gateway["status"]) == ("embedded", "ONLINE")


def test_a_database_role_is_rotated_on_demand(site: Site) -> None:
    login, uid = site.database_user("Old-canary-password-1")

    result = site.system.json("action", "rotate", "--record-uid", uid, "--wait")

    assert {"job", "status", "post_rotation_status", "effect"} <= set(result)
    assert (result["status"], result["post_rotation_status"], result["effect"]) == ("ok", "none", "applied")
    new = site.system.secret_of(uid)
    assert site.logs_in(login, new)
    assert not site.logs_in(login, "Old-canary-password-1")
    proof = site.system.json("prove", uid)
    assert (proof["proven"], proof["unresolved"], proof["record"]) == (True, [], uid)


def test_a_linux_user_is_rotated_over_ssh(site: Site) -> None:
    import paramiko

    assert site.ssh is not None, "the lab's sshd needs root"
    login, uid = site.machine_user("Old-canary-password-2")

    assert site.system.json("action", "rotate", "-r", uid, "--wait")["status"] == "ok"

    new = site.system.secret_of(uid)
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, _, text = site.ssh.host_key.partition(" ")
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        client.get_host_keys().add(f"[{site.ssh.host}]:{site.ssh.port}", kind, key)
        options: dict[str, Any] = {"look_for_keys": False, "allow_agent": False}
        client.connect(site.ssh.host, site.ssh.port, login, new, **options)
        with pytest.raises(paramiko.AuthenticationException):
            client.connect(site.ssh.host, site.ssh.port, login, "Old-canary-password-2", **options)


def test_a_dry_run_and_a_verification_change_nothing(site: Site) -> None:
    login, uid = site.database_user("Kept-canary-password")

    plan = site.system.json("action", "rotate", "-r", uid, "--dry-run")
    check = site.system.json("action", "verify", "-r", uid, "--wait")

    assert (plan["kind"], plan["status"], plan["effect"]) == ("plan", "ok", "not_applied")
    assert (check["kind"], check["status"]) == ("verify", "ok")
    assert site.system.secret_of(uid) == "Kept-canary-password"
    assert site.logs_in(login, "Kept-canary-password")


def test_a_drift_is_seen_and_reconciled(site: Site) -> None:
    login, uid = site.database_user("Vault-canary-password")
    with site.connect(site.postgres.admin_login, site.admin_password()) as connection:
        connection.execute(f"ALTER ROLE {login} PASSWORD 'Somebody-elses'")

    seen = site.system.json("action", "verify", "-r", uid, "--wait", code=1)
    mended = site.system.json("action", "reconcile", "-r", uid, "--wait")

    assert seen["status"] != "ok"
    assert mended["status"] == "ok"
    assert site.logs_in(login, site.system.secret_of(uid))


def test_a_schedule_of_seconds_rotates_by_itself_until_it_is_taken_away(site: Site) -> None:
    login, uid = site.database_user("Scheduled-canary-password")

    done = site.system.json("rotation", "edit", "-r", uid, "-sc", "*/2 * * * * ?")
    assert done["updated"][0]["next_run_at"]

    def scheduled() -> list[dict[str, Any]]:
        jobs = site.system.json("job", "list", "-r", uid, "--state", "succeeded")["jobs"]
        return [job for job in jobs if job["trigger"] == "scheduled"]

    eventually(lambda: len(scheduled()) >= 3, "three scheduled rotations")
    site.system.pam("rotation", "edit", "-r", uid, "-od")
    site.system.json("action", "verify", "-r", uid, "--wait")
    dues = [job["due_at"] for job in scheduled()]
    assert len(set(dues)) == len(dues)
    assert site.logs_in(login, site.system.secret_of(uid))
    assert not site.logs_in(login, "Scheduled-canary-password")
    assert site.system.json("rotation", "info", "-r", uid)["schedule_type"] == "manual"


SCRIPT = """#!{python}
import base64, json, sys
given = json.loads(base64.b64decode(sys.stdin.read()))
records = json.loads(base64.b64decode(given["records"]))
print("{name}", given["user"], given["oldPassword"], given["newPassword"])
print("titles", [record["title"] for record in records])
print("password of the extra record", [record.get("password") for record in records])
"""


def test_scripts_run_in_order_and_their_output_is_scrubbed(site: Site, tmp_path: Path) -> None:
    login, uid = site.database_user("Script-canary-password")
    extra = site.system.add_record("pamUser", "extra", "login=extra", secret="Extra-canary-password")
    owners = [("user", uid), ("resource", site.database), ("configuration", site.configuration)]
    added = []
    for name, owner in owners:
        script = tmp_path / f"{name}.py"
        script.write_text(SCRIPT.format(python=sys.executable, name=name))
        more = ["--add-credential", extra] if name == "user" else []
        added.append(
            (owner, site.system.json("rotation", "script", "add", owner, "--script", str(script), *more)["uid"])
        )
    try:
        result = site.system.json("action", "rotate", "-r", uid, "--wait")
        shown = site.system.pam("action", "job-info", result["job"]).stdout
        job = site.system.json("action", "job-info", result["job"])
    finally:
        for owner, script_uid in added[1:]:
            site.system.pam("rotation", "script", "delete", owner, "--script", script_uid)

    new = site.system.secret_of(uid)
    assert (result["status"], result["post_rotation_status"]) == ("ok", "ok")
    assert [step["state"] for step in job["steps"]] == ["succeeded"] * 3
    outputs = [json.dumps(step["output"]) for step in job["steps"]]
    for output, (name, _) in zip(outputs, owners, strict=True):
        assert f"{name} {login}" in output
    assert "extra" in outputs[0]
    for secret in (new, "Script-canary-password", "Extra-canary-password"):
        assert secret not in shown + json.dumps(job)
    listed = site.system.json("rotation", "script", "list", uid)["scripts"]
    assert [(row["script_name"], row["records"]) for row in listed] == [("user.py", [extra])]


def test_a_failing_script_is_a_status_of_its_own(site: Site, tmp_path: Path) -> None:
    login, uid = site.database_user("Failing-canary-password")
    script = tmp_path / "fail.sh"
    script.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    site.system.pam("rotation", "script", "add", uid, "--script", str(script))

    result = site.system.json("action", "rotate", "-r", uid, "--wait", code=1)

    assert result["post_rotation_status"] == "failed"
    assert result["effect"] == "applied"
    assert site.logs_in(login, site.system.secret_of(uid))


def test_a_job_submitted_by_curl_runs_like_any_other(site: Site) -> None:
    login, uid = site.database_user("Curl-canary-password")
    status = site.system.status()
    token = site.system.json("token", "new", "ci", "-s", "jobs:read", "-s", "jobs:write")["token"]
    site.system.secrets.add(token)

    def curl(path: str, *more: str) -> Any:
        argv = ["curl", "-sS", "--cacert", status["ca"], "-K", "-", f"{status['router']}/api/v1{path}", *more]
        header = f'header = "Authorization: Bearer {token}"\n'
        done = subprocess.run(argv, input=header, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout)

    body = json.dumps({"kind": "rotate", "record_uid": uid})
    headers = ("-H", "Content-Type: application/json", "-H", "Idempotency-Key: once", "-d", body)
    job = curl("/jobs", *headers)
    assert curl("/jobs", *headers)["uid"] == job["uid"]
    final = eventually(lambda: (now := curl(f"/jobs/{job['uid']}"))["state"] == "succeeded" and now, "the job's end")

    assert (final["status"], final["requested_by"]) == ("ok", "owner")
    assert site.logs_in(login, site.system.secret_of(uid))
    refused = curl("/users")
    assert refused["status"] == 403
    assert "paths" in curl("/openapi.json")


def test_what_is_found_becomes_linked_records_that_rotate(site: Site) -> None:
    _, known = site.database_user("Known-canary-password")
    with site.connect(site.postgres.admin_login, site.admin_password()) as connection:
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'Stranger-canary-password'")
    site.system.pam("config", "edit", "Network", "--network-cidr", "127.0.0.1/32")

    started = site.system.json("action", "discover", "start", "-c", "Network", "-cr", "Database admin", "--wait")
    found = site.system.json("action", "discover", "status", "-j", started["job"])
    preview = site.system.json("action", "discover", "process", "-j", started["job"], "--preview")
    before = len(site.system.json("record", "list")["records"])
    done = site.system.json("action", "discover", "process", "-j", started["job"], "--add-all")

    assert started["status"] == "ok"
    assert all(row["what"] and row["cause"] for row in found["coverage"])
    assert {site.database, site.database_admin, known} <= {row["record_uid"] for row in preview["existing"]}
    assert [row.get("record_uid") for row in preview["added"]] == [None] * len(preview["added"])
    assert len(site.system.json("record", "list")["records"]) == before + len(done["added"])
    [stranger] = [row["record_uid"] for row in done["added"] if "stranger" in row["title"]]
    assert site.system.json("action", "rotate", "-r", stranger, "--wait")["status"] == "ok"
    assert site.logs_in("stranger", site.system.secret_of(stranger))
    assert "processed" in site.system.refused("action", "discover", "process", "-j", started["job"], "--add-all")


def test_the_audit_log_tells_of_it_all_in_order(site: Site) -> None:
    _, uid = site.database_user("Audited-canary-password")
    site.system.json("action", "rotate", "-r", uid, "--wait")

    def events() -> list[str]:
        rows = site.system.json("audit", "list", "-n", "1000", "--record-uid", uid)["events"]
        return [row["audit_event"] for row in rows]

    eventually(lambda: "record_rotation_on_demand_ok" in events(), "the event of the rotation", 20)
    names = events()
    for event in ("record_add", "record_rotation_created", "record_rotation_on_demand_ok"):
        assert event in names
    assert names.index("record_add") < names.index("record_rotation_created")
    everything = site.system.json("audit", "list", "-n", "1000")["events"]
    assert {"pam_gateway_created", "pam_gateway_online", "pam_configuration_created", "app_folder_shared"} <= {
        row["audit_event"] for row in everything
    }


def test_flower_shows_the_gateways_tasks_behind_its_password_and_cannot_be_used_to_act(site: Site) -> None:
    _, uid = site.database_user("Flower-canary-password")
    job = site.system.json("action", "rotate", "-r", uid, "--wait")["job"]

    with site.system.flower() as flower:
        tasks = eventually(
            lambda: {key: row for key, row in flower.get("/api/tasks").json().items() if job in key or job in str(row)},
            "the task in Flower",
        )
        assert any(row["state"] == "SUCCESS" for row in tasks.values()), tasks
        assert flower.post("/api/task/async-apply/pam.rotate", json={"args": []}).status_code in {403, 404}
        assert flower.post("/api/worker/shutdown/x").status_code in {403, 404}
        flower.auth = None
        for path in ("/", "/tasks", "/api/tasks", "/workers"):
            assert flower.get(path).status_code == 401


def test_no_secret_is_anywhere_but_in_the_clients_hands(site: Site, tmp_path: Path) -> None:
    """The canary search: database, broker, logs, Flower, audit export, and every process's command line."""
    login, uid = site.database_user("Last-canary-password")
    site.system.json("action", "rotate", "-r", uid, "--wait")
    site.system.secret_of(uid)
    secrets = {secret for secret in site.system.secrets if len(secret) >= 8}
    assert len(secrets) > 10
    export = tmp_path / "audit.json"
    site.system.pam("audit", "export", "--output", str(export))
    places: dict[str, bytes] = {"audit export": export.read_bytes(), "lab log": site.postgres.log_path.read_bytes()}
    for path in site.system.folder.rglob("*"):
        if path.is_file() and "client" not in path.relative_to(site.system.folder).parts:
            places[str(path)] = path.read_bytes()
    with site.system.flower() as flower:
        places["Flower's tasks"] = flower.get("/api/tasks").content
        places["Flower's workers"] = flower.get("/api/workers").content
    for entry in site.system.status()["processes"]:
        for name in ("cmdline", "environ"):
            places[f"{entry['name']} {name}"] = Path(f"/proc/{entry['pid']}/{name}").read_bytes()

    for word in secrets:
        for form in (word.encode(), base64.b64encode(word.encode()), word.encode().hex().encode()):
            found = [place for place, content in places.items() if form in content]
            # The lab's own log holds the statements with which the tests themselves made the roles.
            assert [place for place in found if place != "lab log" or word not in _made(site)] == [], login


def _made(site: Site) -> set[str]:
    """Return the first passwords, which the tests set in clear."""
    return {secret for secret in site.system.secrets if "canary" in secret}
