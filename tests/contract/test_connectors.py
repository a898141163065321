"""One suite over every connector, against real servers: what each of them promises to the rotation engine."""

from __future__ import annotations

import secrets
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest

from connectors.base import (
    Account,
    Candidate,
    Capability,
    Credential,
    Deadline,
    Finding,
    VerdictState,
)
from connectors.faults import Action, Fault, FaultProxy, When
from connectors.kept import KeepingConnector
from connectors.registry import ConnectorRegistry
from connectors.ssh.authorized_keys import KEY_TYPES
from pam_jobs.errors import (
    AuthRejected,
    Effect,
    EffectUnknown,
    Forbidden,
    LeaseLost,
    NotApplied,
    PamJobsError,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches import linux as benches
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.benches.base import Bench
from tests.support.benches.fake import FakeBench
from tests.support.benches.lab import Lab
from tests.support.benches.linux import LinuxBench
from tests.support.benches.macos import MacosBench
from tests.support.benches.mariadb import MariadbBench, Mysql8Bench
from tests.support.benches.mongodb import MongodbBench
from tests.support.benches.network import IosXeBench
from tests.support.benches.openldap import OpenldapBench
from tests.support.benches.oracle import OracleBench
from tests.support.benches.postgresql import PostgresBench
from tests.support.benches.rabbitmq import RabbitmqBench
from tests.support.benches.redis import RedisBench
from tests.support.benches.sqlserver import SqlserverBench
from tests.support.benches.windows import ControllerBench, KerberosBench, WindowsBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

BENCHES: dict[str, Callable[[Lab], Bench]] = {
    "fake": lambda _: FakeBench(),
    "postgresql-admin": lambda lab: PostgresBench(lab.postgres),
    "postgresql-itself": lambda lab: PostgresBench(lab.postgres, is_self=True),
    "openldap-admin": lambda lab: OpenldapBench(lab.openldap),
    "openldap-itself": lambda lab: OpenldapBench(lab.openldap, is_self=True, secure=False),
    "activedirectory-admin": lambda lab: ActiveDirectoryBench(lab.samba),
    "activedirectory-itself": lambda lab: ActiveDirectoryBench(lab.samba, is_self=True, secure=False),
    "activedirectory-winrm-admin": lambda lab: ControllerBench(lab.controller),
    "mariadb-admin": lambda lab: MariadbBench(lab.mariadb),
    "mariadb-itself": lambda lab: MariadbBench(lab.mariadb, is_self=True),
    "ios-xe-admin": lambda lab: IosXeBench(lab.ios_xe),
    "mongodb-admin": lambda lab: MongodbBench(lab.mongodb),
    "rabbitmq-admin": lambda lab: RabbitmqBench(lab.rabbitmq),
    "mysql8-admin": lambda lab: Mysql8Bench(lab.mysql8),
    "mysql8-itself": lambda lab: Mysql8Bench(lab.mysql8, is_self=True),
    "redis-admin": lambda lab: RedisBench(lab.redis),
    "oracle-admin": lambda lab: OracleBench(lab.oracle),
    "oracle-itself": lambda lab: OracleBench(lab.oracle, is_self=True),
    "sqlserver-admin": lambda lab: SqlserverBench(lab.mssql),
    "sqlserver-itself": lambda lab: SqlserverBench(lab.mssql, is_self=True),
    "linux-admin": lambda lab: LinuxBench(lab.ssh, "admin with key", admin=benches.key_admin(lab.ssh)),
    "linux-itself": lambda lab: LinuxBench(lab.ssh, "itself"),
    "linux-admin-key": lambda lab: LinuxBench(
        lab.ssh, "admin with key", admin=benches.key_admin(lab.ssh), algorithm="ssh-ed25519"
    ),
    "linux-itself-key": lambda lab: LinuxBench(lab.ssh, "itself", algorithm="ecdsa-sha2-nistp256"),
    "macos-admin": lambda lab: MacosBench(lab.mac, "admin with key", admin=benches.key_admin(lab.mac)),
    "winrm-admin": lambda lab: WindowsBench(lab.windows),
    "windows-ssh-admin": lambda lab: WindowsBench(lab.windows, "ssh"),
}
"""Every promise is tested on these."""

VARIANTS: dict[str, Callable[[Lab], Bench]] = {
    "linux-password-admin": lambda lab: LinuxBench(
        lab.ssh, "admin with password", admin=benches.password_admin(lab.ssh)
    ),
    "linux-asking-sudo": lambda lab: LinuxBench(lab.ssh, "sudo asks", admin=benches.asking_admin()),
    "linux-narrow-sudo": lambda lab: LinuxBench(lab.ssh, "sudo chpasswd only", admin=benches.narrow_admin()),
    "linux-root": lambda lab: LinuxBench(lab.ssh, "root", admin=benches.root()),
    "linux-asking-sudo-key": lambda lab: LinuxBench(
        lab.ssh, "sudo asks", admin=benches.asking_admin(), algorithm="ecdsa-sha2-nistp521"
    ),
    "linux-root-key": lambda lab: LinuxBench(lab.ssh, "root", admin=benches.root(), algorithm="ecdsa-sha2-nistp384"),
    **{
        f"linux-itself-{kind}": lambda lab, kind=kind: LinuxBench(lab.ssh, "itself", algorithm=kind)  # type: ignore[misc]
        for kind in KEY_TYPES
    },
    "macos-asking-sudo": lambda lab: MacosBench(lab.mac, "sudo asks", admin=benches.asking_admin()),
    "macos-root": lambda lab: MacosBench(lab.mac, "root", admin=benches.root()),
    "macos-itself": lambda lab: MacosBench(lab.mac, "itself"),
    "winrm-https-admin": lambda lab: WindowsBench(lab.windows, "winrm-https"),
    "winrm-basic-admin": lambda lab: WindowsBench(lab.windows, "winrm-https", login="basic"),
    "winrm-kerberos-admin": lambda lab: KerberosBench(lab.joined),
    "winrm-itself": lambda lab: WindowsBench(lab.windows, is_self=True),
    "winrm-basic-itself": lambda lab: WindowsBench(lab.windows, "winrm-https", login="basic", is_self=True),
    "windows-ssh-itself": lambda lab: WindowsBench(lab.windows, "ssh", is_self=True),
}
"""Other ways to the same change: what differs is tested on these too."""

EVERYWHERE = BENCHES | VARIANTS
PROXIED = [name for name in BENCHES if name != "fake"]
HOSTILE = ["'", '"', "\\", "$HOME `id` $(id)", "100%s %n", " lead and trail ", "pässwörd ☃ Ω", "-rf --help", "x" * 200,
           "a:b:c", "#!;|&<>*?[]{}~", "\\x27;--", "'; DROP ROLE labadmin; --", "\t tab"]  # fmt: skip


@pytest.fixture
def bench(request: pytest.FixtureRequest, record_property) -> Bench:
    made = EVERYWHERE[request.param](Lab(request))
    test = request.node.originalname.removeprefix("test_").replace("_", " ")
    record_property("contract", [test, made.name, "emulated" if made.emulated else "real"])
    yield made
    made.connector.close_idle()


every_bench = pytest.mark.parametrize("bench", list(BENCHES), indirect=True)
every_variant = pytest.mark.parametrize("bench", list(EVERYWHERE), indirect=True)
proxied_bench = pytest.mark.parametrize("bench", PROXIED, indirect=True)
password_bench = pytest.mark.parametrize(
    "bench", [name for name in BENCHES if not name.endswith("-key")], indirect=True
)


class Fence:
    """Counts its calls, and looks at the target at the moment of each."""

    def __init__(self, look=lambda: None, error: Exception | None = None) -> None:
        self.calls = 0
        self.seen: list[object] = []
        self._look = look
        self._error = error

    def __call__(self) -> None:
        self.calls += 1
        self.seen.append(self._look())
        if self._error is not None:
            raise self._error


def logs_in(bench: Bench, account: Account, credential: Credential) -> VerdictState:
    with bench.look() as session:
        return session.probe(account, credential).state


@every_variant
def test_preflight_changes_nothing(bench):
    account, current = bench.new_account()
    before = bench.fingerprint(account)
    with bench.open(current) as session:
        found = session.preflight(account)
    assert found.may_change
    assert found.account_exists
    assert found.is_self == bench.is_self
    assert found.server
    assert bench.fingerprint(account) == before


@every_variant
def test_new_credential_logs_in_and_old_one_is_refused(bench):
    account, current = bench.new_account()
    with bench.open(current) as first:  # the line of ours exists from here on, and later changes replace it
        seeded = bench.candidate(account)
        first.change(account, seeded, Fence())
        current = seeded.credential(account)
    candidate = bench.candidate(account)
    with bench.open(current) as session:
        assert session.change(account, candidate, Fence()) is Effect.APPLIED
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED
    assert logs_in(bench, account, candidate.credential(account)) is VerdictState.ACCEPTED
    assert logs_in(bench, account, current) is VerdictState.REFUSED


@every_variant
def test_fence_is_called_once_and_before_the_change(bench):
    account, current = bench.new_account()
    before = bench.fingerprint(account)
    fence = Fence(lambda: bench.fingerprint(account))
    with bench.open(current) as session:
        session.preflight(account)
        assert fence.calls == 0
        session.change(account, bench.candidate(account), fence)
    assert fence.seen == [before]
    assert bench.fingerprint(account) != before


@every_bench
def test_fence_that_raises_leaves_the_target_unchanged(bench):
    account, current = bench.new_account()
    before = bench.fingerprint(account)
    candidate = bench.candidate(account)
    with bench.open(current) as session, pytest.raises(LeaseLost):
        session.change(account, candidate, Fence(error=LeaseLost("somebody else has it")))
    assert bench.fingerprint(account) == before
    assert logs_in(bench, account, current) is VerdictState.ACCEPTED
    with bench.open(current) as session:
        assert session.change(account, candidate, Fence()) is Effect.APPLIED


@every_variant
def test_change_is_idempotent(bench):
    account, current = bench.new_account()
    candidate = bench.candidate(account)
    with bench.open(current) as session:
        for _ in range(2):
            fence = Fence()
            assert session.change(account, candidate, fence) is Effect.APPLIED
            assert fence.calls == 1
    with bench.open(candidate.credential(account)) as session:
        assert session.change(account, candidate, Fence()) is Effect.APPLIED
    assert logs_in(bench, account, candidate.credential(account)) is VerdictState.ACCEPTED


@password_bench
def test_hostile_values_are_set_as_they_are(bench):
    account, current = bench.new_account()
    for text in HOSTILE:
        # passwd as the account itself refuses what is short or simple; a random start keeps its rules out of the way
        candidate = bench.candidate(account, SecretValue(f"{secrets.token_hex(4)}{text}" if bench.is_self else text))
        value = candidate.password.reveal()
        is_long = bench.longest is not None and len(value.encode()) > bench.longest
        if is_long or set(bench.forbidden) & set(value):
            _assert_refused_before_the_fence(bench, account, current, candidate)
            continue
        with bench.open(current) as session:
            if set(bench.forbids) & set(text):
                with pytest.raises(PolicyRefused):
                    session.change(account, candidate, Fence())
                continue
            assert session.change(account, candidate, Fence()) is Effect.APPLIED, text
            assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED, text
        current = candidate.credential(account)


def _assert_refused_before_the_fence(bench: Bench, account: Account, current: Credential, candidate: Candidate) -> None:
    fence = Fence()
    with bench.open(current) as session, pytest.raises(PolicyRefused):
        session.change(account, candidate, fence)
    assert fence.calls == 0


@password_bench
@pytest.mark.parametrize("text", ["", "with\0nul"])
def test_value_the_target_cannot_hold_is_refused_before_the_fence(bench, text):
    account, current = bench.new_account()
    if bench.name == "fake" and text:
        return  # the fake holds anything but nothing
    fence = Fence()
    with bench.open(current) as session, pytest.raises(NotApplied):
        session.change(account, bench.candidate(account).__class__(password=SecretValue(text)), fence)
    assert fence.calls == 0
    assert logs_in(bench, account, current) is VerdictState.ACCEPTED


@every_bench
def test_probe_of_a_target_that_is_down_is_unknown(bench):
    account, current = bench.new_account()
    if isinstance(bench, FakeBench):
        bench.state.is_down = True
        assert logs_in(bench, account, current) is VerdictState.UNKNOWN
        return
    with bench.look(target=bench.at(_closed_port())) as session:
        assert session.probe(account, current).state is VerdictState.UNKNOWN


@proxied_bench
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("action", [Action.CUT, Action.RESET])
def test_probe_that_is_cut_is_unknown(bench, when, action):
    account, current = bench.new_account()
    with FaultProxy(bench.target.host, bench.target.port) as proxy:
        proxy.arm(Fault(action=action, when=when, times=None))
        with bench.look(seconds=15, target=bench.at(proxy.port)) as session:
            verdict = session.probe(account, current)
    assert verdict.state is VerdictState.UNKNOWN
    assert verdict.cause


@proxied_bench
def test_probe_that_is_cut_late_is_unknown(bench):
    account, current = bench.new_account()
    for bytes_seen in (300, 900, 1700, 2300):
        with FaultProxy(bench.target.host, bench.target.port) as proxy:
            proxy.arm(Fault(action=Action.CUT, when=When.ANSWER_RECEIVED, after_bytes=bytes_seen, times=None))
            with bench.look(seconds=15, target=bench.at(proxy.port)) as session:
                verdict = session.probe(account, current)
        assert verdict.state in {VerdictState.UNKNOWN, VerdictState.ACCEPTED}, (bytes_seen, verdict)


@proxied_bench
def test_probe_that_hangs_ends_at_its_deadline(bench):
    account, current = bench.new_account()
    with FaultProxy(bench.target.host, bench.target.port) as proxy:
        proxy.arm(Fault(action=Action.HANG, when=When.ANSWER_RECEIVED, times=None))
        started = time.monotonic()
        with bench.look(seconds=1.0, target=bench.at(proxy.port)) as session:
            assert session.probe(account, current).state is VerdictState.UNKNOWN
        assert time.monotonic() - started < 6


@every_bench
def test_unreachable_target_is_reported_as_not_applied(bench):
    _, current = bench.new_account()
    target = bench.at(_closed_port())
    with pytest.raises(Unreachable) as caught:
        bench.open(current, target=target)
    assert caught.value.effect is Effect.NOT_APPLIED


@every_bench
def test_rotator_that_is_refused_is_reported_as_such(bench):
    account, current = bench.new_account()
    rotator, guard = bench.rotator(current), Guard()
    wrong = Credential(login=rotator.login, password=SecretValue("surely not the right one"), guard=guard)
    with pytest.raises(AuthRejected):
        bench.connector.open(bench.target, wrong, Deadline(30))
    assert guard.left == ([AuthRejected] if isinstance(bench.connector, KeepingConnector) else [])
    assert logs_in(bench, account, current) is VerdictState.ACCEPTED


@every_bench
def test_rotator_without_rights_is_forbidden_and_changes_nothing(bench):
    account, _ = bench.new_account()
    _, powerless = bench.new_account()
    before = bench.fingerprint(account)
    fence = Fence()
    with bench.connector.open(bench.target, powerless, Deadline(30)) as session:
        with pytest.raises(Forbidden):
            session.preflight(account)
        with pytest.raises(Forbidden):
            session.change(account, bench.candidate(account), fence)
    assert bench.fingerprint(account) == before


@every_bench
def test_missing_account_is_unsupported(bench):
    _, current = bench.new_account()
    nobody = Account(login="no-such-account", record_uid="x")
    with bench.open(current) as session, pytest.raises(Unsupported if bench.sees_others else Forbidden):
        session.preflight(nobody)


@every_bench
def test_session_without_rotator_only_probes(bench):
    account, current = bench.new_account()
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED
        with pytest.raises(Unsupported):
            session.preflight(account)
        with pytest.raises(Unsupported):
            session.change(account, bench.candidate(account), Fence())


@proxied_bench
@pytest.mark.parametrize("action", [Action.CUT, Action.RESET, Action.DROP_BEFORE])
def test_change_cut_off_after_the_fence_is_of_unknown_effect(bench, action):
    account, current = bench.new_account()
    candidate = bench.candidate(account)
    with FaultProxy(bench.target.host, bench.target.port) as proxy:

        def arm() -> None:
            proxy.arm(Fault(action=action, when=When.REQUEST_SENT, times=None))

        with bench.open(current, seconds=20, target=bench.at(proxy.port)) as session:
            fence = Fence(arm)
            with pytest.raises(EffectUnknown) as caught:
                session.change(account, candidate, fence)
    assert fence.calls == 1
    assert caught.value.effect is Effect.UNKNOWN
    _assert_one_of_the_two_logs_in(bench, account, current, candidate.credential(account))


@proxied_bench
def test_answer_that_never_comes_is_of_unknown_effect_in_time(bench):
    account, current = bench.new_account()
    candidate = bench.candidate(account)
    with FaultProxy(bench.target.host, bench.target.port) as proxy:

        def arm() -> None:
            proxy.arm(Fault(action=Action.HANG, when=When.ANSWER_RECEIVED, times=None))

        with bench.open(current, seconds=4, target=bench.at(proxy.port)) as session:
            started = time.monotonic()
            with pytest.raises(EffectUnknown):
                session.change(account, candidate, Fence(arm))
            assert time.monotonic() - started < 10
    _assert_one_of_the_two_logs_in(bench, account, current, candidate.credential(account))


def _assert_one_of_the_two_logs_in(bench: Bench, account: Account, old: Credential, new: Credential) -> None:
    end = time.monotonic() + 5  # the server may still be at it
    while time.monotonic() < end:
        states = {logs_in(bench, account, old), logs_in(bench, account, new)}
        if VerdictState.ACCEPTED in states:
            break
    assert VerdictState.ACCEPTED in states
    with bench.open(new if logs_in(bench, account, new) is VerdictState.ACCEPTED else old) as session:
        session.change(account, _as_candidate(bench, account, new), Fence())  # what recovery does: the same value again
    assert logs_in(bench, account, new) is VerdictState.ACCEPTED


def _as_candidate(bench: Bench, account: Account, credential: Credential):
    from connectors.base import Candidate
    from pam_jobs.records.keys import public_of

    public = public_of(credential.private_key) if credential.private_key else None
    comment = f"keeper-security-{account.record_uid}"
    return Candidate(
        password=credential.password, private_key=credential.private_key, public_key=public, key_comment=comment
    )


@every_bench
def test_no_secret_shows_in_logs_errors_or_reprs(bench, caplog):
    caplog.set_level(0)
    account, current = bench.new_account()
    candidate = bench.candidate(account)
    rotator = bench.rotator(current)
    errors: list[PamJobsError] = []
    with bench.open(current) as session:
        shown = [repr(session), repr(vars(session)), repr(candidate), repr(rotator)]
        session.change(account, candidate, Fence())
        shown.append(repr(session.probe(account, candidate.credential(account))))
        shown.append(repr(session.probe(account, current)))
    wrong = Credential(login=account.login, password=SecretValue("Canary-of-a-wrong-one"))
    for attempt in (
        lambda: bench.connector.open(bench.target, wrong, Deadline(20)),
        lambda: bench.connector.open(bench.at(_closed_port()), rotator, Deadline(20)),
    ):
        try:
            attempt()
        except PamJobsError as error:
            errors.append(error)
    shown += ["".join(traceback.format_exception(error)) + error.sentence() for error in errors]
    text = "\n".join([*shown, caplog.text, bench.log_text()])
    for credential in (candidate.credential(account), current, rotator, wrong):
        for part in (credential.password, credential.private_key):
            assert part is None or part.reveal() not in text
    assert len(errors) == 2


@every_bench
def test_discovery_lists_the_accounts(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        found = list(session.discover())
    names = {each.name for each in found if isinstance(each, Finding) and each.kind == "users"}
    assert account.login in names


@every_bench
def test_metadata_costs_no_login_as_the_account(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        metadata = session.metadata(account)
    assert metadata.locked in {None, False}
    assert metadata.disabled in {None, False}
    assert metadata.expires is None


@pytest.mark.parametrize("bench", [name for name in BENCHES if name != "activedirectory-winrm-admin"], indirect=True)
def test_service_is_recognised_without_a_login(bench):
    service = bench.connector.recognise(bench.target.host, bench.target.port, Deadline(5))
    assert service is not None
    assert service.protocol == bench.target.protocol
    assert bench.connector.recognise("127.0.0.1", _closed_port(), Deadline(5)) is None


@proxied_bench
def test_rotators_connection_is_kept_for_the_next_session(bench):
    account, current = bench.new_account()
    guard = Guard()
    with FaultProxy(bench.target.host, bench.target.port) as proxy:
        target = bench.at(proxy.port)
        rotator = replace(bench.rotator(current), guard=guard)
        with bench.connector.open(target, rotator, Deadline(30)) as session:
            session.preflight(account)
        opened = proxy.connections
        assert set(guard.left) == {None}
        guard.left.clear()
        with bench.connector.open(target, rotator, Deadline(30)) as session:
            assert (proxy.connections, guard.left) == (opened, [])  # only a new login asks whether it may be made
            session.preflight(account)  # which may look, without a login, over one more
        assert len(bench.connector.kept) == 1
        with pytest.raises(NotApplied):
            bench.connector.open(
                target, Credential(login=bench.rotator(current).login, password=SecretValue("wrong")), Deadline(20)
            )
        bench.connector.close_idle()
        assert len(bench.connector.kept) == 0


@every_bench
def test_closing_never_raises(bench):
    _, current = bench.new_account()
    session = bench.open(current)
    session.close()
    session.close()


@every_bench
def test_capabilities_are_claimed(bench):
    assert {Capability.CHANGE, Capability.PROBE} <= bench.connector.capabilities
    if bench.algorithm:
        assert Capability.KEYS in bench.connector.capabilities
    assert (Capability.DEPENDANTS in bench.connector.capabilities) == bench.has_services


def test_every_registered_connector_has_a_bench(request):
    made = {make(Lab(request)).connector.name for make in BENCHES.values()}
    assert set(ConnectorRegistry().names()) <= made


class Guard:
    """A rotator's guard that lets every login be made, and notes how each ended."""

    def __init__(self) -> None:
        self.left: list[type[BaseException] | None] = []

    def __call__(self) -> Guard:
        return self

    def __enter__(self) -> None:
        """Let it be made."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.left.append(kind)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
