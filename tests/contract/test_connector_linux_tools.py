"""Distributions that lack what others have: chpasswd, runuser, sudo; SELinux; a password that must be changed first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from connectors.base import Candidate, Deadline, VerdictState
from connectors.linux.shell import Privilege, as_user, shell_of
from deploy.lab import SshServer, sshd
from pam_jobs.errors import Effect, Forbidden, NotApplied, PolicyRefused
from pam_jobs.records.keys import generate_key
from tests.support.benches import linux as benches
from tests.support.benches.base import new_password
from tests.support.benches.linux import LinuxBench
from tests.support.lab import ASKING_ADMIN, ROOT, SUDO_LOG, SUDOERS, target_folder

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

DOAS = """#!/bin/sh
# stands in for doas, with the options -n and -u, by a sudo of the lab under another name
user=root
while getopts nu: option; do case $option in u) user=$OPTARG ;; n) ;; *) exit 1 ;; esac; done
shift $((OPTIND - 1))
exec /home/as -n -u "$user" -- "$@"
"""
RESTORECON = """#!/bin/sh
# stands in for restorecon: writes down what it was asked
echo "$@" >>/home/restorecon.log
"""


@pytest.fixture(scope="module")
def bare_server() -> Iterator[SshServer]:
    """A machine with neither chpasswd nor runuser, and with SELinux's tool, which is emulated."""
    with target_folder() as folder:
        server = sshd.start(folder, users=dict([ASKING_ADMIN, ROOT]), sudoers=SUDOERS[:2])
        server.run(["sh", "-c", "touch /home/restorecon.log; chmod 666 /home/restorecon.log"])
        server.add_commands({"restorecon": RESTORECON})
        yield server
        server.stop()


@pytest.fixture
def bare(bare_server: SshServer) -> Iterator[LinuxBench]:
    made = LinuxBench(bare_server, "admin with key", admin=benches.key_admin(bare_server))
    yield made
    made.connector.close_idle()


@pytest.fixture
def hidden(bare_server: SshServer) -> Iterator[list[str]]:
    """Programs that are missing while a test runs."""
    paths: list[str] = []
    yield paths
    for path in paths:
        bare_server.run(["umount", path])


def hide(bench: LinuxBench, hidden: list[str], *paths: str) -> None:
    bench.server.hide(*paths)
    hidden.extend(paths)


@pytest.mark.parametrize("who", ["admin", "sudo asks", "root"])
def test_without_chpasswd_root_sets_it_by_passwd(bare, hidden, who):
    account, current = bare.new_account()
    rotator = {"admin": bare.admin, "sudo asks": benches.asking_admin(), "root": benches.root()}[who]
    hide(bare, hidden, "/usr/sbin/chpasswd")
    with bare.connector.open(bare.target, rotator, Deadline(30)) as session:
        assert session.preflight(account).account_exists
        candidate = bare.candidate(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED
    assert candidate.password.reveal() not in bare.log_text()


def test_without_sudo_it_goes_by_doas(bare, hidden):
    account, _ = bare.new_account()
    hide(bare, hidden, "/usr/bin/doas") if bare.server.run(
        ["sh", "-c", "command -v doas || :"]
    ).stdout.strip() else None
    bare.server.run(["install", "-m", "4755", "/usr/bin/sudo", "/home/as"])
    bare.server.add_commands({"doas": DOAS})
    hide(bare, hidden, "/usr/bin/sudo")
    key = generate_key("ssh-ed25519")
    mark = f"keeper-security-{account.record_uid}"
    both = Candidate(password=new_password(), private_key=key.private_pem, public_key=key.public, key_comment=mark)
    with bare.connector.open(bare.target, bare.admin, Deadline(30)) as session:
        assert session.change(account, both, lambda: None) is Effect.APPLIED
        assert session.probe(account, both.credential(account)).state is VerdictState.ACCEPTED
        assert session._rights.privilege is Privilege.DOAS
    powerless, own = bare.new_account()
    with bare.connector.open(bare.target, own, Deadline(30)) as session, pytest.raises(Forbidden):
        session.preflight(account)
    assert powerless.login != account.login


def test_without_runuser_root_writes_keys_by_su(bare, hidden):
    account, _ = bare.new_account()
    hide(bare, hidden, "/usr/sbin/runuser", "/usr/bin/sudo")
    key = generate_key("ssh-ed25519")
    mark = f"keeper-security-{account.record_uid}"
    candidate = Candidate(private_key=key.private_pem, public_key=key.public, key_comment=mark)
    with bare.connector.open(bare.target, benches.root(), Deadline(30)) as session:
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
    assert bare.keys(account.login) != b""


def test_without_runuser_root_goes_by_sudo_where_there_is_one():
    assert as_user(Privilege.ROOT, "joe", ["id"], frozenset({"sudo"})) == ["sudo", "-n", "-u", "joe", "--", "id"]
    assert as_user(Privilege.ROOT, "joe", ["id", "a b"], frozenset()) == [
        "su",
        "-s",
        "/bin/sh",
        "-c",
        "id 'a b'",
        "joe",
    ]
    assert as_user(Privilege.DOAS, "joe", ["id"]) == ["doas", "-n", "-u", "joe", "--", "id"]


def test_new_keys_get_the_label_of_their_place_before_their_name(bare):
    account, _ = bare.new_account()
    key = generate_key("ssh-ed25519")
    candidate = Candidate(
        private_key=key.private_pem, public_key=key.public, key_comment=f"keeper-security-{account.record_uid}"
    )
    with bare.connector.open(bare.target, bare.admin, Deadline(30)) as session:
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
    asked = bare.server.run(["cat", "/home/restorecon.log"]).stdout.decode()
    assert f"-- /home/{account.login}/.ssh /home/{account.login}/.ssh/.authorized_keys." in asked


def test_a_shell_of_the_record_runs_our_scripts_where_it_reads_them(bare):
    account, _ = bare.new_account()
    target = replace(bare.target, options={"Shell": "/usr/bin/bash"})
    with bare.connector.open(target, bare.admin, Deadline(30)) as session:
        assert session.preflight(account).account_exists
    for option, used in (
        ("/bin/ksh", "/bin/ksh"), ("/usr/bin/python3", "/bin/sh"), ("sh; reboot", "/bin/sh"), (None, "/bin/sh"),
    ):  # fmt: skip
        assert shell_of(option) == used


def test_an_account_whose_password_must_be_changed_first_changes_it_in_the_servers_dialogue(bare):
    account, current = bare.new_account()
    bare.server.run(["chage", "-d", "0", account.login])
    candidate = bare.candidate(account)
    with bare.connector.open(bare.target, current, Deadline(30)) as session:
        assert session.preflight(account).is_self
        with pytest.raises(PolicyRefused):
            session.change(account, Candidate(password=current.password), lambda: None)
    with bare.connector.open(bare.target, current, Deadline(30)) as session:
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
    with bare.connector.open(bare.target, None, Deadline(30)) as session:
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED
    assert candidate.password.reveal() not in bare.log_text()


def test_a_fence_that_forbids_leaves_the_dialogue_without_a_change(bare):
    account, current = bare.new_account()
    bare.server.run(["chage", "-d", "0", account.login])
    before = bare.fingerprint(account)

    def forbid() -> None:
        raise NotApplied("no longer ours")

    with bare.connector.open(bare.target, current, Deadline(30)) as session, pytest.raises(NotApplied):
        session.change(account, bare.candidate(account), forbid)
    assert bare.fingerprint(account) == before
    assert SUDO_LOG
