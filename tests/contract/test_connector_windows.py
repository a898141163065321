"""What is Windows' own: codes of logons, policies, logins that are offered, logs, scripts. The machine is emulated."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Target, VerdictState
from connectors.windows.connector import WindowsSshConnector, WinrmConnector
from deploy.lab import windows
from deploy.lab.windows import WindowsServer
from pam_jobs.errors import (
    AuthRejected,
    Effect,
    Forbidden,
    HostKeyMismatch,
    NotApplied,
    PamJobsError,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.windows import WindowsBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def credential_of(login: str, password: str) -> Credential:
    return Credential(login=login, password=SecretValue(password))


def candidate_of(password: str) -> Candidate:
    return Candidate(password=SecretValue(password))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WindowsServer]:
    """A machine with the rules of an ordinary one, and Basic switched off."""
    machine = windows.Machine(policy=windows.Policy(minimum_length=8, history=3, lockout_threshold=3))
    server = windows.start(tmp_path_factory.mktemp("windows"), machine, basic=False)
    yield server
    server.stop()


@pytest.fixture
def bench(strict: WindowsServer) -> Iterator[WindowsBench]:
    made = WindowsBench(strict)
    yield made
    made.connector.close_idle()


def add(server: WindowsServer, **values) -> str:
    login = f"u{secrets.token_hex(4)}"
    server.machine.add_user(login, "Right-Pass-1", **values)
    return login


DAY = 86400.0


@pytest.mark.parametrize(
    ("values", "password", "state", "cause"),
    [
        ({}, "Right-Pass-1", VerdictState.ACCEPTED, ""),
        ({}, "Wrong-Pass-1", VerdictState.REFUSED, "wrong_password"),
        ({"enabled": False}, "Right-Pass-1", VerdictState.LOCKED, "disabled"),
        ({"must_change": True}, "Right-Pass-1", VerdictState.ACCEPTED, "change_after_reset"),
        ({"must_change": True}, "Wrong-Pass-1", VerdictState.REFUSED, "wrong_password"),
        ({"last_set": time.time() - 50 * DAY}, "Right-Pass-1", VerdictState.ACCEPTED, "expired"),
        ({"last_set": time.time() - 50 * DAY}, "Wrong-Pass-1", VerdictState.REFUSED, "wrong_password"),
        ({"expires": time.time() - DAY}, "Right-Pass-1", VerdictState.LOCKED, "expired"),
        ({"network_logon": False}, "Right-Pass-1", VerdictState.ACCEPTED, "no_connect_right"),
        ({"locked_until": time.time() + DAY}, "Right-Pass-1", VerdictState.LOCKED, "locked"),
        ({"locked_until": time.time() + DAY}, "Wrong-Pass-1", VerdictState.LOCKED, "locked"),
    ],
)
def test_an_administrator_learns_why_a_logon_fails(bench, values, password, state, cause):
    login = add(bench.server, **values)
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        verdict = session.probe(account_of(login), credential_of(login, password))
    assert (verdict.state, verdict.cause) == (state, cause)


def test_a_probe_is_one_logon_and_a_right_one_may_need_no_right_to_come_in_from_afar(bench):
    login = add(bench.server)
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        for expected in (1, 2):
            session.probe(account_of(login), credential_of(login, "Wrong-Pass-1"))
            assert bench.server.machine.users[login].failures == expected
        assert session.probe(account_of(login), credential_of(login, "Right-Pass-1")).state is VerdictState.ACCEPTED
        assert bench.server.machine.users[login].failures == 0
        for _ in range(3):
            session.probe(account_of(login), credential_of(login, "Wrong-Pass-1"))
        assert session.metadata(account_of(login)).locked
        assert session.probe(account_of(login), credential_of(login, "Right-Pass-1")).cause == "locked"


def test_a_login_from_the_gateway_tells_less(bench):
    member, stranger = add(bench.server, remote=True), add(bench.server)
    with bench.connector.open(bench.target, None, Deadline(30)) as session:
        seen = session.probe(account_of(member), credential_of(member, "Right-Pass-1"))
        assert (seen.state, seen.cause) == (VerdictState.ACCEPTED, "no_connect_right")
        assert session.probe(account_of(member), credential_of(member, "Wrong-1")).state is VerdictState.REFUSED
        seen = session.probe(account_of(stranger), credential_of(stranger, "Right-Pass-1"))
        assert (seen.state, seen.cause) == (VerdictState.UNKNOWN, "no_connect_right")
        seen = session.probe(account_of("a@b@c"), credential_of('"', "x"))
        assert (seen.state, seen.cause) == (VerdictState.UNKNOWN, "unsupported")


def test_where_nothing_may_be_compiled_the_login_is_made_from_the_gateway(bench):
    login = add(bench.server, remote=True)
    bench.server.machine.can_compile = False
    try:
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
            assert session.probe(account_of(login), credential_of(login, "Right-Pass-1")).cause == "no_connect_right"
            bench.server.machine.users[login].enabled = False
            assert session.probe(account_of(login), credential_of(login, "Right-Pass-1")).cause == "disabled"
    finally:
        bench.server.machine.can_compile = True


@pytest.mark.parametrize("has_local_accounts", [True, False])
def test_a_password_against_the_rules_is_refused_and_nothing_changes(bench, has_local_accounts):
    login = add(bench.server, full_name="Ann-Marie O")
    bench.server.machine.has_local_accounts = has_local_accounts
    try:
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
            found = session.preflight(account_of(login))
            assert (found.min_length, found.max_length, found.min_classes) == (8, 127, 3)
            assert found.forbidden_words == (login, "Ann", "Marie")
            for text in ("short", "nothingbutletters", f"Contains-{login}-1", "Contains-marie-1"):
                with pytest.raises(PolicyRefused) as caught:
                    session.change(account_of(login), candidate_of(text), lambda: None)
                assert caught.value.effect is Effect.NOT_APPLIED
                assert text not in caught.value.sentence()
            for text in ("x" * 128, "a\nb", "\ud800"):
                with pytest.raises(PolicyRefused):
                    session.change(account_of(login), candidate_of(text), pytest.fail)
            assert session.change(account_of(login), candidate_of("Right-Pass-2"), lambda: None) is Effect.APPLIED
    finally:
        bench.server.machine.has_local_accounts = True
    assert bench.server.machine.users[login].password == "Right-Pass-2"


def test_an_account_that_is_no_administrator_changes_itself_over_ssh(strict):
    login = add(strict)
    bench = WindowsBench(strict, "ssh")
    account, own = account_of(login), credential_of(login, "Right-Pass-1")
    with bench.connector.open(bench.target, own, Deadline(30)) as session:
        assert session.preflight(account).is_self
        with pytest.raises(PolicyRefused):
            session.change(account, candidate_of("Right-Pass-1x" * 20), lambda: None)
        assert session.change(account, candidate_of("Right-Pass-2"), lambda: None) is Effect.APPLIED
        assert session.change(account, candidate_of("Right-Pass-2"), lambda: None) is Effect.APPLIED
        with pytest.raises(PolicyRefused):  # it was there before, and the machine remembers
            session.change(account, candidate_of("Right-Pass-1"), lambda: None)
        assert session.probe(account, credential_of(login, "Right-Pass-2")).state is VerdictState.ACCEPTED
        assert session.probe(account, own).state is VerdictState.REFUSED
        strict.machine.users[login].may_change = False
        with pytest.raises(Forbidden):
            session.change(account, candidate_of("Right-Pass-3"), lambda: None)
    bench.connector.close_idle()


def test_rules_of_the_machine_are_read_before_a_password_is_made(bench):
    login, policy = add(bench.server), bench.server.machine.policy
    policy.complexity, policy.minimum_length = False, 0
    try:
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
            found = session.preflight(account_of(login))
        assert (found.min_length, found.min_classes, found.forbidden_words) == (None, None, ())
    finally:
        policy.complexity, policy.minimum_length = True, 8


def test_account_that_may_not_change_its_password_yet_is_refused_beforehand(strict):
    bench, policy = WindowsBench(strict, "ssh"), strict.machine.policy
    young = add(strict)
    policy.minimum_age_seconds = DAY
    try:
        own = credential_of(young, "Right-Pass-1")
        early = pytest.raises(PolicyRefused, match="minimum password age")
        with bench.connector.open(bench.target, own, Deadline(30)) as session, early:
            session.preflight(account_of(young))
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:  # whom it does not bind
            assert session.preflight(account_of(young)).may_change
            assert session.change(account_of(young), candidate_of("Right-Pass-2"), lambda: None) is Effect.APPLIED
    finally:
        policy.minimum_age_seconds = 0.0
        bench.connector.close_idle()


def test_without_a_shell_of_winrm_the_rotator_is_forbidden(bench):
    login = add(bench.server, remote=True)
    with (
        bench.connector.open(bench.target, credential_of(login, "Right-Pass-1"), Deadline(30)) as session,
        pytest.raises(Forbidden) as caught,
    ):
        session.preflight(account_of(login))
    assert "LocalAccountTokenFilterPolicy" in caught.value.sentence()


def test_names_of_the_machine_are_known_and_those_of_a_domain_refused(bench):
    login = add(bench.server)
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        for name in (login.upper(), f".\\{login}", f"WIN-LAB\\{login}"):
            assert session.preflight(account_of(name)).account_exists
            assert session.probe(account_of(name), credential_of(name, "Right-Pass-1")).state is VerdictState.ACCEPTED
        for name in (f"CORP\\{login}", f"{login}@corp.example"):
            with pytest.raises(Unsupported, match="of a domain"):
                session.preflight(account_of(name))


def test_a_domain_controller_keeps_its_domains_accounts(tmp_path):
    machine = windows.Machine(domain="CORP", controller=True)
    server = windows.start(tmp_path, machine)
    bench = WindowsBench(server)
    machine.add_user("ann", "Right-Pass-1")
    try:
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
            session.change(account_of("CORP\\ann"), candidate_of("Right-Pass-2"), lambda: None)
            verdict = session.probe(account_of("CORP\\ann"), credential_of("CORP\\ann", "Right-Pass-2"))
        assert verdict.state is VerdictState.ACCEPTED
        assert machine.users["ann"].password == "Right-Pass-2"
    finally:
        bench.connector.close_idle()
        server.stop()


@pytest.mark.parametrize(
    "login", ["", "a\nb", "a:b", 'a"b', "a/b", "a;b|c", "\0", "x" * 300, "a\\b\\c", " .", "a@", "*"]
)
def test_a_login_that_can_be_no_account_is_refused_before_anything_is_sent(bench, login):
    before = len(bench.server.machine.events)
    with (
        bench.connector.open(bench.target, bench.admin, Deadline(30)) as session,
        pytest.raises(Unsupported),
    ):
        session.change(account_of(login), candidate_of("Right-Pass-2"), pytest.fail)
    assert len(bench.server.machine.events) == before


@pytest.mark.parametrize("way", ["winrm", "ssh"])
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters='"/\\[]:;|=,+*?<>@.'),
                 min_size=1, max_size=20),
    password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=60),
)  # fmt: skip
def test_whatever_windows_allows_is_set_and_logs_in(windows_server, way, name, password):
    name, password = f"-{name}$(x)'`", f"{password}\u202e'\"`$(id);%TEMP%😀"
    bench = WindowsBench(windows_server, way)
    windows_server.machine.users.pop(name.lower(), None)
    windows_server.machine.add_user(name, "x")
    account = account_of(name)
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        assert session.change(account, candidate_of(password), lambda: None) is Effect.APPLIED
        assert session.probe(account, credential_of(name, password)).state is VerdictState.ACCEPTED
        assert session.probe(account, credential_of(name, password + "x")).state is VerdictState.REFUSED
    assert windows_server.machine.users[name.lower()].password == password
    bench.connector.close_idle()


def test_what_the_machine_logs_is_the_same_for_every_password(windows_server):
    bench = WindowsBench(windows_server)
    logged = []
    for _ in range(2):
        account, _ = bench.new_account()
        with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
            begin = len(windows_server.machine.events)
            session.change(account, bench.candidate(account), lambda: None)
            logged.append(windows_server.machine.events[begin:])
    assert logged[0] == logged[1]
    assert any("Set-LocalUser" in event for event in logged[0])
    bench.connector.close_idle()


def test_logins_that_cannot_be_made_are_refused_by_name(strict, windows_server):
    basic_only = Target(host="127.0.0.2", port=strict.port, protocol="winrm", options={"winrm_authentication": "basic"})
    for target, text in (
        (replace(basic_only, host="127.0.0.1"), "no login for WinRM but negotiate"),
        (replace(WindowsBench(windows_server).target, options={"Kerberos": "True"}), "Kerberos"),
        (replace(WindowsBench(windows_server).target, options={"winrm_authentication": "digest"}), "digest"),
        (replace(WindowsBench(windows_server).target, options={"tls_verify": "sometimes"}), "sometimes"),
    ):
        with pytest.raises(Unsupported) as caught:
            WinrmConnector().open(target, credential_of("x", "y"), Deadline(20))
        assert text in caught.value.sentence()
        assert caught.value.remedy


def test_basic_over_plain_http_is_for_loopback_alone():
    from connectors.windows.winrm_link import Endpoint, _choose

    for host, allowed in (("127.0.0.1", True), ("10.0.0.7", False)):
        endpoint = Endpoint.of(Target(host=host, port=5985, protocol="winrm"))
        if allowed:
            assert _choose(endpoint, frozenset({"basic"}), None) == "basic"
        else:
            with pytest.raises(Unsupported, match="plain HTTP"):
                _choose(endpoint, frozenset({"basic"}), None)
    assert Endpoint.of(Target(host="h", port=5985, protocol="winrm", use_ssl=True)).url == "https://h:5986/wsman"
    assert Endpoint.of(Target(host="::1", port=5986, protocol="winrm")).url == "https://[::1]:5986/wsman"
    assert _choose(endpoint, frozenset({"basic", "negotiate"}), None) == "ntlm"


def test_a_certificate_nobody_vouches_for_is_refused_before_the_password_is_sent(windows_server):
    bench = WindowsBench(windows_server, "winrm-https")
    target = replace(bench.target, options={})
    with pytest.raises(HostKeyMismatch) as caught:
        bench.connector.open(target, bench.admin, Deadline(20))
    assert "ssl_ca" in caught.value.sentence()
    with bench.connector.open(target, None, Deadline(20)) as session:
        assert session.probe(account_of("x"), credential_of("x", "y")).cause == "host_key_mismatch"
    with bench.connector.open(replace(target, options={"tls_verify": "none"}), bench.admin, Deadline(20)) as session:
        assert session.preflight(account_of("Administrator")).is_self
    bench.connector.close_idle()


class _Other(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, *_):
        pass


def test_another_web_server_is_no_winrm():
    with HTTPServer(("127.0.0.1", 0), _Other) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            port = server.server_address[1]
            assert WinrmConnector().recognise("127.0.0.1", port, Deadline(5)) is None
            target = Target(host="127.0.0.1", port=port, protocol="winrm")
            with pytest.raises(Unsupported, match="as WinRM does"):
                WinrmConnector().open(target, credential_of("x", "y"), Deadline(5))
        finally:
            server.shutdown()
            thread.join()


def test_ssh_beside_winrm_is_used_only_where_the_record_names_its_port(windows_server):
    connector = WindowsSshConnector()
    bench = WindowsBench(windows_server)
    away = replace(bench.target, port=1, host_keys=(windows_server.host_key,))
    with pytest.raises(Unsupported, match="no port of SSH"):
        connector.open(away, bench.admin, Deadline(10))
    named = replace(away, options={"ssh_port": str(windows_server.ssh_port)})
    with connector.open(named, bench.admin, Deadline(20)) as session:
        assert session.preflight(account_of("Administrator")).account_exists
    connector.close_idle()


def test_a_script_is_put_there_run_and_taken_away(windows_server):
    bench = WindowsBench(windows_server)
    machine = windows_server.machine
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        path = session.upload("", "after rotation.ps1", b"exit 7\r\n" + b"#" * 200_000)
        assert path in machine.files
        done = session.run([path], b"aGVsbG8=\n", Deadline(20))
        assert (done.exit_code, machine.runs[-1]["stdin"]) == (7, b"aGVsbG8=\n")
        assert machine.runs[-1]["words"][0] == "powershell.exe"
        session.remove(path)
        session.remove(path)
        assert path not in machine.files
        batch = session.upload("", "after.bat", b"exit /b 3\r\n")
        assert session.run([batch], b"", Deadline(20)).exit_code == 3
        session.remove(batch)
        with pytest.raises(Unsupported):
            session.run(["C:\\x & calc.bat"], b"", Deadline(20))
        with pytest.raises(NotApplied):
            session.run(["C:\\nothing.exe"], b"", Deadline(20))
        for name in ("", "..", "a/b", "a\\b", "a:b", "x\n"):
            with pytest.raises(Unsupported):
                session.upload("", name, b"")
        for path in ("C:\\Windows\\x", "C:\\pam-jobs.1\\..\\x", "C:\\x\\pam-jobs.1"):
            with pytest.raises(Unsupported):
                session.remove(path)
    bench.connector.close_idle()


def test_the_emulation_runs_nothing_that_it_does_not_know(windows_server):
    from connectors.windows.programs import Program
    from deploy.lab.windows.programs import execute

    admin = windows_server.machine.users["administrator"]
    bench = WindowsBench(windows_server)
    with bench.connector.open(bench.target, bench.admin, Deadline(30)) as session:
        with pytest.raises(PamJobsError) as caught:
            session._ask(Program(name="other", body="$r=1"), {})
        assert "ParseException" in str(caught.value)
    assert execute(windows_server.machine, admin, "net user x y", b"").exit_code == 1
    bench.connector.close_idle()


def test_a_machine_that_is_down_and_one_that_refuses_are_told_apart(strict):
    bench = WindowsBench(strict)
    with pytest.raises(Unreachable):
        bench.connector.open(replace(bench.target, port=1), bench.admin, Deadline(10))
    with pytest.raises(AuthRejected):
        bench.connector.open(bench.target, credential_of(add(strict), "Wrong"), Deadline(10))
