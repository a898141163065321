"""Every exception of pymssql, oracledb, bson, http.client and httpx has a meaning of ours, and new ones do not slip in."""

from __future__ import annotations

import http.client
import inspect
from types import ModuleType

import bson.errors
import httpx
import oracledb
import pytest
from oracledb import errors as oracle_driver
from pymssql import _mssql

import connectors.mongodb.errors as mongodb_errors
import connectors.oracle.errors as oracle_errors
import connectors.rabbitmq.errors as rabbitmq_errors
import connectors.saas.web as saas_web
import connectors.sqlserver.errors as sqlserver_errors
from connectors.base import VerdictState
from pam_jobs.errors import AuthRejected, EffectUnknown, NotApplied, PolicyRefused, Unreachable

pytestmark = pytest.mark.unit


def classes_of(module: ModuleType, base: type[Exception] = Exception) -> list[type[Exception]]:
    found = {kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, base)}
    return sorted(found, key=lambda kind: kind.__name__)


def made(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "x")
    return error


def raised_by_oracledb(message: str, code: int = 0) -> oracledb.Error:
    told = oracle_driver._Error(message, code=code)
    return told.exc_type(told)


def test_pymssql_raises_nothing_but_what_the_process_around_it_tells():
    kinds = classes_of(_mssql)
    assert {"MSSQLDatabaseException", "MSSQLDriverException", "MSSQLException"} == {kind.__name__ for kind in kinds}
    for kind in kinds:
        failure = sqlserver_errors.DriverFailure(kind=kind.__name__, text="x")
        assert type(sqlserver_errors.map_error(failure, sent=False)) is Unreachable
        assert isinstance(sqlserver_errors.map_error(failure, sent=True), EffectUnknown)
        assert sqlserver_errors.verdict_of(failure).state is VerdictState.UNKNOWN


@pytest.mark.parametrize("kind", classes_of(oracledb, oracledb.Error))
def test_every_exception_of_oracledb_proves_nothing_once_the_change_was_sent(kind):
    error = made(kind)
    assert isinstance(oracle_errors.map_error(error, sent=False), NotApplied)
    assert isinstance(oracle_errors.map_error(error, sent=True), EffectUnknown)
    assert oracle_errors.verdict_of(oracle_errors.refusal_of(error)).state is VerdictState.UNKNOWN


def test_no_message_of_oracledb_itself_refuses_a_credential_or_settles_a_change():
    numbers = list(oracle_driver.ERR_MESSAGE_FORMATS)
    assert len(numbers) > 150
    for number in numbers:
        error = raised_by_oracledb(f"DPY-{number:04}: x")
        assert isinstance(oracle_errors.map_error(error, sent=False), NotApplied), number
        assert isinstance(oracle_errors.map_error(error, sent=True), EffectUnknown), number
        assert oracle_errors.verdict_of(oracle_errors.refusal_of(error)).state is VerdictState.UNKNOWN, number


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        (1740, PolicyRefused, PolicyRefused), (1089, Unreachable, EffectUnknown), (3113, Unreachable, EffectUnknown),
        (1017, AuthRejected, AuthRejected), (28003, PolicyRefused, PolicyRefused), (600, Unreachable, EffectUnknown),
    ],
)  # fmt: skip
def test_code_of_oracle_counts_where_the_driver_has_words_of_its_own(code, before, after):
    error = raised_by_oracledb(f"ORA-{code:05}: x", code)
    assert isinstance(oracle_errors.map_error(error, sent=False), before)
    assert isinstance(oracle_errors.map_error(error, sent=True), after)


@pytest.mark.parametrize("kind", classes_of(bson.errors))
def test_every_exception_of_bson_is_mapped(kind):
    assert issubclass(kind, mongodb_errors.FAILURES)
    assert isinstance(mongodb_errors.map_error(made(kind), sent=False), Unreachable)
    assert isinstance(mongodb_errors.map_error(made(kind), sent=True), EffectUnknown)
    assert mongodb_errors.verdict_of(made(kind)).state is VerdictState.UNKNOWN


@pytest.mark.parametrize("kind", classes_of(http.client))
def test_every_exception_of_http_is_mapped(kind):
    assert issubclass(kind, rabbitmq_errors.FAILURES)
    assert isinstance(rabbitmq_errors.map_error(made(kind), sent=False), Unreachable)
    assert isinstance(rabbitmq_errors.map_error(made(kind), sent=True), EffectUnknown)
    assert rabbitmq_errors.verdict_of(made(kind)).state is VerdictState.UNKNOWN


NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError",
              "InvalidURL"}  # fmt: skip


@pytest.mark.parametrize("kind", classes_of(httpx))
def test_every_exception_of_httpx_says_whether_a_request_may_have_arrived(kind):
    error = made(kind)
    assert isinstance(saas_web.map_error(error, sent=False), Unreachable)
    expected = Unreachable if kind.__name__ in NEVER_SENT else EffectUnknown
    assert isinstance(saas_web.map_error(error, sent=True), expected)
