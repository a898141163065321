"""WinRM by Kerberos: a real domain controller gives the tickets, MIT's library takes them; the machine behind it is emulated."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Deadline, VerdictState
from connectors.windows.connector import WinrmConnector
from deploy.lab.windows import Acceptor
from deploy.lab.windows.kerberos import Context, write_keytab
from pam_jobs.errors import AuthRejected, Effect, Forbidden, HostKeyMismatch, Locked, Unreachable, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.joined import JoinedMachine

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

PASSWORD = "First-Secret-1"


@pytest.fixture
def joined(joined_machine: JoinedMachine) -> JoinedMachine:
    return joined_machine


@pytest.fixture
def admin(joined):
    return joined.administrator


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("schemes", [("Negotiate", "Kerberos"), ("Kerberos",)])
def test_a_domains_administrator_rotates_a_local_account(joined, admin, secure, schemes):
    login, new = f"loc{secrets.token_hex(4)}", f"New-{secrets.token_hex(8)}-é😀"
    joined.machine.add_user(login, PASSWORD)
    for listener in joined.server.listeners[:2]:
        listener.schemes = list(schemes)
    connector = WinrmConnector()
    joined.logins()
    target = joined.target(secure=secure, **({} if secure else {"Kerberos": "True"}))
    with connector.open(target, admin, Deadline(30)) as session:
        assert session.preflight(account_of(login)).account_exists
        assert session.change(account_of(login), Candidate(password=SecretValue(new)), lambda: None) is Effect.APPLIED
        credential = replace(admin, login=login, password=SecretValue(new))
        assert session.probe(account_of(login), credential).state is VerdictState.ACCEPTED
        path = session.upload("", "big.ps1", b"#" * 200_000)
        session.remove(path)
    connector.close_idle()
    assert joined.machine.users[login].password == new
    assert {how for how, _ in joined.logins()} == {"kerberos"}
    for listener in joined.server.listeners[:2]:
        listener.schemes = ["Negotiate", "Kerberos"]
    assert not joined.server.listeners[0].requests, "nothing came in the clear"


def test_a_login_is_made_once_and_its_connection_kept(joined, admin):
    connector = WinrmConnector()
    joined.logins()
    for _ in range(2):
        with connector.open(joined.target(), admin, Deadline(30)) as session:
            assert session.preflight(account_of(admin.login.partition("@")[0])).server.endswith(", Kerberos)")
    connector.close_idle()
    assert len(joined.logins()) == 1


def test_what_the_domain_says_of_an_account_is_told_and_ntlm_does_not_try_it_again(joined):
    wrong = joined.credential(joined.add_account(PASSWORD), "Wrong-1")
    disabled = joined.credential(joined.add_account(PASSWORD, userAccountControl=str(0x202)), PASSWORD)
    open_to_all = joined.credential(joined.add_account(PASSWORD, userAccountControl=str(0x400200)), "Wrong-1")
    stale = joined.credential(joined.add_account(PASSWORD, pwdLastSet="0"), PASSWORD)
    joined.logins()
    for credential, error, state, cause in (
        (wrong, AuthRejected, VerdictState.REFUSED, "wrong_password"),
        (open_to_all, AuthRejected, VerdictState.REFUSED, "wrong_password"),  # it need not prove itself first
        (disabled, Locked, VerdictState.LOCKED, "account_restriction"),
        (stale, Locked, VerdictState.LOCKED, "expired"),
    ):
        with pytest.raises(error) as caught:
            WinrmConnector().open(joined.target(), credential, Deadline(20))
        assert caught.value.remedy
        assert PASSWORD not in str(caught.value)
        with WinrmConnector().open(joined.target(), None, Deadline(20)) as session:
            verdict = session.probe(account_of(credential.login), credential)
        assert (verdict.state, verdict.cause) == (state, cause), verdict
    assert not joined.logins()
    right = replace(open_to_all, password=SecretValue(PASSWORD))
    with WinrmConnector().open(joined.target(), None, Deadline(20)) as session:
        assert session.probe(account_of(right.login), right).cause == "no_connect_right", (
            "it logs in, and gets no shell"
        )


def test_a_connection_that_ends_is_logged_in_again_where_no_message_was_sealed_for_it(joined, admin):
    account = account_of(admin.login.partition("@")[0])
    for secure in (True, False):
        connector = WinrmConnector()
        joined.logins()
        with connector.open(joined.target(secure=secure), admin, Deadline(20)) as session:
            session._link._winrm.transport.session.get_adapter("https://" if secure else "http://").close()
            if secure:
                assert session.preflight(account).account_exists
                assert len(joined.logins()) == 2
            else:
                with pytest.raises(Unreachable):
                    session.preflight(account)
        connector.close_idle()


def test_ntlm_follows_where_kerberos_cannot_be_and_its_refusal_then_proves_nothing(joined):
    login = joined.add_account(PASSWORD, admin=True)
    connector, credential = WinrmConnector(), joined.credential(login, PASSWORD)
    credential = replace(credential, login=f"{login}@{joined.domain.netbios}.test")  # as the emulated machine knows it
    away = joined.target(kerberos_kdc="127.0.0.1:1")
    for target in (away, joined.target(kerberos_host="unknown.ad.lab.test", kerberos_realm=joined.realm)):
        joined.logins()
        with connector.open(target, credential, Deadline(20)) as session:
            assert not session.preflight(account_of(login)).server.endswith("Kerberos)")
        assert [how for how, _ in joined.logins()] == ["ntlm"]
    connector.close_idle()
    with connector.open(away, None, Deadline(20)) as session:
        verdict = session.probe(account_of(login), replace(credential, password=SecretValue("Wrong-1")))
    assert verdict.state is VerdictState.UNKNOWN
    for options, error in (
        ({"kerberos_kdc": "127.0.0.1:1"}, Unreachable),
        ({"kerberos_host": "no.ad.lab.test"}, Unsupported),
    ):
        joined.logins()
        with pytest.raises(error):
            connector.open(joined.target(Kerberos="True", **options), joined.credential(login, PASSWORD), Deadline(20))
        assert not joined.logins()
    unknown = joined.credential("nobody", PASSWORD)
    with connector.open(joined.target(Kerberos="True"), None, Deadline(20)) as session:
        assert session.probe(account_of("nobody"), unknown).cause == "not_found"


def test_a_service_with_keys_of_rc4_alone_gets_no_ticket(joined):
    name = f"old{secrets.token_hex(4)}"
    values = {"servicePrincipalName": [f"HTTP/{name}.ad.lab.test"], "msDS-SupportedEncryptionTypes": "4"}
    joined.bench.make_account(name, joined.credential(name, PASSWORD), **values)
    login = joined.add_account(PASSWORD)
    with pytest.raises(Unsupported, match="AES"):
        WinrmConnector().open(
            joined.target(Kerberos="True", kerberos_host=f"{name}.ad.lab.test"),
            joined.credential(login, PASSWORD), Deadline(20),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Impostor(Acceptor):
    """Somebody between us and the machine who passes tokens on, or answers what comes to mind."""

    proof: bytes | None  # None: the service's key is another one

    def begin(self, bindings: bytes | None = None) -> Context:
        context = super().begin(bindings)
        if self.proof is not None:
            honest = context.accept
            context.accept = lambda token: honest(token) and (self.proof or b"")  # type: ignore[method-assign]
        return context


@pytest.mark.parametrize("secure", [False, True])
def test_a_machine_that_does_not_prove_itself_gets_nothing(joined, admin, secure, tmp_path):
    listener = joined.server.listeners[secure]
    honest = listener.service
    target = joined.target(secure=secure)
    begin = b"\x60\x0f\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"
    seen = len(listener.requests)
    try:
        for proof in (b"", b"nonsense", begin + b"\x02\x00\x30\x00", begin + b"\x01\x00\x30\x00"):
            listener.service = _Impostor(realm=honest.realm, keytab=honest.keytab, replays=honest.replays, proof=proof)
            with pytest.raises(HostKeyMismatch, match="prove"):
                WinrmConnector().open(target, admin, Deadline(20))
        write_keytab(tmp_path / "k", f"HTTP/{joined.host}", joined.realm, SecretValue("other"), "salt")
        listener.service = replace(honest, keytab=tmp_path / "k")
        with pytest.raises(Forbidden, match="ticket"):
            WinrmConnector().open(target, admin, Deadline(20))
        with WinrmConnector().open(target, None, Deadline(20)) as session:
            verdict = session.probe(account_of(admin.login), admin)
        assert (verdict.state, verdict.cause) == (VerdictState.ACCEPTED, "no_connect_right"), "the domain looked at it"
    finally:
        listener.service = honest
    assert len(listener.requests) == seen, "no message was sent to it"


def test_an_answer_in_the_clear_is_nobodys(joined, admin):
    connector = WinrmConnector()
    login = f"loc{secrets.token_hex(4)}"
    joined.machine.add_user(login, PASSWORD)
    with connector.open(joined.target(), admin, Deadline(20)) as session:
        joined.server.listeners[0].seals = False
        try:
            with pytest.raises(HostKeyMismatch):
                session.preflight(account_of(login))
        finally:
            joined.server.listeners[0].seals = True
    connector.close_idle()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(alphabet="aZ09 .-_'`$%&(){}#é漢", min_size=1, max_size=8),
    password=st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=60),
)
def test_whatever_a_domain_allows_logs_in_by_kerberos(joined, name, password):
    name, password = f"-{name}{secrets.token_hex(3)}", f"{password}\u202e'\"`$(id);%TEMP%😀"
    joined.bench.make_account(name, joined.credential(name, password))
    joined.machine.add_user(name, "x", admin=True)
    connector = WinrmConnector()
    joined.logins()
    with connector.open(joined.target(Kerberos="True"), joined.credential(name, password), Deadline(20)) as session:
        assert session.preflight(account_of(name)).account_exists
    assert joined.logins() == [("kerberos", f"{name}@{joined.realm}")]
    connector.close_idle()
