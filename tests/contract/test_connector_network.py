"""What is a network device's own: what runs and what was saved, privilege levels, locks, quiet mode, dialogues. Emulated."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Target, VerdictState
from connectors.linux.connector import LinuxConnector
from connectors.network.connector import NetworkConnector
from connectors.network.dialogue import Dialogue
from connectors.network.ios_xe import _PROMPT, ENABLE
from connectors.network.secrets import type9
from deploy.lab import emulated
from deploy.lab.emulated import EmulatedServer
from pam_jobs.errors import (
    AmbiguousReply,
    Effect,
    EffectUnknown,
    Forbidden,
    NotApplied,
    PolicyRefused,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.network import IosXeBench
from tests.support.lab import target_folder

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(ios_xe_device: EmulatedServer) -> Iterator[IosXeBench]:
    made = IosXeBench(ios_xe_device)
    yield made
    for switch in ("deny", "held", "full", "keyboard"):
        made.run(f"lab set {switch}")
    made.connector.close_idle()


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def state(bench: IosXeBench, credential: Credential) -> VerdictState:
    with bench.look() as session:
        return session.probe(account_of(credential.login), credential).state


def change(bench: IosXeBench, account: Account, password: SecretValue | None = None) -> Credential:
    candidate = Candidate(password=password or new_password())
    with bench.open(bench.admin) as session:
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
    return candidate.credential(account)


def test_a_secret_of_type_9_is_ciscos_own():
    """Hashcat's published example of its mode 9300."""
    told = "$9$2MJBozw/9R3UsU$2lFhcKvpghcyw8deP25GOfyZaagyUOGBymkryvOdfo6"
    assert type9(SecretValue("hashcat"), "2MJBozw/9R3UsU") == told


def test_the_new_secret_outlives_a_reload_and_the_rest_of_the_line_stays(bench):
    account, old = bench.new_account()
    bench.run(f"lab user {account.login} 7 {old.password.reveal().encode().hex()}")
    with bench.open(bench.admin) as session:
        assert "not saved yet" in session.preflight(account).server
    new = change(bench, account)
    bench.run("lab reload")
    assert state(bench, new) is VerdictState.ACCEPTED
    assert state(bench, old) is VerdictState.REFUSED
    assert f"username {account.login} privilege 7 secret 9 " in bench.fingerprint(account)
    with bench.open(bench.admin) as session:
        assert "is saved" in session.preflight(account).server


def test_a_device_that_cannot_save_gets_the_old_secret_back(bench):
    account, old = bench.new_account()
    before = bench.fingerprint(account)
    bench.run("lab set full on")
    with bench.open(bench.admin) as session, pytest.raises(NotApplied, match="reload"):
        session.change(account, Candidate(password=new_password()), lambda: None)
    assert bench.fingerprint(account) == before
    bench.run("lab set deny write|startup")
    with bench.open(bench.admin) as session, pytest.raises(Forbidden):
        session.preflight(account)
    assert state(bench, old) is VerdictState.ACCEPTED


def test_a_configuration_that_somebody_holds_or_forbids_is_refused_before_the_fence(bench):
    account, _ = bench.new_account()
    before = bench.fingerprint(account)
    for switch, kind in (("held on", NotApplied), ("deny configure", Forbidden)):
        bench.run(f"lab set {switch}")
        with bench.open(bench.admin) as session, pytest.raises(kind):
            session.change(account, Candidate(password=new_password()), pytest.fail)
        bench.run(f"lab set {switch.split()[0]}")
    bench.run("lab set deny ^username")
    with bench.open(bench.admin) as session, pytest.raises(Forbidden, match="authorization"):
        session.change(account, Candidate(password=new_password()), lambda: None)
    bench.run("lab set deny")
    assert bench.fingerprint(account) == before


def test_a_user_with_a_password_in_place_of_a_secret_and_one_of_a_directory_are_refused(bench):
    with bench.open(bench.admin) as session:
        terminal = session._link
        for line in ("configure terminal", "username plain privilege 1 password 0 First1", "end"):
            terminal.ask(line, _PROMPT)
        with pytest.raises(Unsupported, match="in place of a secret"):
            session.preflight(account_of("plain"))
        with pytest.raises(Unsupported, match="no local user"):
            session.preflight(account_of("of-tacacs"))


