"""What runs as an account on a Windows machine: found, given the new password, and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from connectors.base import Dependant, DependantOutcome, DependantState, Fence, RunAs, Unseen
from connectors.windows import service_programs as programs
from connectors.windows.errors import map_refusal
from connectors.windows.facts import Look
from connectors.windows.names import check_password
from connectors.windows.programs import Answer, Program
from pam_jobs.errors import Forbidden, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["Ask", "Dependants", "Tell", "is_of_the_system"]

_WAIT_SECONDS: Final = 60
"""How long each service may take to stop, and to start."""

_NO_PASSWORD: Final = frozenset(
    {"", "localsystem", "system", "local service", "network service", "interactive user", "launching user"}
)
_VIRTUAL: Final = ("nt authority\\", "nt service\\", "iis apppool\\", "builtin\\")
_WITH_PASSWORD: Final = frozenset({1, 6})  # kinds of logon of a task
_CAUSES: Final[Mapping[int, str]] = {
    2: "forbidden", 5: "forbidden", 1314: "forbidden", 15: "logon_failed", 22: "logon_failed", 1057: "logon_failed",
    1326: "logon_failed", 1069: "logon_failed", 1385: "no_logon_right", 1380: "no_logon_right",
    0x80110414: "logon_failed",
}  # fmt: skip
_REMEDIES: Final[Mapping[str, str]] = {
    "forbidden": "make the rotator a member of Administrators",
    "logon_failed": "the machine does not take the account with this password: look at the account and its controller",
    "no_logon_right": "grant the account the right to log on as a service or as a batch job (secpol.msc)",
}


class Ask(Protocol):
    """Runs a program that changes nothing."""

    def __call__(self, program: Program, facts: Mapping[str, object], *secrets: SecretValue) -> Answer:
        """Return its answer."""
        ...


class Tell(Protocol):
    """Runs a program that changes something."""

    def __call__(
        self, program: Program, facts: Mapping[str, object], *secrets: SecretValue, fence: Fence | None = None
    ) -> Answer:
        """Return its answer."""
        ...


class Dependants:
    """Services, tasks, pools and components of one machine."""

    def __init__(self, ask: Ask, tell: Tell, look: Look) -> None:
        """Use a session.

        Args:
            ask: runs what changes nothing.
            tell: runs what changes something.
            look: what the machine is, and whether we administer it.

        Raises:
            Forbidden: we do not.
        """
        if not look.is_admin:
            raise Forbidden("the rotator is no administrator of the machine", remedy=_REMEDIES["forbidden"])
        self._ask = ask
        self._tell = tell
        self._look = look

    def found(self) -> Iterator[Dependant | Unseen]:
        """Yield what runs as an account with a password."""
        for kind, program in programs.LISTS.items():
            answer = self._ask(program, {})
            if not answer.ok or not isinstance(answer.value, list):
                yield Unseen(what=f"objects of the type {kind}", cause="not_permitted", detail=_said(answer))
                continue
            for each in answer.value:
                account = str(each.get("account") or "")
                if not is_of_the_system(account):
                    yield Dependant(kind=kind, name=str(each["name"]), account=self._shown(account))

    def update(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        """Give one of them the password; see ``Session.update_dependant``."""
        check_password(run_as.password)
        updates: dict[str, Callable[[Dependant, RunAs, Fence], DependantOutcome]] = {
            "service": self._service,
            "task": self._task,
            "iis_pool": self._pool,
            "com_plus": self._com_plus,
            "com": self._dcom,
            "dcom": self._dcom,
        }
        if dependant.kind not in updates:
            raise Unsupported(
                f"objects of the type {dependant.kind} are not updated", remedy="attach a script that does it"
            )
        return updates[dependant.kind](dependant, run_as, fence)

    def _service(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        local = next((name[2:] for name in run_as.names if name.startswith(".\\")), "")
        found = self._value(self._ask(programs.SERVICE_FIND, {"name": dependant.name, "login": local}))
        if found is None or not self._is_meant(run_as, str(found["account"] or "")):
            return _none_of_ours(found)
        is_cut_off = found.get("left") is True
        is_running = is_cut_off or found.get("state") not in {"Stopped", "Stop Pending"}
        if is_running and not is_cut_off and _is_younger(found.get("ran"), found.get("age")):
            return DependantOutcome(state=DependantState.ALREADY, detail="it was started since the password changed")
        name = str(found["name"])
        answer = self._tell(programs.SERVICE_SET, {"name": name}, run_as.password, fence=fence)
        if not answer.ok or answer.value != 0:
            return _refused(answer, run_as.password, code=answer.value if answer.ok else answer.code)
        return self._restart(name, run_as.password) if is_running else DependantOutcome(state=DependantState.UPDATED)

    def _restart(self, name: str, password: SecretValue) -> DependantOutcome:
        answer = self._tell(programs.SERVICE_RESTART, {"name": name, "wait": _WAIT_SECONDS})
        if not answer.ok or not isinstance(answer.value, dict):
            detail = f"it could not be stopped: {_said(answer, password)}"
            return DependantOutcome(state=DependantState.UNKNOWN, cause="not_stopped", detail=detail)
        started = tuple(map(str, answer.value.get("started") or ()))
        failed = answer.value.get("failed") or []
        if not failed:
            return DependantOutcome(state=DependantState.RESTARTED, restarted=started)
        told = "; ".join(f"{each['name']} did not start: {each['text']} ({_code(each['code'])})" for each in failed)
        return DependantOutcome(
            state=DependantState.NOT_STARTED,
            cause="not_started",
            detail=_without(told, password),
            restarted=started,
        )

    def _task(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        path = dependant.name if dependant.name.startswith("\\") else f"\\{dependant.name}"
        found = self._value(self._ask(programs.TASK_FIND, {"name": path}))
        if found is None or not self._is_meant(run_as, str(found["account"] or "")):
            return _none_of_ours(found)
        if found.get("logon") not in _WITH_PASSWORD:
            detail = "the task keeps no password"
            return DependantOutcome(state=DependantState.OTHER_ACCOUNT, cause="no_password", detail=detail)
        answer = self._tell(programs.TASK_SET, {"name": path}, run_as.password, fence=fence)
        return DependantOutcome(state=DependantState.UPDATED) if answer.ok else _refused(answer, run_as.password)

    def _pool(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        answer = self._tell(programs.POOL_SET, self._facts(dependant, run_as), run_as.password, fence=fence)
        if not answer.ok:
            return _refused(answer, run_as.password)
        found = self._value(answer)
        if found is not None and found.get("done"):
            return DependantOutcome(state=DependantState.ALREADY, detail="it has the password")
        if found is None or not found.get("set"):
            return _none_of_ours(found)
        return _updated(found, "recycled")

    def _com_plus(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        answer = self._tell(programs.COM_PLUS_SET, self._facts(dependant, run_as), run_as.password, fence=fence)
        if not answer.ok:
            return _refused(answer, run_as.password)
        found = self._value(answer)
        if found is None or not found.get("set"):
            return _none_of_ours(found)
        return _updated(found, "restarted")

    def _dcom(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        answer = self._tell(programs.DCOM_SET, self._facts(dependant, run_as), run_as.password, fence=fence)
        if not answer.ok:
            return _refused(answer, run_as.password)
        found = self._value(answer)
        if found is None or "set" not in found:
            return _none_of_ours(found)
        if found["set"] != 0:
            return _refused(answer, run_as.password, code=found["set"])
        return DependantOutcome(state=DependantState.UPDATED)

    def _value(self, answer: Answer) -> dict[str, Any] | None:
        """Return what a program found; None when there is no such object.

        Raises:
            TargetError: it could not look.
        """
        if not answer.ok:
            raise map_refusal(answer)
        return answer.value if isinstance(answer.value, dict) else None

    def _facts(self, dependant: Dependant, run_as: RunAs) -> dict[str, object]:
        return {"name": dependant.name, "names": sorted(self._spellings(run_as))}

    def _is_meant(self, run_as: RunAs, shown: str) -> bool:
        return shown.casefold() in self._spellings(run_as)

    def _spellings(self, run_as: RunAs) -> set[str]:
        """Return every way in which this machine may show the account, in lower case."""
        names = set(run_as.names)
        for name in run_as.names:
            if name.startswith(".\\"):
                names.add(f"{self._look.computer}{name[1:]}")
                if self._look.is_controller:  # its accounts are the domain's
                    names.add(f"{self._look.domain.partition('.')[0]}{name[1:]}")
        return {name.casefold() for name in names}

    def _shown(self, account: str) -> str:
        prefix, slash, login = account.partition("\\")
        return f".\\{login}" if slash and prefix.casefold() == self._look.computer.casefold() else account


def is_of_the_system(account: str) -> bool:
    """Say whether the account is one of Windows' own, or one whose password Windows changes by itself."""
    folded = account.strip().casefold()
    return folded in _NO_PASSWORD or folded.startswith(_VIRTUAL) or folded.endswith("$")


