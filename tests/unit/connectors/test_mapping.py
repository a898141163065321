"""Every exception of the drivers has a meaning of ours, and new ones do not slip in."""

from __future__ import annotations

import inspect
import socket

import paramiko
import psycopg
import pymysql.err
import pytest
from ldap3.core import exceptions as ldap_exceptions
from ldap3.core.results import RESULT_CODES
from paramiko import ssh_exception

import connectors.ldap.errors as openldap_errors
import connectors.mysql.errors as mysql_errors
import connectors.postgresql.errors as postgresql_errors
import connectors.sqlserver.errors as sqlserver_errors
import connectors.ssh.errors as ssh_errors
from connectors.base import VerdictState
from connectors.ldap.errors import LdapRefusal, PolicyAnswer, PolicyError
from connectors.postgresql.errors import ServerRefusal, read_login_failure
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    ConnectionLost,
    EffectUnknown,
    Forbidden,
    Locked,
    NotApplied,
    PolicyRefused,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)

pytestmark = pytest.mark.unit


def _psycopg_classes():
    return [kind for kind in vars(psycopg.errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]


def test_every_sqlstate_of_psycopg_is_mapped():
    codes = {kind.sqlstate for kind in _psycopg_classes() if getattr(kind, "sqlstate", None)}
    assert len(codes) > 200
    unmapped = {code for code in codes if code[:2] not in postgresql_errors.BY_CLASS}
    assert not unmapped, "psycopg knows classes of SQLSTATE that connectors/postgresql/errors.py does not"


def test_every_plain_exception_of_psycopg_is_mapped():
    plain = {
        kind
        for kind in _psycopg_classes()
        if not getattr(kind, "sqlstate", None) and not kind.__name__.startswith("_") and issubclass(kind, psycopg.Error)
    }
    assert plain <= set(postgresql_errors.BY_DRIVER_TYPE)


def test_every_exception_of_paramiko_is_mapped():
    named = {
        kind
        for module in (ssh_exception, paramiko)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__.startswith("paramiko")
    }
    named -= {paramiko.SFTPError} if hasattr(paramiko, "SFTPError") else set()
    found = {kind for kind in named if kind.__name__ not in {"AuthFailure", "UnknownKeyType"}}
    assert found <= set(ssh_errors.BY_DRIVER_TYPE), found - set(ssh_errors.BY_DRIVER_TYPE)


def _made(kind: type[BaseException]) -> BaseException:
    error = kind.__new__(kind)
    Exception.__init__(error, "x")
    return error


@pytest.mark.parametrize("kind", list(ssh_errors.BY_DRIVER_TYPE))
def test_ssh_failures_prove_nothing_once_the_change_was_sent(kind):
    error = _made(kind)
    assert isinstance(ssh_errors.map_error(error, sent=False), ssh_errors.BY_DRIVER_TYPE[kind][0])
    assert isinstance(ssh_errors.map_error(error, sent=True), EffectUnknown)


@pytest.mark.parametrize("kind", list(ssh_errors.BY_DRIVER_TYPE))
def test_only_a_plain_refusal_of_ssh_refuses_a_credential(kind):
    expected = VerdictState.REFUSED if kind is ssh_errors.LoginRefused else VerdictState.UNKNOWN
    assert ssh_errors.verdict_of(_made(kind)).state is expected


@pytest.mark.parametrize("kind", list(postgresql_errors.BY_DRIVER_TYPE))
def test_psycopg_failures_prove_nothing_once_the_change_was_sent(kind):
    error = _made(kind)
    assert isinstance(postgresql_errors.map_error(error, sent=False), NotApplied)
    assert isinstance(postgresql_errors.map_error(error, sent=True), EffectUnknown)
    assert postgresql_errors.verdict_of(error).state is VerdictState.UNKNOWN


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("42501", Forbidden), ("22023", PolicyRefused), ("42704", Unsupported), ("25006", Unsupported),
        ("28P01", AuthRejected), ("53300", Unreachable), ("57P03", Unreachable), ("55P03", NotApplied),
        ("0A000", Unsupported), ("P0001", PolicyRefused), ("ZZ999", NotApplied),
    ],
)  # fmt: skip
def test_an_error_of_the_server_means_nothing_was_changed(code, kind):
    assert type(postgresql_errors.map_error(ServerRefusal(sqlstate=code, text="x"), sent=True)) is kind


