"""The second way to a domain: WinRM on its controllers. The domain is real, the Windows machine in front of it is emulated."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from connectors.activedirectory.winrm import ActiveDirectoryWinrmConnector
from connectors.activedirectory.winrm_place import places_of
from connectors.base import Account, Candidate, Credential, Deadline, Target, VerdictState
from connectors.faults import Action, Fault, FaultProxy, When
from connectors.registry import ConnectorRegistry
from pam_jobs.errors import (
    AuthRejected,
    Effect,
    EffectUnknown,
    HostKeyMismatch,
    Locked,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
    WrongAccount,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.benches.base import new_password
from tests.support.joined import JoinedMachine
from workers.chain import through

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

PASSWORD = "First-Secret-1"


@pytest.fixture
def controller(joined_controller: JoinedMachine) -> JoinedMachine:
    joined_controller.logins()
    return joined_controller


@pytest.fixture
def bench(controller: JoinedMachine) -> ActiveDirectoryBench:
    return controller.bench


@pytest.fixture(scope="module")
def registry():
    made = ConnectorRegistry(points=[])
    yield made
    made.close_idle()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def directory(controller: JoinedMachine, port: int, **options: str) -> Target:
    """Return the directory as a record names it: LDAPS on a port, the controller's WinRM beside it."""
    told = {
        "directory_type": "active_directory", "domain_name": controller.domain.domain,
        "ssl_ca": str(controller.server.ca), "winrm_port": f"http:{controller.server.port}",
        "kerberos_host": controller.host, "kerberos_kdc": controller.domain.host, **options,
    }  # fmt: skip
    return Target(host=controller.server.host, port=port, protocol="ldaps", use_ssl=True, options=told)


def account_of(login: str, **values: str) -> Account:
    return Account(login=login, record_uid="x", **values)


def rotate(registry, target: Target, rotator: Credential, account: Account, new: Candidate | None = None) -> str:
    """Rotate as the engine does, and return the name of the connector that did it."""
    new = new or Candidate(password=new_password())

    def action(connector) -> str:
        with connector.open(target, rotator, Deadline(20)) as session:
            session.preflight(account)
            assert session.change(account, new, lambda: None) is Effect.APPLIED
            assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        return connector.name

    return through(registry.chain_for(target.protocol, "active_directory"), target.protocol, action)


def logs_in(bench: ActiveDirectoryBench, login: str, password: SecretValue | str) -> bool:
    credential = Credential(login=login, password=SecretValue(password) if isinstance(password, str) else password)
    with bench.look() as session:
        return session.probe(account_of(login), credential).state is VerdictState.ACCEPTED


@pytest.mark.parametrize("form", ["{0}", "{0}@ad.lab.test", "LAB\\{0}", "{1}"])
def test_a_directory_without_ldaps_is_rotated_over_winrm_whatever_form_its_names_have(
    controller, bench, registry, form
):
    login = controller.add_account(PASSWORD)
    account = account_of(form.format(login, bench.dn(login).upper()))
    new = Candidate(password=new_password())
    target = directory(controller, closed_port())
    assert rotate(registry, target, controller.administrator, account, new) == "activedirectory-winrm"
    assert logs_in(bench, login, new.password)
    assert not logs_in(bench, login, PASSWORD)
    with registry.by_name("activedirectory-winrm").open(target, None, Deadline(20)) as session:
        for password, state in ((new.password, VerdictState.ACCEPTED), (SecretValue("Wrong-1"), VerdictState.REFUSED)):
            credential = Credential(login=account_of(login).login, password=password)
            assert session.probe(account_of(login), credential).state is state
    assert {how for how, _ in controller.logins()} == {"kerberos"}
    assert not controller.server.listeners[0].requests, "nothing came in the clear"


def test_an_administrator_with_a_bare_login_and_one_with_a_short_domain_are_taken(controller, registry):
    manager = controller.add_account(PASSWORD, admin=True)
    target = directory(controller, closed_port())
    for login in (manager, f"{controller.domain.netbios}\\{manager}"):
        rotator = Credential(login=login, password=SecretValue(PASSWORD))
        assert rotate(registry, target, rotator, account_of(controller.add_account(PASSWORD)))
    by_dn = Credential(login=controller.bench.dn(manager), password=SecretValue(PASSWORD))
    with pytest.raises(Unreachable):
        rotate(registry, target, by_dn, account_of(controller.add_account(PASSWORD)))


def test_an_administrator_changes_itself_and_its_old_connection_is_gone(controller, bench, registry):
    manager, new = controller.add_account(PASSWORD, admin=True), Candidate(password=new_password())
    itself = controller.credential(manager, PASSWORD)
    account, target = account_of(manager), directory(controller, closed_port())
    connector = ActiveDirectoryWinrmConnector()
    with connector.open(target, itself, Deadline(20)) as session:
        assert session.preflight(account).is_self
        session.change(account, new, lambda: None)
    assert not len(connector.kept)
    assert logs_in(bench, manager, new.password)


