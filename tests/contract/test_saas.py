"""What every SaaS plugin promises to the rotation engine, against emulated services."""

from __future__ import annotations

import secrets
import socket
import sys
import traceback
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import UNPROVABLE, Account, Candidate, Credential, Verdict, VerdictState
from connectors.saas.catalogue import Catalogue
from connectors.saas.connector import SaasConnector, SaasSession
from connectors.saas.plugin import (
    ReturnCustomField,
    SaasConfig,
    SaasConfigItem,
    SaasException,
    SaasPlugin,
    SaasUser,
)
from connectors.saas.plugins.snowflake import quote_identifier, quote_literal
from deploy.lab.saas import SaasServices
from pam_jobs.errors import (
    AuthRejected,
    ConfigurationError,
    Effect,
    EffectUnknown,
    InvalidInput,
    LeaseLost,
    NotApplied,
    PolicyRefused,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.benches.saas import FIELDS, SaasBench, service_record

pytestmark = pytest.mark.contract

WITH_LOGIN = [name for name in FIELDS if name != "Cisco Meraki"]


@pytest.fixture
def bench(request, saas_services: SaasServices, record_property) -> SaasBench:
    test = "saas: " + request.node.originalname.removeprefix("test_").replace("_", " ")
    record_property("contract", [test, f"saas, {request.param}", "emulated"])
    yield SaasBench(saas_services, request.param)
    saas_services.fault = lambda _method, _path: None
    saas_services.after = lambda _method, _path: False


every_plugin = pytest.mark.parametrize("bench", list(FIELDS), indirect=True)
plugin_with_login = pytest.mark.parametrize("bench", WITH_LOGIN, indirect=True)


def _new(text: str) -> Candidate:
    return Candidate(password=SecretValue(text))


def _no_fence() -> None:
    return


def _answering(services: SaasServices, status: int, methods: tuple[str, ...] = ("POST", "PUT", "GET")) -> None:
    services.fault = lambda method, _path: (status, {}) if method in methods else None


@every_plugin
def test_preflight_changes_nothing(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        assert session.preflight(account).server == bench.plugin
    assert bench.stored(account) == current.password.reveal()


@every_plugin
def test_change_is_fenced_once_and_idempotent(bench):
    account, current = bench.new_account()
    seen: list[str] = []
    with bench.open(current) as session:
        for _ in range(2):
            effect = session.change(account, _new("Second-Secret-2"), lambda: seen.append(bench.stored(account)))
            assert effect is Effect.APPLIED
    assert seen == [current.password.reveal(), "Second-Secret-2"]
    assert bench.stored(account) == "Second-Secret-2"


@plugin_with_login
def test_new_password_logs_in_and_old_one_is_refused(bench):
    account, current = bench.new_account()
    new = _new("Second-Secret-2")
    with bench.open(current) as session:
        session.change(account, new, _no_fence)
    with bench.open(None) as session:
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED


@every_plugin
def test_fence_that_raises_leaves_the_service_alone(bench):
    account, current = bench.new_account()

    def fence() -> None:
        raise LeaseLost("somebody else has it")

    with bench.open(current) as session, pytest.raises(LeaseLost):
        session.change(account, _new("Second-Secret-2"), fence)
    assert bench.stored(account) == current.password.reveal()


@every_plugin
@pytest.mark.parametrize("text", ["", "with\0nul", "with\nline"])
def test_value_that_no_service_holds_is_refused_before_the_fence(bench, text):
    account, current = bench.new_account()
    fences: list[int] = []
    with bench.open(current) as session, pytest.raises(NotApplied):
        session.change(account, _new(text), lambda: fences.append(1))
    assert not fences


@every_plugin
def test_session_without_rotator_only_probes(bench):
    account, _ = bench.new_account()
    with bench.open(None) as session:
        with pytest.raises(Unsupported):
            session.preflight(account)
        with pytest.raises(Unsupported):
            session.change(account, _new("Second-Secret-2"), _no_fence)


@every_plugin
def test_missing_account_is_unsupported(bench):
    account = Account(login="nobody@example.com", record_uid="x")
    _, current = bench.new_account()
    with bench.open(current) as session:
        if bench.plugin != "REST":  # it learns it from the change
            with pytest.raises(Unsupported):
                session.preflight(account)
        with pytest.raises(Unsupported):
            session.change(account, _new("Second-Secret-2"), _no_fence)


@every_plugin
def test_answer_that_is_lost_leaves_the_effect_unknown(bench):
    account, current = bench.new_account()
    bench.services.after = lambda method, path: (
        method in {"POST", "PUT"} and "login" not in path and "authn" not in path
    )
    with bench.open(current) as session, pytest.raises(EffectUnknown):
        session.change(account, _new("Second-Secret-2"), _no_fence)
    assert bench.stored(account) == "Second-Secret-2"


@every_plugin
@pytest.mark.parametrize(("status", "kind"), [(500, EffectUnknown), (429, Unreachable), (401, AuthRejected)])
def test_answer_of_the_change_says_what_became_of_it(bench, status, kind):
    account, current = bench.new_account()
    is_query = bench.plugin == "Snowflake"
    bench.services.fault = lambda method, path: (
        (status, {}) if method in {"POST", "PUT"} and (not is_query or path.startswith("/queries/")) else None
    )
    with bench.open(current) as session, pytest.raises(kind):
        session.change(account, _new("Second-Secret-2"), _no_fence)
    assert bench.stored(account) == current.password.reveal()


@pytest.mark.parametrize("bench", ["Okta", "Snowflake", "REST", "Cisco Meraki", "Elasticsearch User"], indirect=True)
def test_password_that_the_policy_refuses_is_told_as_such(bench):
    account, current = bench.new_account()
    with bench.open(current) as session, pytest.raises(PolicyRefused):
        session.change(account, _new("abc"), _no_fence)
    assert bench.stored(account) == current.password.reveal()


@plugin_with_login
def test_service_that_is_down_or_busy_refuses_nobody(bench):
    account, current = bench.new_account()
    for status in (429, 500, 503):
        _answering(bench.services, status)
        with bench.open(None) as session:
            assert session.probe(account, current).state is VerdictState.UNKNOWN, status
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = {label: text.replace(bench.services.url, f"http://127.0.0.1:{taken.getsockname()[1]}")
                for label, text in FIELDS[bench.plugin](bench.services).items()}  # fmt: skip
        closed = SaasBench(bench.services, bench.plugin, **down)
        with closed.open(None) as session:
            verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "unreachable")


@pytest.mark.parametrize("bench", ["Okta", "Snowflake"], indirect=True)
def test_locked_account_says_nothing_of_the_password(bench):
    account, current = bench.new_account()
    bench.services.users[account.login].state = "LOCKED_OUT"
    with bench.open(None) as session:
        assert session.probe(account, current).state is VerdictState.LOCKED


@pytest.mark.parametrize("bench", ["Cisco Meraki"], indirect=True)
def test_service_without_a_login_says_so(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, UNPROVABLE)


@every_plugin
def test_no_secret_shows_in_errors_logs_or_reprs(bench, caplog):
    caplog.set_level(0)
    account, current = bench.new_account()
    shown: list[str] = []
    canary = f"Canary-{1000 + 1}"  # a traceback shows lines of source
    with bench.open(current) as session:
        shown += [repr(session), repr(vars(session)), repr(bench.target), repr(session.probe(account, current))]
        for status in (400, 401, 403, 404, 500):
            _answering(bench.services, status)
            with pytest.raises((NotApplied, EffectUnknown)) as caught:
                session.change(account, _new(canary), _no_fence)
            shown.append("".join(traceback.format_exception(caught.value)) + caught.value.sentence())
    text = "\n".join([*shown, caplog.text])
    for secret in (bench.services.token, canary, current.password.reveal()):
        assert secret not in text


@every_plugin
def test_missing_or_wrong_fields_are_named_before_anything_is_sent(bench):
    _, current = bench.new_account()
    required = next(iter(FIELDS[bench.plugin](bench.services)))
    sent = len(bench.services.requests)
    if bench.plugin != "Cisco Meraki":
        assert required in _refusal(bench, current, **{required: None})
    url = next(label for label, text in FIELDS[bench.plugin](bench.services).items() if text.startswith("http"))
    assert url in _refusal(bench, current, **{url: "ftp://nowhere"})
    assert "switched off" in _refusal(bench, current, Active="FALSE")
    assert "no SaaS plugin named" in _refusal(bench, current, SaaS_Type="Nothing Known")
    assert len(bench.services.requests) == sent


def _refusal(bench: SaasBench, current: Credential, **changes: str | None) -> str:
    with pytest.raises(Unsupported) as caught:
        SaasBench(bench.services, bench.plugin, **changes).open(current)
    return caught.value.sentence()


@pytest.mark.parametrize("bench", ["Okta"], indirect=True)
def test_address_that_would_send_secrets_in_the_clear_is_refused(bench):
    account, current = bench.new_account()
    with (
        SaasBench(bench.services, "Okta", Okta_URL="http://acme.example.com").open(current) as session,
        pytest.raises(Unsupported, match="in the clear"),
    ):
        session.preflight(account)


HOSTILE = st.text(
    st.one_of(
        st.sampled_from("'\"\\$%;@/?#&=+ \u202e😀"), st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
    ),
    min_size=8,
    max_size=60,
)


@plugin_with_login
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(login=HOSTILE, password=HOSTILE)
def test_hostile_logins_and_passwords_are_set_as_they_are(bench, login, password):
    login = login.replace(":", ".")  # HTTP Basic ends a name there
    if bench.plugin in {"REST", "Elasticsearch User"} and (login in {".", ".."} or "/" in login):
        return  # a path has no such part
    account = Account(login=login, record_uid="x")
    bench.services.users.clear()
    bench.services.add(login, "First-Secret-1")
    current = Credential(login=login, password=SecretValue("First-Secret-1"))
    with bench.open(current) as session:
        assert session.change(account, _new(password), _no_fence) is Effect.APPLIED
        assert bench.stored(account) == password
        assert session.probe(account, _new(password).credential(account)).state is VerdictState.ACCEPTED


def test_snowflake_quotes_so_that_nothing_ends_early():
    assert quote_identifier("app") == '"APP"'
    assert quote_identifier('a"; DROP USER x; --') == '"a""; DROP USER x; --"'
    assert quote_literal("a'b\\") == "'a''b\\\\'"
    for bad in ("", "a\nb", "x" * 256):
        with pytest.raises(InvalidInput):
            quote_identifier(bad)


# plugins of one's own

OWN = """
from connectors.saas.plugin import ReturnCustomField, SaasConfigItem, SaasPlugin
class SaasPlugin(SaasPlugin):
    name = "House"
    @classmethod
    def requirements(cls):
        return ["{requirement}"]
    @classmethod
    def config_schema(cls):
        return [SaasConfigItem(id="door", label="Door", required=True)]
    def change_password(self):
        self.add_return_field(ReturnCustomField(label="Changed At", value=self.get_config("door")))
"""


def _folder(tmp_path: Path, requirement: str = "cryptography", mode: int = 0o600) -> Path:
    (tmp_path / "house.py").write_text(OWN.format(requirement=requirement))
    (tmp_path / "house.py").chmod(mode)
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')")
    tmp_path.chmod(0o700)
    return tmp_path


def _record(**fields: str) -> Record:
    custom = [{"type": "text", "label": label, "value": [text]} for label, text in fields.items()]
    return Record.parse({"type": "saasConfiguration", "title": "House", "fields": [], "custom": custom})


def test_plugin_of_ones_own_is_found_and_returns_fields(tmp_path):
    catalogue = Catalogue(_folder(tmp_path))
    assert "House" in catalogue.names()
    connector = SaasConnector(catalogue, _record(**{"SaaS Type": "house", "Door": "front"}))
    bench_target = service_target()
    account = Account(login="ann", record_uid="x")
    with connector.open(bench_target, Credential(login="ann", password=SecretValue("old")), deadline()) as session:
        assert session.change(account, _new("new-secret-1"), _no_fence) is Effect.APPLIED
        assert session.returned_fields() == {"Changed At": "front"}


def test_plugin_that_others_could_change_is_not_run(tmp_path):
    with pytest.raises(ConfigurationError, match="others could change"):
        Catalogue(_folder(tmp_path, mode=0o666)).names()
    told = Catalogue(tmp_path).to_json()
    assert {each["name"] for each in told} == set(FIELDS)


def test_plugin_whose_packages_are_missing_is_refused_without_the_switch(tmp_path):
    with pytest.raises(Unsupported, match="no-such-package-at-all"):
        Catalogue(_folder(tmp_path, "no-such-package-at-all>=1")).get("House")
    assert not (tmp_path / ".packages").exists()


def test_missing_package_is_installed_once_where_the_switch_allows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"pamhouse{secrets.token_hex(4)}"
    wheel = tmp_path / f"{name}-1.0-py3-none-any.whl"
    told = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "DOOR = 'front'\n")
        archive.writestr(f"{told}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{told}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{told}/RECORD", "")
    folder = _folder(tmp_path, f"{name} @ {wheel.as_uri()}")
    with pytest.raises(Unsupported, match=f"needs {name}"):
        Catalogue(folder).get("House")
    assert Catalogue(folder, may_install=True).get("House").name == "House"
    assert (folder / ".packages").stat().st_mode & 0o777 == 0o700
    wheel.unlink()  # a gateway that starts anew finds it there
    assert Catalogue(folder, may_install=True).get("House").name == "House"