def test_rules_that_want_to_see_a_password_refuse_a_verifier_by_name():
    refusal = ServerRefusal(sqlstate="0A000", text="password type is not a plain text")
    assert "want to see" in postgresql_errors.map_error(refusal, sent=True).message


@pytest.mark.parametrize(
    ("text", "state", "cause"),
    [
        ("SASL authentication failed", VerdictState.REFUSED, "wrong_password"),
        ('password authentication failed for user "x"', VerdictState.REFUSED, "wrong_password"),
        ('password authentication failed for user "of_the_pool"', VerdictState.UNKNOWN, "stale_pooler"),
        ("server login failed: FATAL password authentication failed", VerdictState.UNKNOWN, "refused_login"),
        ("no such database: x", VerdictState.UNKNOWN, "no_database"),
        ("no more connections allowed (max_client_conn)", VerdictState.UNKNOWN, "too_many_connections"),
        ("no such user", VerdictState.UNKNOWN, "refused_login"),
    ],
)
def test_failed_logins_of_a_pooler_are_told_apart_by_its_words(text, state, cause):
    failure = read_login_failure(f"{PREFIX}FATAL:  08P01: {text}\n", used_password=True)
    verdict = postgresql_errors.verdict_of(failure, "x")
    assert (verdict.state, verdict.cause) == (state, cause)


@pytest.mark.parametrize("code", ["57P01", "57P02", "XX000", None])
def test_a_fatal_end_after_the_change_was_sent_proves_nothing(code):
    error = postgresql_errors.map_error(ServerRefusal(sqlstate=code, severity="FATAL", text="x"), sent=True)
    assert isinstance(error, ConnectionLost)


def test_silence_after_the_change_was_sent_is_a_time_out():
    assert isinstance(postgresql_errors.map_error(TimeoutError(), sent=True), TimedOutAfterSend)
    assert isinstance(ssh_errors.map_error(TimeoutError(), sent=True), TimedOutAfterSend)
    assert isinstance(ssh_errors.map_error(socket.gaierror(), sent=False), Unreachable)


PREFIX = 'connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "used", "state", "cause"),
    [
        (PREFIX + "FATAL:  28P01: Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen\nLOCATION:  auth_failed, auth.c:334\n",
         True, VerdictState.REFUSED, "wrong_password"),
        (PREFIX + 'FATAL:  28P01: password authentication failed for user "x"\n'
         + PREFIX + "FATAL:  53300: sorry\n", True, VerdictState.UNKNOWN, "too_many_connections"),
        (PREFIX + "ВАЖНО:  57P03: система баз данных запускается\n", False, VerdictState.UNKNOWN, "starting_up"),
        (PREFIX + 'FATAL:  28000: role "x" is not permitted to log in\nLOCATION:  InitializeSessionUserId, miscinit.c:786\n',
         True, VerdictState.LOCKED, "no_login"),
        (PREFIX + "FATAL:  28000: no pg_hba.conf entry\nLOCATION:  ClientAuthentication, auth.c:1\n",
         False, VerdictState.UNKNOWN, "not_allowed_from_here"),
        (PREFIX + "FATAL:  28000: LDAP authentication failed\nLOCATION:  auth_failed, auth.c:334\n",
         True, VerdictState.UNKNOWN, "external_authentication"),
        (PREFIX + 'FATAL:  3D000: database "x" does not exist\n', True, VerdictState.UNKNOWN, "no_database"),
        (PREFIX + 'FATAL:  password authentication failed for user "x"\n', True, VerdictState.REFUSED, "wrong_password"),
        (PREFIX + "FATAL:  the database system is starting up\n", False, VerdictState.UNKNOWN, "starting_up"),
        (PREFIX + "Connection refused\n\tIs the server running?\n", False, VerdictState.UNKNOWN, "unreachable"),
        (PREFIX + "server closed the connection unexpectedly\n", True, VerdictState.UNKNOWN, "cut_during_login"),
        ("", False, VerdictState.UNKNOWN, "unreachable"),
    ],
)  # fmt: skip
def test_failed_logins_are_told_apart_in_every_language(message, used, state, cause):
    verdict = postgresql_errors.verdict_of(read_login_failure(message, used_password=used))
    assert (verdict.state, verdict.cause) == (state, cause)


