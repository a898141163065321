"""What is macOS' own: secure tokens, an exit code that says nothing, the directory. The commands are emulated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from connectors.base import AccountMetadata, Deadline, Finding, VerdictState
from connectors.macos.shell import read_accounts, read_metadata, read_reset, read_survey
from deploy.lab import macos
from pam_jobs.errors import AmbiguousReply, Effect, Forbidden, PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches import linux as benches
from tests.support.benches.linux import LinuxBench
from tests.support.benches.macos import MacosBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(mac_server) -> Iterator[MacosBench]:
    made = MacosBench(mac_server, "admin with key", admin=benches.key_admin(mac_server))
    yield made
    made.connector.close_idle()


def write(bench: MacosBench, path: str, text: str) -> None:
    bench.server.run(["sh", "-c", 'cat >"$1"', "sh", path], text.encode())


def test_a_secure_token_and_the_rules_are_told_though_the_command_ends_well(bench):
    account, current = bench.new_account()
    write(bench, macos.SECURE_TOKENS, f"{account.login}\n")
    with bench.open(current) as session:
        with pytest.raises(Forbidden, match="secure token"):
            session.change(account, bench.candidate(account), lambda: None)
        write(bench, macos.SECURE_TOKENS, "")
        write(bench, macos.MINIMUM_LENGTH, "12")
        try:
            with pytest.raises(PolicyRefused) as caught:
                session.change(account, bench.candidate(account, SecretValue("Short-1")), lambda: None)
        finally:
            bench.server.run(["rm", macos.MINIMUM_LENGTH])
        assert "Short-1" not in caught.value.sentence()
        assert caught.value.effect is Effect.NOT_APPLIED
        assert session.probe(account, current).state is VerdictState.ACCEPTED


def test_a_disabled_account_that_sshd_refuses_is_asked_for_in_the_directory(bench):
    account, current = bench.new_account()
    bench.server.run(["passwd", "-l", account.login])
    with bench.open(current) as session:
        seen = session.probe(account, current)
        assert session.metadata(account).disabled is True
    assert (seen.state, seen.cause) == (VerdictState.LOCKED, "disabled")


def test_when_a_password_was_set_is_told_to_root_alone(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        told = session.metadata(account)
    assert told.last_set is not None
    assert timedelta(0) <= datetime.now(UTC) - told.last_set < timedelta(days=2)
    assert told.disabled is False
    with bench.connector.open(bench.target, current, Deadline(20)) as session:  # no administrator
        assert session.metadata(account) == AccountMetadata(disabled=False)


@pytest.mark.parametrize(
    "told",
    [b"", b"<?xml version='1.0'?><plist><dict></plist>", b"<?xml version='1.0'?><plist version='1.0'><true/></plist>"],
)
def test_metadata_that_is_none_is_not_told(told):
    assert read_metadata(told) == AccountMetadata()


def test_a_linux_machine_is_no_mac(sshd_server):
    bench = LinuxBench(sshd_server, "admin with key", admin=benches.key_admin(sshd_server))
    mac = MacosBench(sshd_server, "admin with key", admin=bench.admin)
    account, _ = bench.new_account()
    with mac.connector.open(mac.target, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported) as caught:
        session.preflight(account)
    assert "operating system" in caught.value.sentence()
    mac.connector.close_idle()


def test_values_with_blanks_stand_on_lines_of_their_own():
    told = "uid=501\nsystem=Darwin\nread=NFSHomeDirectory:\nread= /Users/a b\nread=PrimaryGroupID: 20\nread=UniqueID: 502\nsudo=0"
    entry = read_survey(told, "joe").entry
    assert (entry.home, entry.uid, entry.gid) == ("/Users/a b", 502, 20)
    assert read_survey("uid=0\nsystem=Darwin", "joe").entry is None


def test_accounts_of_the_system_are_marked():
    found = list(
        read_accounts("_mbsetupuser            248\njoe                     501\nnobody    -2\nroot 0\n\nodd\n")
    )
    assert [(each.name, each.facts["system"]) for each in found if isinstance(each, Finding)] == [
        ("_mbsetupuser", True), ("joe", False), ("nobody", True), ("root", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (0, "sysadminctl[1:2] - Done", type(None)),
        (0, "sysadminctl[1:2] resetting password for joe.", type(None)),
        (0, "sysadminctl[1:2] Unknown user joe", Unsupported),
        (0, "Operation is not permitted without secure token unlock.", Forbidden),
        (1, "sudo: a password is required", Forbidden),
        (0, "resetting password for joe failed", AmbiguousReply),
        (9, "killed", AmbiguousReply),
    ],
)
def test_what_sysadminctl_says_decides(code, said, kind):
    assert type(read_reset(code, said, SecretValue("x9"))) is kind
