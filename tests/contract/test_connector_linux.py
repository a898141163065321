"""What is Linux's own: host keys, authorized_keys, sudo, locked accounts, crowds, scripts."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.base import Account, Candidate, Credential, Deadline, Target, VerdictState
from connectors.faults import Action, Fault, FaultProxy, When
from connectors.linux.connector import LinuxConnector
from connectors.linux.keys import BACKUP_NAME
from deploy.lab import SshServer, sshd
from pam_jobs.errors import (
    ConnectionLost,
    Effect,
    Forbidden,
    HostKeyMismatch,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.records.keys import generate_key
from pam_jobs.secret import SecretValue
from tests.support.benches import linux as benches
from tests.support.benches.base import new_password
from tests.support.benches.linux import LinuxBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(sshd_server) -> Iterator[LinuxBench]:
    made = LinuxBench(sshd_server, "admin with key", admin=benches.key_admin(sshd_server))
    yield made
    made.connector.close_idle()


def key_candidate(account) -> Candidate:
    key = generate_key("ssh-ed25519")
    mark = f"keeper-security-{account.record_uid}"
    return Candidate(private_key=key.private_pem, public_key=key.public, key_comment=mark)


def own_and_admin(bench, current):
    return {"itself": current, "admin": bench.admin, "sudo asks": benches.asking_admin(), "root": benches.root()}


def stat(bench: LinuxBench, path: str) -> str:
    return bench.server.run(["stat", "-c", "%a %U", path]).stdout.decode().strip()


# Host keys


def test_key_that_is_not_the_one_on_record_is_refused_before_any_login(bench):
    account, current = bench.new_account()
    wrong = replace(bench.target, host_keys=(generate_key("ssh-ed25519").public,))
    before = bench.log_text().count(f"Failed password for {account.login}")
    with pytest.raises(HostKeyMismatch):
        bench.connector.open(wrong, bench.admin, Deadline(20))
    with bench.connector.open(wrong, None, Deadline(20)) as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "host_key_mismatch")
    assert bench.log_text().count(f"Failed password for {account.login}") == before


def test_unknown_key_is_refused_under_the_strict_policy(bench):
    target = replace(bench.target, host_keys=(), options={"host_key_policy": "strict"})
    with pytest.raises(HostKeyMismatch):
        bench.connector.open(target, bench.admin, Deadline(20))


def test_first_key_is_accepted_told_and_from_then_on_the_only_one(bench):
    connector = LinuxConnector()
    target = replace(bench.target, host_keys=())
    with connector.open(target, bench.admin, Deadline(20)) as session:
        assert session.host_key == bench.server.host_key
        assert bench.server.host_key in session.preflight(bench.new_account()[0]).server
    connector.close_idle()
    connector.host_keys._seen[target.host, target.port] = generate_key("ssh-ed25519").public
    with pytest.raises(HostKeyMismatch):
        connector.open(target, bench.admin, Deadline(20))


def test_recognising_tells_the_key_and_trusts_nobody(bench):
    service = bench.connector.recognise(bench.target.host, bench.target.port, Deadline(5))
    assert service.facts["host_key"] == bench.server.host_key
    assert service.banner.startswith("OpenSSH")
    assert not bench.connector.host_keys._seen


# authorized_keys


@pytest.mark.parametrize("who", ["itself", "admin", "sudo asks", "root"])
def test_first_key_is_added_and_the_next_replaces_that_line_alone(bench, who):
    account, current = bench.new_account()
    theirs = b"# cloud provider\nssh-rsa AAAAB3Nza= \xff\xfe not utf-8\r\n\nno newline at the end"
    bench.set_keys(account.login, theirs)
    rotator = own_and_admin(bench, current)[who]
    mark = f"keeper-security-{account.record_uid}".encode()
    previous = theirs + b"\n"
    for number in range(2):
        candidate = key_candidate(account)
        with bench.connector.open(bench.target, rotator, Deadline(30)) as session:
            assert session.change(account, candidate, lambda: None) is Effect.APPLIED
            assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
        expected = theirs + b"\n" + candidate.public_key.encode() + b" " + mark + b"\n"
        assert bench.keys(account.login) == expected
        backup = bench.server.run(["cat", f"/home/{account.login}/.ssh/{BACKUP_NAME}"]).stdout
        assert backup == (theirs if number == 0 else previous)
        previous = expected
    folder = f"/home/{account.login}/.ssh"
    assert stat(bench, f"{folder}/authorized_keys") == f"600 {account.login}"
    assert stat(bench, f"{folder}/{BACKUP_NAME}") == f"600 {account.login}"
    assert bench.server.run(["ls", "-A", folder]).stdout.decode().split() == ["authorized_keys", BACKUP_NAME]


@pytest.mark.parametrize("who", ["itself", "admin"])
def test_folder_that_is_missing_is_made_private(bench, who):
    account, current = bench.new_account()
    candidate = key_candidate(account)
    with bench.connector.open(bench.target, own_and_admin(bench, current)[who], Deadline(30)) as session:
        session.change(account, candidate, lambda: None)
    assert stat(bench, f"/home/{account.login}/.ssh") == f"700 {account.login}"
    with bench.look() as session:
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED


@pytest.mark.parametrize("who", ["itself", "admin"])
def test_symbolic_links_stay_links(bench, who):
    account, current = bench.new_account()
    home = f"/home/{account.login}"
    script = (
        "mkdir -m 700 $1/real $1/keys && echo old-line >$1/keys/list && chmod 600 $1/keys/list && ln -s real $1/.ssh"
    )
    script += " && ln -s ../keys/list $1/real/authorized_keys && chown -R $2 $1/real $1/keys"
    bench.server.run(["sh", "-c", script, "sh", home, account.login])
    candidate = key_candidate(account)
    with bench.connector.open(bench.target, own_and_admin(bench, current)[who], Deadline(30)) as session:
        session.change(account, candidate, lambda: None)
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
    assert bench.server.run(["readlink", f"{home}/.ssh"]).stdout == b"real\n"
    assert bench.server.run(["readlink", f"{home}/real/authorized_keys"]).stdout == b"../keys/list\n"
    assert bench.keys(account.login).startswith(b"old-line\n")


@pytest.mark.parametrize("who", ["itself", "admin"])
def test_file_of_somebody_else_is_forbidden_and_stays(bench, who):
    account, current = bench.new_account()
    bench.set_keys(account.login, b"roots own line\n")
    bench.server.run(["chown", "-R", "root:root", f"/home/{account.login}/.ssh"])
    bench.server.run(["chmod", "755", f"/home/{account.login}/.ssh"])
    with (
        bench.connector.open(bench.target, own_and_admin(bench, current)[who], Deadline(30)) as session,
        pytest.raises(Forbidden),
    ):
        session.change(account, key_candidate(account), lambda: None)
    assert bench.keys(account.login) == b"roots own line\n"


def test_users_link_to_a_file_of_root_is_never_written_through(bench):
    account, _ = bench.new_account()
    home = f"/home/{account.login}"
    bench.server.run(["sh", "-c", "mkdir -m 700 $1/.ssh; ln -s /etc/hosts.allow $1/.ssh/authorized_keys; chown -Rh $2 $1/.ssh",
                      "sh", home, account.login])  # fmt: skip
    before = bench.server.run(["cat", "/etc/hosts.allow"]).stdout
    with bench.connector.open(bench.target, benches.root(), Deadline(30)) as session, pytest.raises(NotApplied):
        session.change(account, key_candidate(account), lambda: None)
    assert bench.server.run(["cat", "/etc/hosts.allow"]).stdout == before


@pytest.mark.parametrize("who", ["itself", "admin"])
def test_file_that_somebody_changed_meanwhile_is_left_alone(bench, who):
    account, current = bench.new_account()
    bench.set_keys(account.login, b"first\n")
    with bench.connector.open(bench.target, own_and_admin(bench, current)[who], Deadline(30)) as session:
        write = session._key_change(account, key_candidate(account), session._rights.entry(account.login))
        bench.set_keys(account.login, b"second\n")
        with pytest.raises(NotApplied):
            write(lambda: None)
    assert bench.keys(account.login) == b"second\n"


def test_half_of_a_file_never_replaces_it(bench):
    account, current = bench.new_account()
    theirs = b"ssh-rsa AAAA somebody\n" * 40
    bench.set_keys(account.login, theirs)
    candidate = key_candidate(account)
    with FaultProxy(bench.target.host, bench.target.port) as proxy:

        def arm() -> None:  # the command goes through, its input is cut short
            proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT, after_bytes=1200, times=None))

        with bench.open(current, target=bench.at(proxy.port)) as session, pytest.raises(ConnectionLost):
            session.change(account, candidate, arm)
    assert bench.keys(account.login) in {theirs, theirs + f"{candidate.public_key} {candidate.key_comment}\n".encode()}


def test_password_and_key_are_set_together_and_probed_apart(bench):
    account, old = bench.new_account()
    key = key_candidate(account)
    both = replace(key, password=new_password())
    fences = []
    with bench.open(old) as session:
        session.change(account, both, lambda: fences.append(1))
        assert session.probe(account, both.credential(account)).state is VerdictState.ACCEPTED
        wrong_key = replace(both.credential(account), private_key=generate_key("ssh-ed25519").private_pem)
        verdict = session.probe(account, wrong_key)
        assert (verdict.state, verdict.cause) == (VerdictState.PARTIAL, "key_refused")
        wrong_password = replace(both.credential(account), password=old.password)
        verdict = session.probe(account, wrong_password)
        assert (verdict.state, verdict.cause) == (VerdictState.PARTIAL, "password_refused")
    assert fences == [1]


# Accounts


def test_locked_account_is_locked_and_not_refused(bench):
    account, current = bench.new_account()
    bench.server.run(["usermod", "-L", account.login])
    with bench.open(current) as session:
        assert session.metadata(account).locked is True
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "locked")


def test_password_that_must_be_changed_first_is_locked(bench):
    account, current = bench.new_account()
    bench.server.run(["chage", "-d", "0", account.login])
    with bench.look() as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "expired")


def test_expired_account_is_not_refused(bench):
    account, current = bench.new_account()
    bench.server.run(["chage", "-E", "2020-01-01", account.login])
    with bench.open(current) as session:
        assert session.metadata(account).expires.year == 2020
        verdict = session.probe(account, current)
    assert verdict.state in {VerdictState.LOCKED, VerdictState.UNKNOWN}


def test_own_password_that_breaks_the_machines_rules_is_refused_and_nothing_changes(bench):
    account, current = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(30)) as session, pytest.raises(PolicyRefused):
        session.change(account, Candidate(password=SecretValue("abc")), lambda: None)
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED


def test_sudo_that_refuses_the_rotators_password_is_forbidden(bench):
    account, _ = bench.new_account()
    rotator = benches.asking_admin()
    with bench.connector.open(bench.target, rotator, Deadline(30)) as session:
        session._rights.rotator = replace(rotator, password=SecretValue("not the one sudo wants"))
        with pytest.raises(Forbidden):
            session.preflight(account)


def test_key_of_an_unknown_kind_or_with_a_passphrase_is_unsupported(bench):
    for text in ("not a key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"):
        rotator = Credential(login=bench.server.admin_login, private_key=SecretValue(text))
        with pytest.raises(Unsupported):
            bench.connector.open(bench.target, rotator, Deadline(20))


# Scripts


def test_script_runs_from_a_private_file_that_is_gone_afterwards(bench):
    _, current = bench.new_account()
    with bench.open(current) as session:
        path = session.upload("", "a 'script'.sh", b'#!/bin/sh\ncat; echo "$1"; echo problem >&2; exit 3\n')
        assert stat(bench, path) == f"700 {bench.server.admin_login}"
        assert stat(bench, path.rpartition("/")[0]) == f"700 {bench.server.admin_login}"
        result = session.run([path, "two words $x"], b"in" * 100_000, Deadline(20))
        assert (result.exit_code, result.stdout, result.stderr) == (3, "in" * 100_000 + "two words $x\n", "problem\n")
        session.remove(path)
        session.remove(path)
        assert session.run(["test", "-e", path.rpartition("/")[0]], b"", Deadline(20)).exit_code == 1
        for foreign in ("/etc/passwd", "/tmp/pam-jobs.0123456789/../x", "/home"):
            with pytest.raises(Unsupported):
                session.remove(foreign)


def test_script_that_fills_both_streams_does_not_stop(bench):
    _, current = bench.new_account()
    flood = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; cat >/dev/null"
    with bench.open(current) as session:
        result = session.run(["/bin/sh", "-c", flood], b"x" * 500_000, Deadline(30))
    assert result.exit_code == 0
    assert len(result.stdout) == len(result.stderr) == 1 << 20


def test_script_that_leaves_a_child_behind_ends_with_itself(bench):
    _, current = bench.new_account()
    with bench.open(current) as session:
        result = session.run(["/bin/sh", "-c", "sleep 5 & echo done"], b"", Deadline(4))
    assert result.stdout == "done\n"


def test_output_that_comes_after_the_end_of_the_script_is_waited_for(bench):
    _, current = bench.new_account()
    late = "(for i in 1 2 3 4 5 6 7 8; do sleep 0.1; echo $i; done) & echo done"
    with bench.open(current) as session:
        result = session.run(["/bin/sh", "-c", late], b"", Deadline(20))
    assert result.stdout.split() == ["done", *"12345678"]


# Another server: the distribution's own limit of logins, and questions in place of the password method


@pytest.fixture(scope="module")
def strict_server() -> Iterator[SshServer]:
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    settings = ["PasswordAuthentication no", "KbdInteractiveAuthentication yes", "PrintMotd no"]
    server = sshd.start(folder, max_startups="10:30:100", settings=settings)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_crowd_of_logins_is_held_back_below_the_servers_limit(strict_server):
    bench = LinuxBench(strict_server, "admin with key", admin=benches.key_admin(strict_server))
    account, current = bench.new_account()

    def probe(_: int) -> VerdictState:
        with bench.look() as session:
            return session.probe(account, current).state

    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(probe, range(48))) == {VerdictState.ACCEPTED}


def test_server_that_takes_three_at_a_time_turns_none_of_eight_rotations_away():
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    server = sshd.start(folder, max_startups="3:100:3")
    try:
        bench = LinuxBench(server, "admin with key", admin=benches.key_admin(server))
        accounts = [bench.new_account() for _ in range(8)]

        def rotate(one: tuple[Account, Credential]) -> VerdictState:
            account, current = one
            candidate = bench.candidate(account)
            with bench.open(current) as session:
                session.preflight(account)
                assert session.change(account, candidate, lambda: None) is Effect.APPLIED
                return session.probe(account, candidate.credential(account)).state

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(rotate, accounts)) == {VerdictState.ACCEPTED}
        assert "MaxStartups" in bench.log_text()  # it was met, and nobody noticed
        bench.connector.close_idle()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_login_by_questions_is_a_login_by_password(strict_server):
    bench = LinuxBench(strict_server, "admin with key", admin=benches.key_admin(strict_server))
    account, current = bench.new_account()
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED
        wrong = Credential(login=account.login, password=SecretValue("wrong"))
        assert session.probe(account, wrong).state is VerdictState.REFUSED
    bench.server.run(["chage", "-d", "0", account.login])
    with bench.look() as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "expired")
    assert isinstance(bench.target, Target)


# A server that turns connections away before it looks at anybody


@pytest.fixture(scope="module")
def throttled_server() -> Iterator[SshServer]:
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    server = sshd.start(folder, max_startups="1:100:1", settings=["MaxAuthTries 1", "LoginGraceTime 60"])
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_connection_dropped_before_the_banner_proves_nothing(throttled_server):
    bench = LinuxBench(throttled_server, "admin with key", admin=benches.key_admin(throttled_server))
    account, current = bench.new_account()
    wrong = Credential(login=account.login, password=SecretValue("wrong"))
    with socket.create_connection((bench.target.host, bench.target.port), timeout=10) as first:
        assert first.recv(4) == b"SSH-"  # it has the one place, and says nothing more
        for credential in (current, wrong):
            with bench.look(seconds=1) as session:
                assert session.probe(account, credential).state is VerdictState.UNKNOWN
        with pytest.raises(Unreachable):
            bench.open(current, seconds=1)
    assert "Failed password" not in bench.log_text()
    with bench.look() as session:
        assert _patiently(session, account, current).state is VerdictState.ACCEPTED


def test_server_that_ends_the_connection_over_too_many_tries_proves_nothing(throttled_server):
    bench = LinuxBench(throttled_server, "admin with key", admin=benches.key_admin(throttled_server))
    account, _ = bench.new_account()
    wrong = Credential(login=account.login, password=SecretValue("wrong"))
    with bench.look() as session:
        verdict = _patiently(session, account, wrong)
    assert verdict.state is VerdictState.UNKNOWN
    assert "Failed password" in bench.log_text()


def _patiently(session, account, credential):
    """Probe until the server has let go of the connection before."""
    log_in_by = time.monotonic() + 20
    while True:
        verdict = session.probe(account, credential)
        is_dropped = verdict.state is VerdictState.UNKNOWN and "MaxStartups" in verdict.detail
        if not is_dropped or time.monotonic() > log_in_by:
            return verdict
        time.sleep(0.1)