def test_the_enable_secret_is_rotated_and_tried_after_an_admins_login(bench):
    account = account_of("enable")
    new = change(bench, account)
    old = Credential(login="enable", password=bench.admin.password)
    with bench.open(bench.admin) as session:
        assert session.probe(account, new).state is VerdictState.ACCEPTED
        assert session.preflight(account).may_change
        assert session.probe(account, old).state is VerdictState.REFUSED
    assert state(bench, new) is VerdictState.UNKNOWN
    change(bench, account, bench.admin.password)


def test_a_rotator_below_level_15_enables_itself_with_its_own_password(bench):
    login = f"low{secrets.token_hex(3)}"
    bench.set_by_hand(login, bench.server.admin_password)  # which is the enable secret too
    account, _ = bench.new_account()
    rotator = Credential(login=login, password=bench.admin.password)
    with bench.connector.open(bench.target, rotator, Deadline(20)) as session:
        assert session.preflight(account).may_change


def test_command_line_that_the_device_ended_is_opened_again(bench):
    def hang_up(terminal):
        bench.run("lab exec-timeout")
        end = time.monotonic() + 10
        while terminal.is_idle():
            assert time.monotonic() < end, "the device did not end the session"
            time.sleep(0.01)

    account, _ = bench.new_account()
    new = Candidate(password=new_password())
    with bench.open(bench.admin) as session:
        assert session.preflight(account).may_change
        hang_up(session._link)  # while the new value was made durable
        assert session.change(account, new, lambda: None) is Effect.APPLIED
        hang_up(session._link)
        enabled = Account(login=ENABLE, record_uid="x")
        assert session.probe(enabled, Credential(login=ENABLE, password=new.password)).state is VerdictState.REFUSED
    assert state(bench, new.credential(account)) is VerdictState.ACCEPTED
    with bench.open(bench.admin) as session:
        terminal = session._link
    assert len(bench.connector.kept) == 1
    hang_up(terminal)
    with bench.open(bench.admin) as session:
        assert session.preflight(account).may_change


def test_keyboard_interactive_logins_and_pages_are_answered(bench):
    account, old = bench.new_account()
    bench.run(f"lab set keyboard {account.login}")
    new = change(bench, account)
    assert state(bench, new) is VerdictState.ACCEPTED
    assert state(bench, old) is VerdictState.REFUSED
    with bench.open(bench.admin) as session:
        session._link.ask("terminal length 5", _PROMPT)
        text = session._show("show running-config | include interface")
        assert text.count("interface Gigabit") == 40
        session._spoil()


def test_quiet_mode_is_unknown_and_not_refused(bench):
    account, current = bench.new_account()
    bench.run("lab quiet 0.5")
    assert state(bench, current) is VerdictState.UNKNOWN
    time.sleep(0.6)  # the next test wants to log in
    assert bench.fingerprint(account)


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(login=printable.filter(lambda text: not set(text) & set('?"')), password=printable)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_logins_and_passwords_are_set_exactly(bench, login, password):
    login = f"-{login}{secrets.token_hex(2)}"
    bench.set_by_hand(login, "First-1")
    new = change(bench, account_of(login), SecretValue(password))
    assert state(bench, new) is VerdictState.ACCEPTED
    assert state(bench, replace(new, password=SecretValue("First-1"))) is VerdictState.REFUSED


@pytest.mark.parametrize(
    "login", ["", "two words", "new\nline", "tab\t", "help?", 'quote"', "nul\0", "ümlaut", "x" * 65]
)
def test_what_could_be_more_than_one_word_of_a_command_is_refused(bench, login):
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported):
            session.preflight(account_of(login))
        with pytest.raises(Unsupported):
            session.change(account_of(login), Candidate(password=new_password()), pytest.fail)