def test_record_cannot_name_another_folder_of_plugins(tmp_path):
    record = _record(**{"SaaS Type": "Okta"})
    provider = _record(**{"SaaS Plugins Dir": "/tmp"})
    connector = SaasConnector(Catalogue(_folder(tmp_path)), record, provider)
    with pytest.raises(Unsupported, match="another folder"):
        connector.open(service_target(), None, deadline())


class _Custom(SaasPlugin):
    name = "Custom"
    rolled_back = 0

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        return []

    def change_password(self) -> None:
        secret = self.user.new_password.reveal()
        if secret.startswith("hang"):
            import time

            time.sleep(30)
        raise RuntimeError(f"could not set {secret}")

    @property
    def can_rollback(self) -> bool:
        return True

    def rollback_password(self) -> None:
        type(self).rolled_back += 1


def _custom_session(seconds: float = 5) -> SaasSession:
    prior = Credential(login="ann", password=SecretValue("old"))
    return SaasSession(_Custom, SaasConfig(values={}), prior, deadline(seconds))


def test_plugin_that_breaks_shows_no_secret_and_is_asked_to_clear_up():
    before = _Custom.rolled_back
    with pytest.raises(SaasException) as caught:
        _custom_session().change(Account(login="ann", record_uid="x"), _new("Canary-Secret-3"), _no_fence)
    assert "Canary-Secret-3" not in caught.value.sentence()
    assert caught.value.effect is Effect.UNKNOWN
    assert _Custom.rolled_back == before + 1