def test_every_result_of_a_directory_is_mapped():
    assert set(RESULT_CODES) - {0} == set(openldap_errors.BY_CODE)
    assert set(PolicyError) == set(openldap_errors.BY_POLICY)


def test_every_exception_of_ldap3_is_mapped():
    general = {ldap_exceptions.LDAPException, ldap_exceptions.LDAPExceptionError}
    kinds = {
        kind
        for kind in vars(ldap_exceptions).values()
        if inspect.isclass(kind) and issubclass(kind, ldap_exceptions.LDAPException)
    }
    assert len(kinds) > 90
    named = set(openldap_errors.BY_DRIVER_TYPE) - general
    unmapped = {kind for kind in kinds - general if not named & set(kind.__mro__)}
    assert not unmapped, "ldap3 knows exceptions that connectors/openldap/errors.py does not"


@pytest.mark.parametrize("kind", list(openldap_errors.BY_DRIVER_TYPE))
def test_ldap_failures_prove_nothing_once_the_change_was_sent(kind):
    error = _made(kind)
    assert isinstance(openldap_errors.map_error(error, sent=False), openldap_errors.BY_DRIVER_TYPE[kind][0])
    assert isinstance(openldap_errors.map_error(error, sent=True), EffectUnknown)
    assert openldap_errors.verdict_of(error).state is VerdictState.UNKNOWN


@pytest.mark.parametrize(
    ("code", "policy", "kind"),
    [
        (50, None, Forbidden), (19, None, PolicyRefused), (32, None, Unsupported), (53, None, NotApplied),
        (51, None, Unreachable), (10, None, Unsupported), (49, None, AuthRejected), (13, None, Forbidden),
        (9999, None, NotApplied), (19, PolicyError.PASSWORD_IN_HISTORY, PolicyRefused),
        (19, PolicyError.PASSWORD_TOO_SHORT, PolicyRefused), (19, PolicyError.PASSWORD_TOO_YOUNG, PolicyRefused),
        (19, PolicyError.INSUFFICIENT_PASSWORD_QUALITY, PolicyRefused),
        (50, PolicyError.PASSWORD_MOD_NOT_ALLOWED, Forbidden), (50, PolicyError.MUST_SUPPLY_OLD_PASSWORD, Forbidden),
        (49, PolicyError.ACCOUNT_LOCKED, Locked), (49, PolicyError.PASSWORD_EXPIRED, Locked),
        (52, None, AmbiguousReply), (80, None, AmbiguousReply), (3, None, AmbiguousReply),
    ],
)  # fmt: skip
def test_a_directorys_answer_to_a_change_says_what_it_did(code, policy, kind):
    refusal = LdapRefusal(code=code, policy=PolicyAnswer(error=policy))
    assert type(openldap_errors.map_error(refusal, sent=True)) is kind


