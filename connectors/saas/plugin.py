"""What a SaaS plugin is: names and members are the vendor's, so that a plugin is written as its documentation says.

Source: KeeperPAM documentation, "SaaS rotation plugins" (SaasPlugin, SaasConfigItem, SaasUser, ReturnCustomField).
Beyond it: ``verify_password`` logs in as the account, ``limits`` tells the service's rules for passwords, secrets are
``SecretValue``, and errors say what became of the account.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from connectors.base import UNPROVABLE, Deadline, Preflight, Verdict, VerdictState
from pam_jobs.errors import EffectUnknown, InvalidInput
from pam_jobs.records.record import parse_flag
from pam_jobs.secret import SecretValue

__all__ = [
    "ReturnCustomField",
    "SaasConfig",
    "SaasConfigEnum",
    "SaasConfigItem",
    "SaasException",
    "SaasPlugin",
    "SaasUser",
]

ItemType = Literal["text", "multiline", "url", "int", "number", "bool", "enum", "secret", "record"]


class SaasException(EffectUnknown):
    """The plugin failed."""

    code = "saas"


@dataclass(frozen=True, kw_only=True)
class SaasConfigEnum:
    """One value that a field may have."""

    value: str
    desc: str = ""


@dataclass(frozen=True, kw_only=True)
class SaasConfigItem:
    """One field of a plugin's configuration record."""

    id: str  # what the plugin asks for
    label: str  # of the custom field
    desc: str = ""
    type: ItemType = "text"
    is_secret: bool = False
    required: bool = False
    default_value: Any = None
    enum_values: Sequence[SaasConfigEnum] = ()

    def read(self, text: str | None) -> Any:
        """Return a field's value as its type; None where it is not set.

        Raises:
            InvalidInput: it is missing and required, or not of the type. No value is shown.
        """
        if text is None or not text.strip():
            if self.default_value is None and self.required:
                raise InvalidInput(
                    f"the SaaS configuration has no {self.label!r}", remedy="set that custom field of its record"
                )
            return self.default_value
        try:
            return self._typed(text.strip() if self.type != "multiline" else text)
        except ValueError:
            raise InvalidInput(
                f"the field {self.label!r} of the SaaS configuration is not {_EXPECTED[self.type]}",
                remedy="correct that custom field of its record",
            ) from None

    def _typed(self, text: str) -> Any:
        if self.is_secret or self.type == "secret":
            return SecretValue(text)
        if self.type == "int":
            return int(text)
        if self.type == "number":
            return float(text)
        if self.type == "bool":
            return parse_flag(text, f"the field {self.label!r}")
        if self.type == "enum":
            known = {choice.value.casefold(): choice.value for choice in self.enum_values}
            if text.casefold() not in known:
                raise ValueError
            return known[text.casefold()]
        if self.type == "url" and not text.startswith(("https://", "http://")):
            raise ValueError
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the field for those who fill it in."""
        told: dict[str, Any] = {"id": self.id, "label": self.label, "type": self.type, "required": self.required}
        if self.desc:
            told["desc"] = self.desc
        if self.is_secret or self.type == "secret":
            told["is_secret"] = True
        elif self.default_value is not None:
            told["default"] = self.default_value
        if self.enum_values:
            told["values"] = [choice.value for choice in self.enum_values]
        return told


_EXPECTED: Final[dict[str, str]] = {
    "text": "a text",
    "multiline": "a text",
    "secret": "a text",
    "record": "a record",
    "url": "an address that begins with https://",
    "int": "a whole number",
    "number": "a number",
    "bool": "TRUE or FALSE",
    "enum": "one of the values that the plugin knows",
}


@dataclass(frozen=True, kw_only=True)
class SaasUser:
    """The account, as the vendor's plugins know it."""

    username: str
    dn: str | None = None
    database: str | None = None
    new_password: SecretValue | None = None
    prior_password: SecretValue | None = None
    new_private_key: SecretValue | None = None
    prior_private_key: SecretValue | None = None
    fields: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class ReturnCustomField:
    """A custom field that the plugin wants in the user's record."""

    label: str
    value: str | SecretValue
    type: str = "text"


@dataclass(frozen=True, kw_only=True)
class SaasConfig:
    """What a plugin works with."""

    values: Mapping[str, Any] = field(repr=False)  # by id; secrets are SecretValue
    provider: Mapping[str, Any] | None = field(
        default=None, repr=False
    )  # the PAM configuration's own fields, where allowed
    ca_file: str | None = None  # the custom field "CA File": of the service's certificate; None: the system's


class SaasPlugin(ABC):
    """Changes the password of one account of a service. One instance a change; it belongs to one thread."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    readme: ClassVar[str] = ""
    author: ClassVar[str] = ""
    email: ClassVar[str] = ""

    def __init__(
        self, user: SaasUser, config_record: SaasConfig, deadline: Deadline, *, force_fail: bool = False
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            user: whose password.
            config_record: the fields of the configuration record, checked by ``config_schema``.
            deadline: every wait ends there.
            force_fail: raise in ``change_password`` after the change, to see how a failure is handled.
        """
        self.user = user
        self.config_record = config_record
        self.deadline = deadline
        self.force_fail = force_fail
        self._returned: list[ReturnCustomField] = []

    @classmethod
    def requirements(cls) -> list[str]:
        """Return the Python packages that the plugin needs, as pip names them."""
        return []

    @classmethod
    @abstractmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the fields of its configuration record."""

    @abstractmethod
    def change_password(self) -> None:
        """Set ``user.new_password``; doing it twice does no harm.

        Raises:
            NotApplied: the service said no: nothing changed there.
            EffectUnknown: it may have changed. ``SaasException`` is one.
        """

    def verify_password(self, password: SecretValue) -> Verdict:  # noqa: ARG002
        """Try one login as the account; by default there is none to try."""
        return Verdict(state=VerdictState.UNKNOWN, cause=UNPROVABLE, detail="the plugin has no way to log in")

    def check(self) -> Preflight:
        """Learn whether a change would be allowed, changing nothing.

        Raises:
            NotApplied: with the cause.
        """
        return self.limits()

    def limits(self) -> Preflight:
        """Return what the service wants of a password."""
        return Preflight(server=self.name)

    @property
    def can_rollback(self) -> bool:
        """Say whether ``rollback_password`` undoes what a failed change has left."""
        return False

    def rollback_password(self) -> None:  # noqa: B027
        """Undo what a failed change has left; called only after a failure, and where ``can_rollback``."""

    def get_config(self, key: str, default: Any = None) -> Any:
        """Return a field's value by its id."""
        value = self.config_record.values.get(key)
        return default if value is None else value

    def add_return_field(self, returned: ReturnCustomField) -> None:
        """Have a custom field written to the user's record, together with the new password."""
        self._returned.append(returned)

    @property
    def returned(self) -> tuple[ReturnCustomField, ...]:
        """The fields to be written."""
        return tuple(self._returned)
