from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pam_jobs.api import audit as audit_routes
from pam_jobs.api import siem as siem_routes
from pam_jobs.audit.delivery import serve_once
from pam_jobs.audit.log import record_event
from pam_jobs.audit.sealing import seal_once
from pam_jobs.cli import audit, siem
from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from pam_jobs.errors import DeliveryFailed, InvalidInput, PamJobsError
from tests.support.audit import ALICE
from tests.support.rsyslog import Rsyslog
from tests.support.small_router import SmallRouter, small_router

pytestmark = pytest.mark.integration


@pytest.fixture
def router(sqlite_database: Database, tmp_path: Path) -> Iterator[SmallRouter]:
    with small_router(sqlite_database, tmp_path, audit_routes.router, siem_routes.router) as running:
        yield running


class Pam:
    """The command line of one signed-in user."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __call__(self, group: object, *arguments: str, text: str | None = None) -> Result:
        result = CliRunner().invoke(group, list(arguments), env=self._environment, input=text)
        if isinstance(result.exception, PamJobsError):
            raise result.exception
        return result

    def json(self, group: object, *arguments: str) -> dict[str, object]:
        result = self(group, *arguments, "--format", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def pam(router: SmallRouter, tmp_path: Path) -> Pam:
    return Pam(router.sign_in("admin", tmp_path / "data"))


@pytest.fixture
def delivering(router: SmallRouter) -> Iterator[None]:
    """The control process's two calls, again and again."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.05):
            seal_once(router.database, SystemClock())
            serve_once(router.database, router.keys, SystemClock())

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    ended.set()
    thread.join()


def write(database: Database, count: int, event: str = "record_add") -> None:
    with database.transaction() as session:
        for number in range(count):
            record_event(session, SystemClock(), ALICE, event, record_uid=f"R{number}")


def test_the_list_shows_the_newest_events(router: SmallRouter, pam: Pam) -> None:
    write(router.database, 5)
    events = pam.json(audit.app, "list", "--limit", "2")["events"]
    assert [event["record_uid"] for event in events] == ["R3", "R4"]
    table = pam(audit.app, "list", "--event-type", "record_add", "--record-uid", "R1").stdout
    assert "record_add" in table
    assert "record_uid=R1" in table
    assert "R2" not in table
    assert pam.json(audit.app, "list", "--from", "2h", "--username", "bob") == {"events": []}


@pytest.mark.parametrize("text", ["yesterday", "h", "2025-13-01", "99999999999d"])
def test_a_wrong_instant_is_refused(pam: Pam, text: str) -> None:
    with pytest.raises(InvalidInput, match="not an instant"):
        pam(audit.app, "list", "--from", text)


def test_an_export_has_every_page_and_is_the_same_each_time(
    router: SmallRouter, pam: Pam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 7)
    write(router.database, 30)
    first = pam(audit.app, "export").stdout
    lines = [json.loads(line) for line in first.splitlines()]
    assert [line["position"] for line in lines] == list(range(1, 31))
    file = tmp_path / "export.jsonl"
    result = pam(audit.app, "export", "--output", str(file))
    assert "30 events" in result.stderr
    assert result.stdout == ""
    assert file.read_text() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rest = pam(audit.app, "export", "--after-position", "28").stdout
    assert rest == "".join(first.splitlines(keepends=True)[28:])


def test_an_export_that_cannot_be_written_says_so(pam: Pam, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        pam(audit.app, "export", "-o", str(tmp_path / "none" / "x"))


def test_a_sink_is_added_listed_tested_paused_resumed_and_removed(
    router: SmallRouter, pam: Pam, delivering: None, tmp_path: Path
) -> None:
    log = tmp_path / "audit.jsonl"
    uid = json.loads(pam(siem.app, "add", "json", f"path={log}", "--name", "files").stdout)["uid"]
    assert pam.json(siem.app, "test", "files")["delivered"] is True
    assert "audit_sync_test" in log.read_text()
    (sink,) = pam.json(siem.app, "list")["sinks"]
    assert (sink["uid"], sink["name"], sink["state"]) == (uid, "files", "delivering")
    assert uid in pam(siem.app, "list").stdout
    pam(siem.app, "pause", uid)
    assert pam.json(siem.app, "list")["sinks"][0]["state"] == "paused"
    pam(siem.app, "resume", "files")
    pam(siem.app, "remove", "files")
    assert pam.json(siem.app, "list") == {"sinks": []}
    with pytest.raises(InvalidInput, match="there is no sink"):
        pam(siem.app, "remove", "files")


def test_a_ca_is_given_as_a_file_and_a_real_rsyslog_takes_the_events(
    pam: Pam, delivering: None, tmp_path: Path
) -> None:
    receiver = Rsyslog(tmp_path / "rsyslog", tls=True)
    receiver.start()
    try:
        ca = tmp_path / "ca.pem"
        ca.write_text(receiver.ca or "")
        pam(siem.app, "add", "syslog", "host=127.0.0.1", f"port={receiver.port}", f"ca={ca}", "message=text")
        pam(siem.app, "test", "syslog")
        setup, test = receiver.lines(2)
    finally:
        receiver.stop()
    assert (setup.priority, setup.app_name, setup.message_id) == (110, "pam-jobs", "audit_sync_setup")
    assert setup.parameter("sink_kind") == "syslog"
    assert setup.parameter("username") == "admin"
    assert test.message == "User admin tested audit sink syslog"


def test_a_test_that_fails_says_why(pam: Pam, delivering: None, tmp_path: Path) -> None:
    pam(siem.app, "add", "json", f"path={tmp_path}/none/audit.jsonl")
    with pytest.raises(DeliveryFailed, match="No such file"):
        pam(siem.app, "test", "json")


def test_a_token_comes_from_a_file_or_standard_input_and_is_not_shown(
    router: SmallRouter, pam: Pam, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("hec-canary-1\n")
    pam(siem.app, "add", "splunk", "url=https://127.0.0.1:1", "--token-file", str(token))
    added = ["add", "splunk", "url=https://127.0.0.1:1", "--name", "second", "--token-file", "-"]
    pam(siem.app, *added, text="hec-canary-2\n")
    shown = pam(siem.app, "list").output + json.dumps(pam.json(siem.app, "list"))
    assert "canary" not in shown
    with router.database.transaction(read_only=True) as session:
        from pam_jobs.audit.siem import list_all

        assert [router.keys.open(sink.secret or b"") for sink in list_all(session)] == [
            b"hec-canary-2",
            b"hec-canary-1",
        ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["json", "path"], "not a setting"),
        (["json", "=x"], "not a setting"),
        (["syslog", "host=h", "port=514", "ca=/no/such/file"], "cannot be read"),
        (["syslog", "host=h", "port=many"], "port"),
        (["json", "path=/var/log/a", "--token-file", "/no/such/file"], "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_remedy(pam: Pam, arguments: list[str], word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        pam(siem.app, "add", *arguments)
    assert caught.value.remedy
