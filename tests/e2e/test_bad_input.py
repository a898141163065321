"""What is refused: before anything is written, in one sentence with its remedy, exit code 1."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NOBODY = "AAAAAAAAAAAAAAAAAAAAAA"


def everything(site: Site) -> Any:
    """Return all that commands could have written."""
    lists = (("record",), ("folder",), ("app",), ("config",), ("rotation",), ("job",), ("gateway",), ("schedule",))
    found = {name: site.system.json(name, "list") for (name,) in lists}
    found["gateway"] = [row["gateway_uid"] for row in found["gateway"]["gateways"]]
    found["resources"] = found["config"]["configurations"][0]["resource_record_uids"]
    return found


@pytest.fixture(scope="module")
def prepared(site: Site) -> dict[str, str]:
    """Records with something wrong about each of them."""
    system = site.system
    host = f"host={site.postgres.host}"
    login, user = site.database_user("Bad-input-canary", rotation=False)
    system.pam("folder", "new", "Unshared")
    return {
        "login": login,
        "user": user,
        "orphan": system.add_record("pamUser", "orphan", "login=orphan", folder="Unshared", secret="Orphan-canary"),
        "no admin": system.add_record("pamDatabase", "No admin", host, f"port={site.postgres.port}"),
        "unmapped": system.add_record("pamDatabase", "Unmapped", host, "port=9999"),
        "no host": system.add_record("pamDatabase", "No host", "port=5432"),
        "no password": system.add_record("pamUser", "No password", "login=someone"),
        "twin": system.add_record("pamUser", "Twin", "login=twin1"),
        "other twin": system.add_record("pamUser", "Twin", "login=twin2"),
    }


CASES: dict[str, tuple[list[str], str, str]] = {
    # what: command, part of the sentence, part of the remedy
    "unknown UID": (["action", "rotate", "-r", NOBODY], "no record", "UID"),
    "unknown title": (["record", "get", "Nobody"], "no record 'Nobody'", "pam record list"),
    "unknown folder": (["record", "list", "-f", "Nowhere"], "no folder", "pam folder list"),
    "unknown job": (["action", "job-info", NOBODY], "no job", "pam job list"),
    "title of two": (["record", "get", "Twin"], "2 records", "UID"),
    "rotation of a database": (["action", "rotate", "-r", "Database"], "is a pamDatabase", "record of a user"),
    "settings of a database": (["rotation", "edit", "-r", "Database", "-od"], "is a pamDatabase", "record of a user"),
    "rotation not set up": (["action", "rotate", "-r", "{user}"], "not set up", "pam rotation edit"),
    "a user as resource": (["rotation", "edit", "-r", "{user}", "-rs", "Twin", "-od"], "2 records", "UID"),
    "an admin as resource": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Database admin", "-od"], "is a pamUser and no resource", "--resource",
    ),
    "a resource as admin": (
        ["rotation", "edit", "-r", "{user}", "-rs", "No admin", "-a", "Database", "-c", "Network", "-od"],
        "is a pamDatabase", "record of a user",
    ),
    "no resource": (["rotation", "edit", "-r", "{user}", "-c", "Network", "-od"], "needs a resource", "--resource"),
    "resource without admin": (
        ["rotation", "edit", "-r", "{user}", "-rs", "No admin", "-c", "Network", "-od"], "no admin", "--admin-user",
    ),
    "admin without password": (
        ["rotation", "edit", "-r", "{user}", "-rs", "No admin", "-a", "No password", "-c", "Network", "-od"],
        "has no password", "pam record update",
    ),
    "port not mapped": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Unmapped", "-a", "Database admin", "-c", "Network", "-od"],
        "9999", "port mapping",
    ),
    "resource without host": (
        ["rotation", "edit", "-r", "{user}", "-rs", "No host", "-a", "Database admin", "-c", "Network", "-od"],
        "no host", "pam record update",
    ),
    "a configuration that is none": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Database", "-c", "Twin", "-od"], "2 records", "UID",
    ),
    "a folder that the gateway has no share of": (
        ["rotation", "edit", "-r", "orphan", "-rs", "Database", "-a", "Database admin", "-c", "Network", "-od"],
        "may not edit orphan", "pam app share",
    ),
    "gateway not bound to the configuration's application": (
        ["config", "new", "-t", "Elsewhere", "-sf", "Unshared"], "not bound", "pam app share",
    ),
    "cron that never fires": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Database", "-a", "Database admin", "-sc", "0 0 30 2 *"],
        "never fires", "choose",
    ),
    "cron of three fields": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Database", "-a", "Database admin", "-sc", "1 2 3"],
        "3 fields", "five",
    ),
    "two kinds of schedule": (
        ["rotation", "edit", "-r", "{user}", "-sc", "0 1 * * *", "-od"], "several kinds", "one of",
    ),
    "schedule that is no JSON": (["rotation", "edit", "-r", "{user}", "-sj", "{{"], "not valid JSON", "write it"),
    "unknown zone": (
        ["rotation", "edit", "-r", "{user}", "-rs", "Database", "-sc", "0 1 * * *", "--timezone", "Mars/Base"],
        "not a time zone", "IANA",
    ),
    "complexity of two numbers": (["rotation", "edit", "-r", "{user}", "-x", "1,2"], "complexity", "LENGTH"),
    "profile of later": (
        ["rotation", "edit", "-r", "{user}", "-rp", "iam_user", "-od"], "iam_user", "general",
    ),
    "user without login": (
        ["record", "add", "-rt", "pamUser", "-t", "x", "--folder", "Office"], "no login", "login=VALUE",
    ),
    "unknown type": (["record", "add", "-rt", "pamToaster", "-t", "x", "--folder", "Office"], "pamToaster", "pamUser"),
    "unknown field": (
        ["record", "add", "-rt", "pamUser", "-t", "x", "--folder", "Office", "login=a", "colour=red"], "colour", "c.text",
    ),
    "field without value": (
        ["record", "add", "-rt", "pamUser", "-t", "x", "--folder", "Office", "login"], "without a value", "FIELD=VALUE",
    ),
    "bad port mapping": (
        ["config", "new", "-t", "x", "-sf", "Office", "-pm", "ssh=22"], "not a port mapping", "PORT=LABEL",
    ),
    "bad network": (["config", "edit", "Network", "--network-cidr", "10.0.0.0/99"], "not a network", "write it"),
    "an environment of later": (["config", "new", "-t", "x", "-sf", "Office", "-env", "aws"], "aws", "local"),
    "a port that the mapping does not serve": (
        ["record", "update", "Database", "port=9998"], "could not be rotated any more", "port mapping",
    ),
    "a full folder": (["folder", "remove", "Office"], "", ""),
    "a record that is needed": (["record", "delete", "Database admin", "--force"], "", ""),
    "an application that a gateway uses": (["app", "remove", "Embedded", "--force"], "", ""),
    "a configuration that is used": (["config", "remove", "Network", "--force"], "", ""),
    "a gateway that is used": (["gateway", "remove", "-g", "embedded", "--force"], "", ""),
    "scripts of a login": (["rotation", "script", "add", "Twin", "--script", "/dev/null"], "0 bytes", "1 byte"),
    "a token scope that is none": (["token", "new", "x", "-s", "jobs:everything"], "", ""),
    "prove without a name": (["prove"], "name one record", "--all"),
}  # fmt: skip


@pytest.fixture(scope="module")
def used(site: Site, prepared: dict[str, str]) -> dict[str, str]:
    """The same, once a user of the database is rotated, so that database, admin and configuration are in use."""
    site.database_user("Using-canary")
    return prepared


def test_every_mistake_is_one_sentence_with_a_remedy_and_writes_nothing(site: Site, used: dict[str, str]) -> None:
    before = everything(site)
    wrong = []
    for what, (command, sentence, remedy) in CASES.items():
        done = site.system.pam(*(part.replace("{user}", used["user"]) for part in command), code=None)
        said = [line for line in done.stderr.splitlines() if line.startswith("pam: ")]
        is_right = done.returncode == 1 and len(said) == 1 and not done.stdout
        told, _, advice = said[0].removeprefix("pam: ").rpartition(": ") if said else ("", "", "")
        if not (is_right and sentence in said[0] and remedy in said[0] and told and advice):
            wrong.append((what, done.returncode, done.stdout, done.stderr))

    assert wrong == []
    assert json.dumps(everything(site)) == json.dumps(before)


def test_a_wrong_passphrase_is_refused_and_the_session_stays(site: Site) -> None:
    done = site.system.pam("login", "owner", code=1, PAM_PASSPHRASE="not-the-passphrase")

    assert done.stderr.startswith("pam: user name or passphrase is wrong")
    assert "not-the-passphrase" not in done.stderr + done.stdout
    assert site.system.json("whoami")["username"] == "owner"
    events = site.system.json("audit", "list", "--event-type", "login_failure")["events"]
    assert events


def test_wrong_usage_is_exit_code_2(site: Site) -> None:
    for command in (["record", "get"], ["nonsense"], ["rotation", "edit", "--colour"], ["job", "list", "-n", "0"]):
        assert site.system.pam(*command, code=2).stdout == ""


def test_a_router_that_is_away_is_one_sentence(site: Site) -> None:
    away = site.system.pam(
        "record", "list", code=1, PAM_ROUTER="https://127.0.0.1:9", PAM_CA=site.system.status()["ca"]
    )

    assert away.stderr == (
        "pam: the router https://127.0.0.1:9 cannot be reached: start it with `pam up`, or name another one by PAM_ROUTER\n"
    )


def test_the_api_answers_the_same_with_problem_documents(site: Site, used: dict[str, str]) -> None:
    token = site.system.json("token", "new", "problems", "-s", "jobs:read", "-s", "jobs:write")["token"]
    with site.system.api(token) as api:
        for body, status in (
            ({"kind": "rotate", "record_uid": NOBODY}, 404),
            ({"kind": "rotate", "record_uid": used["user"]}, 422),
            ({"kind": "explode", "record_uid": used["user"]}, 422),
        ):
            answer = api.post("/api/v1/jobs", json=body)
            problem = answer.json()
            assert answer.status_code == status, problem
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["detail"]
            assert problem["remedy"]
        assert api.get("/api/v1/jobs", headers={"Authorization": "Bearer pamt_" + "x" * 43}).status_code == 401