def test_what_was_cut_after_it_was_sent_is_unknown_and_nothing_else_is_tried(controller, bench, registry):
    login = controller.add_account(PASSWORD)
    rotator = bench.admin
    with FaultProxy(bench.target.host, bench.target.port) as proxy:
        target = directory(controller, proxy.port, ssl_ca=str(bench.server.ca))

        def cut() -> None:
            proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT, times=None))

        def action(connector):
            with connector.open(target, rotator, Deadline(10)) as session:
                session.preflight(account_of(login))
                session.change(account_of(login), Candidate(password=new_password()), cut)
            return connector.name

        with pytest.raises(EffectUnknown):
            through(registry.chain_for("ldaps", "active_directory"), "ldaps", action)
    assert not controller.logins()


def test_a_refused_administrator_is_refused_once(controller, registry):
    login = controller.add_account(PASSWORD)
    refused = replace(controller.administrator, password=SecretValue("Wrong-1"))
    place = controller.server.host
    away = directory(controller, closed_port(), alternative_ips=f"{place} localhost", kerberos_host=controller.host)
    with pytest.raises(AuthRejected):
        rotate(registry, away, refused, account_of(login))
    by_ldaps = directory(controller, controller.bench.target.port, ssl_ca=str(controller.domain.ca))
    with pytest.raises(AuthRejected):
        rotate(registry, replace(by_ldaps, host=controller.domain.host), refused, account_of(login))
    assert not controller.logins()


def test_what_the_domain_refuses_is_not_tried_by_another_way(controller, bench, registry):
    login = controller.add_account(PASSWORD)
    ldaps = replace(directory(controller, bench.target.port, ssl_ca=str(bench.server.ca)), host=bench.target.host)
    with pytest.raises(PolicyRefused):
        rotate(registry, ldaps, bench.admin, account_of(login), Candidate(password=SecretValue("x" * 300)))
    with pytest.raises(WrongAccount):
        rotate(registry, ldaps, bench.admin, account_of("krbtgt"))
    assert not controller.logins()
    away = directory(controller, closed_port())
    with pytest.raises(PolicyRefused):
        rotate(registry, away, controller.administrator, account_of(login), Candidate(password=SecretValue("x" * 300)))
    for values, error in (
        ({"userAccountControl": str(0x40200)}, WrongAccount),
        ({"userAccountControl": "514"}, Locked),
    ):
        other = controller.add_account(PASSWORD, **values)
        with pytest.raises(error) as caught:
            rotate(registry, away, controller.administrator, account_of(other))
        assert caught.value.remedy
    for name, error in (("krbtgt", WrongAccount), ("nobody", WrongAccount), ("OTHER\\x", WrongAccount)):
        with pytest.raises(error):
            rotate(registry, away, controller.administrator, account_of(name))
    assert logs_in(bench, login, PASSWORD)


@pytest.mark.parametrize(
    ("wish", "before", "after"),
    [("clear", True, False), ("keep", True, True), ("keep", False, False), ("set", False, True)],
)
def test_the_demand_for_another_password_at_the_next_logon_is_what_the_record_says(
    controller, bench, registry, wish, before, after
):
    login = controller.add_account(PASSWORD, **({"pwdLastSet": "0"} if before else {}))
    new, target = Candidate(password=new_password()), directory(controller, closed_port(), change_at_next_logon=wish)
    controller.machine.resets.clear()
    assert rotate(registry, target, controller.administrator, account_of(login), new) == "activedirectory-winrm"
    with bench.look() as session:
        verdict = session.probe(account_of(login), new.credential(account_of(login)))
    assert (verdict.state, verdict.cause == "change_after_reset") == (VerdictState.ACCEPTED, after)
    assert controller.machine.resets == ([["pwdLastSet", "unicodePwd"]] if after else [])


def test_a_locked_account_is_unlocked_where_the_record_says_so(controller, bench, registry):
    login = controller.add_account(PASSWORD)
    for _ in range(5):
        logs_in(bench, login, "certainly not")
    assert not logs_in(bench, login, PASSWORD)
    with pytest.raises(Locked) as caught:
        rotate(registry, directory(controller, closed_port()), controller.administrator, account_of(login))
    assert "Unlock Account" in caught.value.remedy
    new, unlocks = Candidate(password=new_password()), directory(controller, closed_port(), unlock_account="true")
    controller.machine.resets.clear()
    rotate(registry, unlocks, controller.administrator, account_of(login), new)
    assert controller.machine.resets == [["lockoutTime", "unicodePwd"]]
    assert logs_in(bench, login, new.password)


def test_what_the_directory_refuses_beside_the_password_is_known_to_be_as_it_was(controller, bench):
    login = controller.add_account(PASSWORD)
    target, account = directory(controller, closed_port(), change_at_next_logon="set"), account_of(login)

    def remove() -> None:
        with bench.connect() as connection:
            assert connection.delete(bench.dn(login))

    with ActiveDirectoryWinrmConnector().open(target, controller.administrator, Deadline(20)) as session:
        session.preflight(account)
        with pytest.raises(NotApplied, match="refused"):
            session.change(account, Candidate(password=new_password()), remove)