def _is_younger(ran_seconds: Any, age_seconds: Any) -> bool:
    """Say whether the process was started, beyond doubt, after the password was set: it logged on with it."""
    return (
        isinstance(ran_seconds, int | float)
        and isinstance(age_seconds, int | float)
        and 0 <= ran_seconds < age_seconds - 2  # Windows tells the age in whole seconds
    )


def _none_of_ours(found: Mapping[str, Any] | None) -> DependantOutcome:
    if found is None:
        return DependantOutcome(
            state=DependantState.NOT_FOUND, cause="not_found", detail="there is no such object on the machine"
        )
    account = str(found.get("account") or found.get("identity") or "somebody else")
    return DependantOutcome(
        state=DependantState.OTHER_ACCOUNT, cause="not_running_as_user", detail=f"it runs as {account}"
    )


def _updated(found: Mapping[str, Any], flag: str) -> DependantOutcome:
    if found.get(flag):
        return DependantOutcome(state=DependantState.RESTARTED, restarted=(str(found["name"]),))
    return DependantOutcome(state=DependantState.UPDATED)


def _refused(answer: Answer, password: SecretValue, code: Any = None) -> DependantOutcome:
    number = code if isinstance(code, int) else answer.code
    cause = _CAUSES.get(number, "windows_error")
    said = _said(answer, password) if not answer.ok else f"Windows answered {_code(number)}"
    remedy = _REMEDIES.get(cause)
    detail = f"{said}: {remedy}" if remedy else said
    return DependantOutcome(state=DependantState.REFUSED, cause=cause, detail=detail)


def _said(answer: Answer, password: SecretValue | None = None) -> str:
    text = f"{' '.join(answer.text.split())[-200:]} ({_code(answer.code)})"
    return _without(text, password) if password is not None else text


def _without(text: str, password: SecretValue) -> str:
    return text.replace(password.reveal(), "***")


def _code(number: Any) -> str:
    return f"code {number}" if isinstance(number, int) and 0 <= number <= 0xFFFF else f"code {number:#010x}"