def test_discovery_and_recognition(bench):
    with bench.open(bench.admin) as session:
        found = {each.name: each.facts for each in session.discover() if isinstance(each, Finding)}
    assert found["netadmin"] == {"privilege": 15, "secret_type": "9"}
    service = bench.connector.recognise(bench.server.host, bench.server.port, Deadline(5))
    assert (service.protocol, service.facts["os"]) == ("ssh", "cisco ios xe")
    assert LinuxConnector().recognise(bench.server.host, bench.server.port, Deadline(5)) is None


EXAMPLE = {
    "prompt": r"switch>", "refusals": "(?i)error", "check": ["show user {login}"],
    "change": [{"send": "password user {login}", "expect": "New password:"},
               {"send": "{password}", "expect": "Repeat password:"}, "{password}"],
    "save": ["save"],
}  # fmt: skip


@pytest.fixture(scope="module")
def switch() -> Iterator[EmulatedServer]:
    with target_folder() as folder:
        server = emulated.start(folder, "prompting", login="netadmin")
        yield server
        server.stop()


def session_on(switch: EmulatedServer, *, look: bool = False, **parts: object):
    options = {"dialogue": json.dumps({**EXAMPLE, **parts}), "operatingSystem": "network"}
    target = Target(host=switch.host, port=switch.port, protocol="ssh", options=options)
    admin = Credential(login="netadmin", password=SecretValue(switch.admin_password))
    return NetworkConnector().open(target, None if look else admin, Deadline(10))


def test_a_device_is_driven_by_its_records_dialogue(switch):
    account, new = account_of("operator"), Candidate(password=SecretValue("With {old} {login} 'quotes' 9"))
    with session_on(switch) as session:
        assert session.preflight(account).account_exists
        assert session.change(account, new, lambda: None) is Effect.APPLIED
        session._link.ask("restart", session._dialogue.prompt)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    with session_on(switch, look=True) as session:
        old = Credential(login="operator", password=SecretValue("First-1-Secret"))
        assert session.probe(account, old).state is VerdictState.REFUSED
        with pytest.raises(Unsupported):
            session.preflight(account)


def test_a_refusal_is_told_apart_by_where_it_comes(switch):
    account = account_of("operator")
    with session_on(switch) as session, pytest.raises(Unsupported, match="no such user"):
        session.preflight(account_of("nobody"))
    with session_on(switch) as session, pytest.raises(PolicyRefused) as caught:
        session.change(account, Candidate(password=SecretValue("short")), lambda: None)
    assert "short\n" not in caught.value.sentence()
    with session_on(switch, save=["keep"]) as session, pytest.raises(AmbiguousReply, match="not saved"):
        session.change(account, Candidate(password=SecretValue("Long enough 7")), lambda: None)
    with pytest.raises(Forbidden):
        session_on(switch, begin=["page off"])
    for wrong in ("two\nlines", "tab\t", "nul\0", ""):
        with session_on(switch) as session, pytest.raises(PolicyRefused):
            session.change(account, Candidate(password=SecretValue(wrong)), pytest.fail)
    steps = [{"send": "password user {login}", "expect": "never said"}, "{password}"]
    with session_on(switch, change=steps) as session:
        session._deadline = Deadline(1)
        session._link.use(Deadline(1))
        with pytest.raises(EffectUnknown):
            session.change(account, Candidate(password=new_password()), lambda: None)


@pytest.mark.parametrize(
    "parts",
    [
        {"change": ["passwd {login}"]}, {"save": ["save {password}"]}, {"change": ["{password} {secret}"]},
        {"change": [{"send": 5}]}, {"change": "x"}, {"change": ["{password}\n"]}, {"prompt": "("}, {"prompt": ""},
        {"refusals": None}, {"more": []}, {"change": [{"send": "{password}", "wait": "x"}]}, {"check": ["x"] * 41},
    ],
)  # fmt: skip
def test_a_dialogue_that_cannot_be_used_is_refused_before_the_device_is_touched(parts):
    with pytest.raises(Unsupported, match="Dialogue"):
        Dialogue.parse(json.dumps({**EXAMPLE, **parts}))
    with pytest.raises(Unsupported, match="JSON"):
        Dialogue.parse("{")