@pytest.mark.parametrize(
    ("code", "policy", "state", "cause"),
    [
        (49, None, VerdictState.REFUSED, "wrong_password"),
        (49, PolicyError.ACCOUNT_LOCKED, VerdictState.LOCKED, "locked"),
        (49, PolicyError.PASSWORD_EXPIRED, VerdictState.LOCKED, "expired"),
        (51, None, VerdictState.UNKNOWN, "busy"),
        (52, None, VerdictState.UNKNOWN, "unavailable"),
        (8, None, VerdictState.UNKNOWN, "tls_required"),
        (10, None, VerdictState.UNKNOWN, "referral"),
        (32, None, VerdictState.UNKNOWN, "refused_login"),
        (80, None, VerdictState.UNKNOWN, "refused_login"),
    ],
)
def test_only_invalid_credentials_refuse_a_directorys_password(code, policy, state, cause):
    verdict = openldap_errors.verdict_of(LdapRefusal(code=code, policy=PolicyAnswer(error=policy)))
    assert (verdict.state, verdict.cause) == (state, cause)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("3003810101", PolicyAnswer(error=PolicyError.ACCOUNT_LOCKED)),
        ("3003810100", PolicyAnswer(error=PolicyError.PASSWORD_EXPIRED)),
        ("3005a003810102", PolicyAnswer(grace_logins=2)),
        ("3006a00480020e10", PolicyAnswer(expires_seconds=3600)),
        ("3008a003810100810102", PolicyAnswer(grace_logins=0, error=PolicyError.CHANGE_AFTER_RESET)),
        ("3000", PolicyAnswer()), ("", PolicyAnswer()), ("300381017f", PolicyAnswer()), ("30", PolicyAnswer()),
        ("3084ffffffff810101", PolicyAnswer()), ("30028100", PolicyAnswer()),
    ],
)  # fmt: skip
def test_the_password_policys_control_is_read(value, answer):
    assert openldap_errors.read_policy_answer(bytes.fromhex(value)) == answer


def test_every_exception_of_pymysql_is_mapped():
    kinds = {kind for kind in vars(pymysql.err).values() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert len(kinds) >= 10
    assert {kind for kind in kinds if kind.__module__ == "pymysql.err"} <= set(mysql_errors.BY_DRIVER_TYPE)
    assert kinds <= set(mysql_errors.BY_DRIVER_TYPE)


@pytest.mark.parametrize("kind", list(mysql_errors.BY_DRIVER_TYPE))
def test_pymysql_failures_prove_nothing_once_the_change_was_sent(kind):
    error = _made(kind)
    assert type(mysql_errors.map_error(error, sent=False)) is mysql_errors.BY_DRIVER_TYPE[kind]
    assert isinstance(mysql_errors.map_error(error, sent=True), EffectUnknown)
    assert mysql_errors.verdict_of(error).state is VerdictState.UNKNOWN


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1045, AuthRejected), (1142, Forbidden), (1227, Forbidden), (1396, Unsupported), (1819, PolicyRefused),
        (3638, PolicyRefused), (1290, Unsupported), (1205, NotApplied), (4151, Locked), (1820, Locked),
        (1053, ConnectionLost), (1047, ConnectionLost), (1317, AmbiguousReply), (1030, AmbiguousReply),
        (9999, AmbiguousReply),
    ],
)  # fmt: skip
def test_an_error_of_mysql_means_what_it_says_of_the_accounts(code, kind):
    """Its grant tables know no transaction, so only a refusal known by its code says that nothing changed."""
    assert type(mysql_errors.map_error(mysql_errors.ServerRefusal(code=code, text="x"), sent=True)) is kind


def test_one_of_several_accounts_that_failed_leaves_the_effect_unknown():
    refusal = mysql_errors.ServerRefusal(code=1396, text="Operation ALTER USER failed for 'a'@'b'")
    assert isinstance(mysql_errors.map_error(refusal, sent=True, several=True), AmbiguousReply)


@pytest.mark.parametrize(
    ("refusal", "state", "cause"),
    [
        ({"code": 1045}, VerdictState.REFUSED, "wrong_password"),
        ({"code": 1045, "plugin": "dialog"}, VerdictState.UNKNOWN, "external_authentication"),
        ({"code": 1045, "without_tls": True}, VerdictState.UNKNOWN, "refused_without_tls"),
        ({"code": 1820}, VerdictState.ACCEPTED, "expired"),
        ({"code": 1862}, VerdictState.ACCEPTED, "expired"),
        ({"code": 3118}, VerdictState.LOCKED, "account_locked"),
        ({"code": 4151}, VerdictState.LOCKED, "account_locked"),
        ({"code": 4150}, VerdictState.LOCKED, "too_many_failures"),
        ({"code": 3955}, VerdictState.LOCKED, "too_many_failures"),
        ({"code": 1040}, VerdictState.UNKNOWN, "too_many_connections"),
        ({"code": 1129}, VerdictState.UNKNOWN, "host_blocked"),
        ({"code": 1130}, VerdictState.UNKNOWN, "not_allowed_from_here"),
        ({"code": 3159}, VerdictState.UNKNOWN, "needs_tls"),
        ({"code": 1698}, VerdictState.UNKNOWN, "external_authentication"),
        ({"code": 1234}, VerdictState.UNKNOWN, "refused_login"),
    ],
)
def test_failed_logins_of_mysql_are_told_apart_by_their_code(refusal, state, cause):
    verdict = mysql_errors.verdict_of(mysql_errors.ServerRefusal(text="x", **refusal))
    assert (verdict.state, verdict.cause) == (state, cause)


