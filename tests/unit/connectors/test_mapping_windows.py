"""Every exception of the WinRM driver, and every code of Windows, has a meaning of ours."""

from __future__ import annotations

import inspect

import pytest
import winrm.exceptions as driver

import connectors.kerberos.errors as kerberos
import connectors.windows.errors as windows_errors
from connectors.base import VerdictState
from connectors.windows.programs import Answer
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    ConnectionLost,
    EffectUnknown,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit


def made(kind: type[BaseException]) -> BaseException:
    error = kind.__new__(kind)
    Exception.__init__(error, "x")
    if isinstance(error, driver.WSManFaultError):
        error.wsman_fault_code = None
    if isinstance(error, windows_errors.NoAnswer):
        error.exit_code, error.said = 1, "x"
    if isinstance(error, kerberos.KdcRefusedError | kerberos.TicketRefusedError):
        error.code = 0
    return error


def test_every_exception_of_pywinrm_is_mapped():
    kinds = {kind for kind in vars(driver).values() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert len(kinds) >= 7
    assert kinds <= set(windows_errors.BY_DRIVER_TYPE)


@pytest.mark.parametrize("kind", list(windows_errors.BY_DRIVER_TYPE))
def test_failures_prove_nothing_once_the_change_was_sent(kind):
    error = made(kind)
    assert isinstance(windows_errors.map_error(error, sent=False), NotApplied)
    assert isinstance(windows_errors.map_error(error, sent=True), EffectUnknown)


@pytest.mark.parametrize("kind", list(windows_errors.BY_DRIVER_TYPE))
def test_only_a_plain_refusal_refuses_a_credential(kind):
    refusals = {windows_errors.LoginRefused, driver.InvalidCredentialsError}
    expected = VerdictState.REFUSED if kind in refusals else VerdictState.UNKNOWN
    if kind is kerberos.TicketRefusedError:  # the domain gave a ticket for the password
        expected = VerdictState.ACCEPTED
    assert windows_errors.verdict_of(made(kind)).state is expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), TimedOutAfterSend), (driver.WinRMOperationTimeoutError(), TimedOutAfterSend),
        (windows_errors.NoAnswer(1, "x"), AmbiguousReply), (OSError(), ConnectionLost),
    ],
)  # fmt: skip
def test_silence_and_nonsense_after_sending_are_told_apart(error, kind):
    assert type(windows_errors.map_error(error, sent=True)) is kind


@pytest.mark.parametrize(
    ("code", "kind"), [(5, Forbidden), (2150859174, Unreachable), (1, NotApplied), (None, NotApplied)]
)
def test_a_fault_of_winrm_means_what_its_code_says(code, kind):
    fault = driver.WSManFaultError(500, "x", "x", "secret reason", wsman_fault_code=code)
    ours = windows_errors.map_error(fault, sent=False)
    assert type(ours) is kind
    assert "secret reason" not in ours.sentence()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"code": 2245}, PolicyRefused), ({"code": 5}, Forbidden), ({"code": 86}, AuthRejected),
        ({"code": 2221}, Unsupported), ({"code": 1355}, Unreachable), ({"code": 4711}, AmbiguousReply),
        ({"kind": "Microsoft.PowerShell.Commands.InvalidPasswordException", "code": 2148734208}, PolicyRefused),
        ({"kind": "Microsoft.PowerShell.Commands.UserNotFoundException"}, Unsupported),
        ({"kind": "Microsoft.PowerShell.Commands.AccessDeniedException"}, Forbidden),
        ({"kind": "System.NullReferenceException", "code": 2147500035}, AmbiguousReply),
    ],
)  # fmt: skip
def test_what_windows_answers_to_a_change_is_read_by_kind_and_code(answer, kind):
    ours = windows_errors.map_refusal(Answer(ok=False, text="Not with Hunter-2!", **answer), SecretValue("Hunter-2!"))
    assert type(ours) is kind
    assert "Hunter-2!" not in ours.sentence()


@pytest.mark.parametrize(
    ("code", "state", "cause"),
    [
        (0, VerdictState.ACCEPTED, ""), (1326, VerdictState.REFUSED, "wrong_password"),
        (1327, VerdictState.LOCKED, "account_restriction"), (1330, VerdictState.ACCEPTED, "expired"),
        (1331, VerdictState.LOCKED, "disabled"), (1385, VerdictState.ACCEPTED, "no_connect_right"),
        (1793, VerdictState.LOCKED, "expired"), (1907, VerdictState.ACCEPTED, "change_after_reset"),
        (1909, VerdictState.LOCKED, "locked"), (1311, VerdictState.UNKNOWN, "unreachable"),
        (4711, VerdictState.UNKNOWN, "refused_login"),
    ],
)  # fmt: skip
def test_a_logon_is_read_by_its_code(code, state, cause):
    verdict = windows_errors.verdict_of_logon(code)
    assert (verdict.state, verdict.cause) == (state, cause)