def test_an_administrator_that_changes_itself_sets_nothing_beside(controller, bench, registry):
    manager, new = controller.add_account(PASSWORD, admin=True), Candidate(password=new_password())
    target = directory(controller, closed_port(), change_at_next_logon="set")
    rotate(registry, target, controller.credential(manager, PASSWORD), account_of(manager), new)
    assert logs_in(bench, manager, new.password)


def test_a_certificate_that_is_not_trusted_ends_the_rotation(controller, bench, registry):
    untrusted = replace(directory(controller, bench.target.port), host=bench.target.host)  # the CA of another
    with pytest.raises(HostKeyMismatch):
        rotate(registry, untrusted, controller.administrator, account_of(controller.add_account(PASSWORD)))
    assert not controller.logins()


@pytest.mark.parametrize("value", ["off", "No", "0"])
def test_it_is_switched_off_and_the_first_way_is_told(controller, registry, value):
    off = directory(controller, closed_port(), winrm_port=value)
    with pytest.raises(Unreachable) as caught:
        rotate(registry, off, controller.administrator, account_of(controller.add_account(PASSWORD)))
    assert caught.value.remedy
    assert not controller.logins()
    with registry.by_name("activedirectory-winrm").open(off, None, Deadline(5)) as session:
        credential = Credential(login="x", password=SecretValue("y"))
        assert session.probe(account_of("x"), credential).state is VerdictState.UNKNOWN


def test_the_next_controller_is_asked_while_nobody_has_logged_in(controller, registry):
    target = replace(directory(controller, closed_port(), alternative_ips="127.0.0.1"), host="127.0.0.9")
    target = replace(target, options={**target.options, "Kerberos": "False"})
    administrator = replace(controller.administrator, login=f"LAB\\{controller.administrator.login.partition('@')[0]}")
    assert rotate(registry, target, administrator, account_of(controller.add_account(PASSWORD)))
    assert {how for how, _ in controller.logins()} == {"ntlm"}


def test_a_machine_that_is_no_controller_is_refused(joined_machine, registry):
    login = joined_machine.add_account(PASSWORD)
    target = directory(joined_machine, closed_port())
    with pytest.raises(Unreachable):
        rotate(registry, target, joined_machine.administrator, account_of(login))
    with (
        registry.by_name("activedirectory-winrm").open(target, joined_machine.administrator, Deadline(20)) as session,
        pytest.raises(Unsupported, match="domain controller"),
    ):
        session.preflight(account_of(login))
    assert joined_machine.machine.users[login].password == PASSWORD


def test_a_place_that_nobody_named_is_logged_in_to_only_where_it_proves_itself():
    def told(**options: str):
        target = Target(host="dc1.example.com", port=636, protocol="ldaps", options=options)
        return [(each.host, each.port, each.use_ssl, each.options.get("Kerberos")) for each in places_of(target)]

    assert told() == [("dc1.example.com", 5986, True, None), ("dc1.example.com", 5985, False, "True")]
    assert told(Kerberos="False") == [("dc1.example.com", 5986, True, "False")]
    assert told(tls_verify="none", winrm_authentication="ntlm") == []
    assert told(tls_verify="none")[0][3] == "True"
    assert told(winrm_port="5985") == [("dc1.example.com", 5985, False, None)]
    assert told(winrm_port="8443", alternative_ips="10.0.0.7") == [
        ("dc1.example.com", 8443, True, None), ("10.0.0.7", 8443, True, None),
    ]  # fmt: skip
    assert told(winrm_port="https:5985") == [("dc1.example.com", 5985, True, None)]
    for wrong in ("ftp:1", "70000", "http:", "x"):
        with pytest.raises(Unsupported):
            told(winrm_port=wrong)


NAMES = st.text(st.sampled_from("aZ9 '$%`(){}&#!.-_~é☃😀\u202e"), min_size=1, max_size=8)


@settings(
    max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES, password=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=8, max_size=60))
def test_hostile_names_and_passwords_are_set_exactly_or_refused(controller, bench, registry, name, password):
    login = f"h{secrets.token_hex(2)}{name}z"
    controller.add_account(PASSWORD, login=login, userPrincipalName=f"{secrets.token_hex(6)}@ad.lab.test")
    target, secret = directory(controller, closed_port()), SecretValue(password)
    live = secret
    try:
        rotate(registry, target, controller.administrator, account_of(login), Candidate(password=secret))
    except NotApplied:
        live = SecretValue(PASSWORD)
    with bench.look() as session:
        by_dn = Credential(login=login, password=live, distinguished_name=bench.dn(login))
        assert session.probe(account_of(login), by_dn).state is VerdictState.ACCEPTED