def test_plugin_that_is_not_to_clear_up_is_not_asked():
    before = _Custom.rolled_back
    prior = Credential(login="ann", password=SecretValue("old"))
    session = SaasSession(_Custom, SaasConfig(values={}), prior, deadline(), clears_up=False)
    with pytest.raises(SaasException):
        session.change(Account(login="ann", record_uid="x"), _new("Second-Secret-2"), _no_fence)
    assert _Custom.rolled_back == before


def test_plugin_that_never_ends_does_not_hold_the_job():
    with pytest.raises(TimedOutAfterSend):
        _custom_session(0.3).change(Account(login="ann", record_uid="x"), _new("hang-for-ever"), _no_fence)


def test_plugin_sees_the_providers_credentials_only_where_they_are_allowed(saas_services):
    record = service_record(saas_services, "REST")
    for line, is_allowed in (("rest", True), ("Okta", False)):
        provider = Record.parse(
            {"type": "pamNetworkConfiguration", "title": "x", "fields": [],
             "custom": [{"type": "multiline", "label": "Allow SaaS Access", "value": [line]}]}
        )  # fmt: skip
        connector = SaasConnector(Catalogue(), record, provider)
        session = connector.open(service_target(), None, deadline())
        assert (session._config.provider is not None) is is_allowed


def test_plugin_interface_has_the_vendors_members():
    user = SaasUser(username="ann", new_password=SecretValue("x"))
    plugin = _Custom(user, SaasConfig(values={"door": "front"}), deadline())
    plugin.add_return_field(ReturnCustomField(label="a", value="b"))
    assert plugin.get_config("door") == "front"
    assert plugin.get_config("window", "none") == "none"
    assert isinstance(plugin.verify_password(SecretValue("x")), Verdict)


def service_target():
    from connectors.saas.connector import target_of_service

    return target_of_service(_record(**{"SaaS Type": "House"}), "abc")


def deadline(seconds: float = 5):
    from connectors.base import Deadline

    return Deadline(seconds)
