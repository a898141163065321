"""A SaaS plugin as a connector: the rotation protocol is the same for an online service and a machine.

Custom plugins are somebody else's code: whatever they raise is an error of ours, and one that never comes back does not
hold the job beyond its deadline.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

import structlog

from connectors.base import (
    Account,
    Candidate,
    Capability,
    Connector,
    Credential,
    Deadline,
    Fence,
    Preflight,
    Session,
    Target,
    Verdict,
    VerdictState,
)
from connectors.saas.catalogue import Catalogue
from connectors.saas.plugin import ReturnCustomField, SaasConfig, SaasException, SaasPlugin, SaasUser
from pam_jobs.errors import (
    ConfigurationError,
    Effect,
    EffectUnknown,
    InvalidInput,
    NotApplied,
    PamJobsError,
    TargetError,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

__all__ = ["PROTOCOL", "SaasConnector", "SaasSession", "target_of_service"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
PROTOCOL: Final = "saas"
_TYPE: Final = "SaaS Type"
_ACTIVE: Final = "Active"


class SaasConnector(Connector):
    """Speaks to one service through the plugin that its configuration record names."""

    name: ClassVar[str] = "saas"
    protocols: ClassVar[frozenset[str]] = frozenset({PROTOCOL})
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CHANGE, Capability.PROBE})

    def __init__(
        self, catalogue: Catalogue, configuration: Record, provider: Record | None = None, *, clears_up: bool = True
    ) -> None:
        """Prepare for one service.

        Args:
            catalogue: the gateway's plugins.
            configuration: the saasConfiguration record.
            provider: the PAM configuration, whose own credentials the plugin sees where ``Allow SaaS Access`` names it.
            clears_up: a plugin that failed and can undo what it left is asked to.
        """
        self._catalogue = catalogue
        self._configuration = configuration
        self._provider = provider
        self._clears_up = clears_up

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> SaasSession:  # noqa: ARG002
        """Return the plugin ready to work; nothing is sent yet.

        Args:
            target: of ``target_of_service``.
            rotator: the account's own credential before the change; the plugin logs in with its configuration's.
            deadline: bounds every wait.

        Raises:
            Unsupported: there is no such plugin, or the configuration is switched off.
            NotApplied: a field of the configuration is missing or wrong.
        """
        record = self._configuration
        if not record.flag(_ACTIVE, default=True):
            raise Unsupported(
                "the SaaS configuration is switched off", remedy=f"set its custom field {_ACTIVE!r} to TRUE"
            )
        try:
            if self._provider is not None:
                self._catalogue.check_folder(self._provider.custom("SaaS Plugins Dir"))
            kind = self._catalogue.get(plugin_name(record))
            values = {item.id: item.read(record.custom(item.label)) for item in kind.config_schema()}
        except (InvalidInput, ConfigurationError) as error:
            raise Unsupported(error.message, remedy=error.remedy) from error
        config = SaasConfig(
            values=values, provider=_allowed(self._provider, kind.name), ca_file=record.custom("CA File")
        )
        return SaasSession(kind, config, rotator, deadline, clears_up=self._clears_up)


class SaasSession(Session):
    """One plugin at work on one account."""

    def __init__(
        self,
        kind: type[SaasPlugin],
        config: SaasConfig,
        rotator: Credential | None,
        deadline: Deadline,
        *,
        clears_up: bool = True,
    ) -> None:
        self._clears_up = clears_up
        self._kind = kind
        self._config = config
        self._rotator = rotator
        self._deadline = deadline
        self._returned: tuple[ReturnCustomField, ...] = ()

    def returned_fields(self) -> Mapping[str, str | SecretValue]:
        """Return what the plugin added, once it has changed the value."""
        return {each.label: each.value for each in self._returned}

    def preflight(self, account: Account) -> Preflight:
        """Ask the plugin whether it could."""
        self._check_may_change()
        found = self._run(self._plugin(account).check, before_change=True)
        return found if isinstance(found, Preflight) else Preflight(server=self._kind.name)

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Have the plugin set the value.

        Raises:
            NotApplied: the service refused it.
            EffectUnknown: it may have been set; a login shows.
        """
        self._check_may_change()
        new = candidate.password
        if new is None or not new or any(ord(char) < 32 or ord(char) == 127 for char in new.reveal()):
            raise NotApplied(
                "the new password is empty or holds control characters",
                remedy="rotate again, or correct the complexity",
            )
        plugin = self._plugin(account, candidate)
        fence()
        try:
            self._run(plugin.change_password)
            if plugin.force_fail:
                raise SaasException("the plugin was told to fail")
        except EffectUnknown:
            self._undo(plugin)
            raise
        self._returned = plugin.returned
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Have the plugin log in."""
        password = credential.password
        if password is None:
            return Verdict(
                state=VerdictState.UNKNOWN, cause="unsupported", detail="there is no password to log in with"
            )
        try:
            return self._run(lambda: self._plugin(account).verify_password(password), before_change=True)
        except PamJobsError as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)

    def close(self) -> None:
        """Nothing stays open."""

    def _plugin(self, account: Account, candidate: Candidate | None = None) -> SaasPlugin:
        prior = self._rotator
        user = SaasUser(
            username=account.login,
            dn=account.distinguished_name,
            database=account.database,
            new_password=candidate.password if candidate else None,
            prior_password=prior.password if prior else None,
            new_private_key=candidate.private_key if candidate else None,
            prior_private_key=prior.private_key if prior else None,
        )
        return self._kind(user, self._config, self._deadline)

    def _check_may_change(self) -> None:
        if self._rotator is None:
            raise Unsupported("this session was opened to log in only")

    def _undo(self, plugin: SaasPlugin) -> None:
        """Let the plugin clear up what a failed change has left; a login says later what is live."""
        if not (self._clears_up and plugin.can_rollback):
            return
        try:
            self._run(plugin.rollback_password)
        except PamJobsError as error:
            _log.warning("saas_rollback_failed", plugin=self._kind.name, cause=error.code)

    def _run(self, action: Callable[[], _T], *, before_change: bool = False) -> _T:
        """Return what the plugin's method returns, before the deadline.

        Raises:
            TargetError: of the plugin, or in place of whatever else it raised.
        """
        self._deadline.check("the plugin began")
        outcome: list[_T] = []
        failure: list[BaseException] = []
        context = contextvars.copy_context()

        def work() -> None:
            try:
                outcome.append(context.run(action))
            except BaseException as error:  # noqa: BLE001 - somebody else's code
                failure.append(error)

        thread = threading.Thread(target=work, name=f"saas-{self._kind.name}", daemon=True)
        thread.start()
        thread.join(self._deadline.remaining())
        if outcome:
            return outcome[0]
        late = TimedOutAfterSend("the SaaS plugin did not end in time")
        raise self._told(failure[0] if failure else late, before_change=before_change)

    def _told(self, error: BaseException, *, before_change: bool) -> TargetError:
        if isinstance(error, EffectUnknown) and before_change:
            return Unreachable(error.message, remedy=error.remedy)
        if isinstance(error, TargetError):
            return error
        if isinstance(error, InvalidInput):
            return Unsupported(error.message, remedy=error.remedy)
        _log.error("saas_plugin_failed", plugin=self._kind.name, error=type(error).__name__)
        told = f"the SaaS plugin {self._kind.name!r} failed ({type(error).__name__})"  # its text may hold a secret
        if before_change:
            return NotApplied(told, remedy="look at the plugin and the gateway's log")
        return SaasException(told, remedy="look at the plugin and the gateway's log")


def plugin_name(record: Record) -> str:
    """Return which plugin a configuration record is for.

    Raises:
        Unsupported: it does not say.
    """
    name = record.custom(_TYPE)
    if not name or not name.strip():
        raise Unsupported(
            f"the SaaS configuration has no {_TYPE!r}", remedy="make it with `pam action saas config --create`"
        )
    return name.strip()


def target_of_service(record: Record, uid: str) -> Target:
    """Return the service as a target: breakers, limits and logs name it by its address, else by its record.

    Args:
        record: the saasConfiguration record.
        uid: of it.
    """
    entries = record.to_dict().get("custom") or []
    texts = (value for entry in entries if entry.get("type") in {"text", "url"} for value in entry.get("value") or [])
    for text in texts:
        if isinstance(text, str) and text.strip().startswith(("https://", "http://")):
            try:
                parts = urlsplit(text.strip())
                if parts.hostname:
                    return Target(
                        host=parts.hostname, port=parts.port or 443, protocol=PROTOCOL, options=_options(record)
                    )
            except ValueError:
                continue
    return Target(host=f"saas-{uid}", port=443, protocol=PROTOCOL, options=_options(record))


def _options(record: Record) -> Mapping[str, str]:
    """Return only what steers the engine; the other fields are secrets."""
    wanted = ("Lockout Limit", "Lockout Window Minutes")
    found = {label: record.custom(label) for label in wanted}
    return {"_".join(label.casefold().split()): text for label, text in found.items() if text}


def _allowed(provider: Record | None, name: str) -> Mapping[str, Any] | None:
    """Return the PAM configuration's fields, where it allows this plugin to see them."""
    if provider is None:
        return None
    allowed = {line.strip().casefold() for line in (provider.custom("Allow SaaS Access") or "").splitlines()}
    return provider.to_dict() if name.casefold() in allowed else None