@pytest.mark.parametrize("error", [sqlserver_errors.DriverFailure(kind="InterfaceError"), TimeoutError(), OSError()])
def test_failures_of_freetds_prove_nothing_once_the_change_was_sent(error):
    assert type(sqlserver_errors.map_error(error, sent=False)) is Unreachable
    assert isinstance(sqlserver_errors.map_error(error, sent=True), EffectUnknown)
    assert sqlserver_errors.verdict_of(error).state is VerdictState.UNKNOWN


@pytest.mark.parametrize(
    ("number", "severity", "kind"),
    [
        (18456, 14, AuthRejected), (15211, 16, AuthRejected), (15151, 16, Forbidden), (15247, 16, Forbidden),
        (15116, 16, PolicyRefused), (15118, 16, PolicyRefused), (18486, 14, Locked), (18488, 14, Locked),
        (4060, 11, Unsupported), (102, 15, Unsupported), (1222, 16, NotApplied), (17809, 16, Unreachable),
        (6005, 14, ConnectionLost), (15151, 20, ConnectionLost), (8152, 16, AmbiguousReply),
    ],
)  # fmt: skip
def test_an_error_of_sql_server_means_what_it_says_of_the_login(number, severity, kind):
    refusal = sqlserver_errors.ServerRefusal(number=number, severity=severity, text="x")
    assert type(sqlserver_errors.map_error(refusal, sent=True)) is kind


@pytest.mark.parametrize(
    ("messages", "number"),
    [
        ([(5701, 2, 0, "Changed database context")], None),
        ([(18456, 1, 14, "Login failed")], 18456),
        ([(4060, 1, 11, "Cannot open database"), (18456, 1, 14, "Login failed")], 4060),
        ([(5701, 2, 0, "news"), (17892, 1, 14, "trigger"), (3609, 1, 16, "ended")], 17892),
    ],
)
def test_the_reason_of_a_failed_login_is_not_its_last_message(messages, number):
    refusal = sqlserver_errors.refusal_of(messages)
    assert (refusal.number if refusal else None) == number


def test_a_syntax_error_does_not_quote_the_statement():
    refusal = sqlserver_errors.refusal_of([(102, 1, 15, "Incorrect syntax near 'S3cret'.")])
    assert str(refusal) == "error 102"


@pytest.mark.parametrize(
    ("number", "state", "cause"),
    [
        (18456, VerdictState.REFUSED, "wrong_password"), (18487, VerdictState.ACCEPTED, "expired"),
        (18488, VerdictState.ACCEPTED, "change_after_reset"), (18470, VerdictState.LOCKED, "disabled"),
        (18486, VerdictState.LOCKED, "account_locked"), (18452, VerdictState.UNKNOWN, "method_not_allowed"),
        (4060, VerdictState.UNKNOWN, "no_database"), (17809, VerdictState.UNKNOWN, "too_many_connections"),
        (18401, VerdictState.UNKNOWN, "starting_up"), (17892, VerdictState.UNKNOWN, "not_allowed_from_here"),
        (9999, VerdictState.UNKNOWN, "refused_login"),
    ],
)  # fmt: skip
def test_failed_logins_of_sql_server_are_told_apart_by_their_number(number, state, cause):
    verdict = sqlserver_errors.verdict_of(sqlserver_errors.ServerRefusal(number=number, text="x"))
    assert (verdict.state, verdict.cause) == (state, cause)
