"""A record as Keeper's clients write it, read and changed without losing what we do not know."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from pam_jobs.errors import InvalidInput
from pam_jobs.secret import SecretValue

__all__ = ["PamResources", "ReRun", "Record", "ScriptRef", "parse_flag"]

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class ReRun(StrEnum):
    """What becomes of a script of which nobody knows whether it ran to its end."""

    NEVER = "never"  # reported as unknown
    IF_UNKNOWN = "if-unknown"  # run again: it does no harm when it has run already


@dataclass(frozen=True, kw_only=True)
class ScriptRef:
    """One post-rotation script attached to a record."""

    file_uid: str
    record_uids: tuple[str, ...] = ()  # additional credentials handed to the script
    command: str = ""  # the interpreter, empty: by the shebang
    re_run: ReRun = ReRun.NEVER


@dataclass(frozen=True, kw_only=True)
class PamResources:
    """What a configuration holds together."""

    controller_uid: str | None = None  # the gateway
    folder_uid: str | None = None
    resource_uids: tuple[str, ...] = ()
    admin_credential_uid: str | None = None
    allowed_settings: Mapping[str, Any] = field(default_factory=dict)


class Record:
    """Record JSON as an immutable value: every change returns a new record, and unknown keys stay where they were.

    Its representation shows the type alone, since any field may hold a secret.
    """

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Take a private copy of checked record data; use ``parse`` for data from outside."""
        self._data: dict[str, Any] = copy.deepcopy(dict(data))

    @classmethod
    def _owning(cls, data: dict[str, Any]) -> Record:
        """Return a record of data that nobody else holds."""
        record = cls.__new__(cls)
        record._data = data  # noqa: SLF001 - it is one of ours, before anybody else sees it
        return record

    @classmethod
    def parse(cls, source: str | bytes | Mapping[str, Any]) -> Record:
        """Return the record that the JSON describes.

        Args:
            source: JSON text, or the decoded object.

        Raises:
            InvalidInput: it is not JSON, or has not the form of a record.
        """
        data = source if isinstance(source, Mapping) else _decode(source)
        if not isinstance(data, Mapping):
            raise InvalidInput("the record is not a JSON object", remedy='give {"type": …, "title": …, "fields": […]}')
        if not isinstance(data.get("type"), str) or not data["type"]:
            raise InvalidInput("the record has no type", remedy='add "type", such as "pamUser"')
        if not isinstance(data.get("title", ""), str):
            raise InvalidInput("the record's title is not text", remedy='write "title" as a string')
        for section in ("fields", "custom"):
            _check_section(section, data.get(section))
        return cls(data) if isinstance(source, Mapping) else cls._owning(dict(data))

    def to_json(self) -> str:
        """Return compact JSON, keys and fields in the order they came in."""
        return json.dumps(self._data, separators=(",", ":"), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the record's data."""
        return copy.deepcopy(self._data)

    @property
    def type(self) -> str:
        """The record type, such as ``pamUser``."""
        return str(self._data["type"])

    @property
    def title(self) -> str:
        """The title, empty when absent."""
        return str(self._data.get("title", ""))

    @property
    def notes(self) -> str:
        """The notes, empty when absent."""
        return str(self._data.get("notes") or "")

    def with_title(self, title: str) -> Record:
        """Return the record under another title."""
        return self._changed(title=title)

    def with_notes(self, notes: str) -> Record:
        """Return the record with other notes."""
        return self._changed(notes=notes)

    def field(self, kind: str, label: str | None = None) -> Any:
        """Return the first value of the first matching field, or None when there is none.

        The standard fields are looked at before the custom ones.

        Args:
            kind: the field's type, such as ``login`` or ``text``.
            label: compared without regard to case and spaces, so that ``useSSL`` finds ``Use SSL``; None matches any.
        """
        values = self.values(kind, label)
        return values[0] if values else None

    def values(self, kind: str, label: str | None = None) -> list[Any]:
        """Return a copy of all values of the first matching field that has any."""
        for entry in self._matching(kind, label):
            if entry.get("value"):
                return _copied(entry["value"])
        return []

    def set_field(self, kind: str, value: Any, label: str | None = None, *, custom: bool = False) -> Record:
        """Return the record with the field's value replaced, or the field added when it is missing.

        Args:
            kind: the field's type.
            value: the value; a list is taken as the whole list of values, None empties the field.
            label: as in ``field``; the label a new field gets.
            custom: look in, and add to, the custom fields only.
        """
        data = copy.deepcopy(self._data)
        sections = ("custom",) if custom else ("fields", "custom")
        entry = next(_matching(data, sections, kind, label), None)
        if entry is None:
            entry = {"type": kind, "label": label} if label else {"type": kind}
            if data.get(sections[0]) is None:
                data[sections[0]] = []
            data[sections[0]].append(entry)
        entry["value"] = _as_values(value)
        return Record._owning(data)

    def custom(self, label: str) -> str | None:
        """Return the text of the custom field with this label (case does not matter), or None when absent or empty."""
        wanted = label.strip().casefold()
        for entry in self._data.get("custom") or []:
            if str(entry.get("label") or "").strip().casefold() == wanted and entry.get("value"):
                text = _text(entry["value"][0])
                if text is not None:
                    return text
        return None

    def customs(self) -> dict[str, str]:
        """Return the custom fields that are plain text, by label; the first of equal labels wins."""
        found: dict[str, str] = {}
        for entry in self._data.get("custom") or []:
            label = str(entry.get("label") or "").strip()
            text = _text(entry["value"][0]) if entry.get("value") and entry.get("type") == "text" else None
            if label and text is not None:
                found.setdefault(label, text)
        return found

    def flag(self, label: str, default: bool) -> bool:  # noqa: FBT001 - the default is what the call is about
        """Return a custom field that is true or false, such as ``NOOP``.

        Raises:
            InvalidInput: the field holds something else.
        """
        text = self.custom(label)
        return default if text is None else parse_flag(text, f"the custom field {label!r}")

    @property
    def login(self) -> str | None:
        """The login name, None when empty."""
        return _text(self.field("login"))

    @property
    def password(self) -> SecretValue | None:
        """The password, None when empty."""
        text = _secret_text(self.field("password"))
        return SecretValue(text) if text else None

    @property
    def private_key(self) -> SecretValue | None:
        """The private key in PEM, None when empty."""
        text = _secret_text(self.field("secret", "privatePEMKey"))
        return SecretValue(text) if text and text.strip() else None

    @property
    def host(self) -> str | None:
        """The host name or address, None when empty."""
        value = self.field("pamHostname")
        return _text(value.get("hostName")) if isinstance(value, dict) else None

    @property
    def port(self) -> int | None:
        """The port, 1 to 65535, None when empty.

        Raises:
            InvalidInput: the record holds something else.
        """
        value = self.field("pamHostname")
        text = _text(value.get("port")) if isinstance(value, dict) else None
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise InvalidInput(f"the port {text!r} of the record is not a port", remedy="set a number from 1 to 65535")
        return int(text)

    @property
    def scripts(self) -> list[ScriptRef]:
        """The post-rotation scripts in their order.

        Raises:
            InvalidInput: an entry names no file; left out silently, its script would never run.
        """
        return [_script(value) for value in self.values("script", "rotationScripts")]

    def with_scripts(self, scripts: Sequence[ScriptRef]) -> Record:
        """Return the record with these scripts; keys we do not know stay with the file they stood beside."""
        known = {value.get("fileRef"): value for value in self.values("script", "rotationScripts")}
        values = []
        for script in scripts:
            value = known.get(script.file_uid, {})
            value |= {"fileRef": script.file_uid, "recordRef": list(script.record_uids), "command": script.command}
            if script.re_run is not ReRun.NEVER or "reRun" in value:
                value["reRun"] = script.re_run.value
            values.append(value)
        return self.set_field("script", values, "rotationScripts")

    def resources(self) -> PamResources:
        """Return what a configuration holds together; all empty for any other record."""
        value = self.field("pamResources")
        if not isinstance(value, dict):
            return PamResources()
        return PamResources(
            controller_uid=_text(value.get("controllerUid")),
            folder_uid=_text(value.get("folderUid")),
            resource_uids=tuple(str(uid) for uid in value.get("resourceRef") or []),
            admin_credential_uid=_text(value.get("adminCredentialRef")),
            allowed_settings=dict(value.get("allowedSettings") or {}),
        )

    def with_resources(self, resources: PamResources) -> Record:
        """Return the configuration holding these together; keys of pamResources that we do not know stay."""
        old = self.field("pamResources")
        value: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
        value["controllerUid"] = resources.controller_uid or ""
        value["folderUid"] = resources.folder_uid or ""
        value["resourceRef"] = list(resources.resource_uids)
        for key, content in (
            ("adminCredentialRef", resources.admin_credential_uid),
            ("allowedSettings", dict(resources.allowed_settings)),
        ):
            if content or key in value:
                value[key] = content or ({} if key == "allowedSettings" else "")
        return self.set_field("pamResources", value)

    def with_credential(self, *, password: SecretValue | None = None, private_key: SecretValue | None = None) -> Record:
        """Return the record with the parts of the credential that are given; the others stay."""
        record = self
        if password is not None:
            record = record.set_field("password", password)
        if private_key is not None:
            record = record.set_field("secret", private_key, "privatePEMKey")
        return record

    def file_uids(self) -> list[str]:
        """Return the UIDs of the attached files."""
        return [str(uid) for uid in self.values("fileRef")]

    def _matching(self, kind: str, label: str | None) -> Iterator[dict[str, Any]]:
        return _matching(self._data, ("fields", "custom"), kind, label)

    def _changed(self, **changes: Any) -> Record:
        return Record(self._data | changes)

    def __eq__(self, other: object) -> bool:
        return self._data == other._data if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"Record(type={self.type!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Record is not pickled; it holds secrets")


def parse_flag(text: str, what: str) -> bool:
    """Return whether the text says yes or no.

    Args:
        text: ``True``, ``1``, ``yes``, ``on`` or their opposites, in any case.
        what: names the setting in the error.

    Raises:
        InvalidInput: it says neither.
    """
    word = text.strip().casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidInput(f"{what} is neither true nor false", remedy="set it to True or False")


def _decode(source: str | bytes) -> Any:
    try:
        return json.loads(source, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # Without the cause: the decoder's exception carries the whole document, secrets and all.
        raise InvalidInput("the record is not valid JSON", remedy="check its syntax") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_section(section: str, entries: Any) -> None:
    if entries is None:
        return
    if not isinstance(entries, list):
        raise InvalidInput(f"{section!r} of the record is not a list", remedy=f'write "{section}" as a list of fields')
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise InvalidInput(
                f"field {number} of {section!r} has no type", remedy='write it as {"type": …, "value": […]}'
            )
        if not isinstance(entry.get("value", []), list | None):
            raise InvalidInput(
                f"the value of field {number} of {section!r} is not a list", remedy='write it as "value": […]'
            )


def _squeeze(label: str | None) -> str:
    return "".join((label or "").split()).casefold()


def _matching(
    data: Mapping[str, Any], sections: Sequence[str], kind: str, label: str | None
) -> Iterator[dict[str, Any]]:
    wanted = None if label is None else _squeeze(label)
    for section in sections:
        for entry in data.get(section) or []:
            if entry["type"] == kind and (wanted is None or _squeeze(entry.get("label")) == wanted):
                yield entry


def _as_values(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, SecretValue):
        return [value.reveal()]
    return copy.deepcopy(value) if isinstance(value, list) else [value]


def _copied(values: Sequence[Any]) -> list[Any]:
    """Return a copy; of texts, which most values are, without the walk through them that takes ten times as long."""
    return list(values) if all(isinstance(value, str) for value in values) else copy.deepcopy(list(values))


def _text(value: Any) -> str | None:
    if isinstance(value, bool | int | float):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _secret_text(value: Any) -> str | None:
    # Never stripped: a blank at either end may belong to a password.
    return value if isinstance(value, str) else None


def _script(value: Any) -> ScriptRef:
    file_uid = value.get("fileRef") if isinstance(value, dict) else None
    if not isinstance(file_uid, str) or not file_uid:
        raise InvalidInput(
            "a rotation script of the record names no file", remedy="remove it and attach the script again"
        )
    return ScriptRef(
        file_uid=file_uid,
        record_uids=tuple(str(uid) for uid in value.get("recordRef") or []),
        command=str(value.get("command") or ""),
        # Our own key beside the vendor's: a client that drops it, or writes something else, leaves the safe setting.
        re_run=ReRun.IF_UNKNOWN if value.get("reRun") == ReRun.IF_UNKNOWN else ReRun.NEVER,
    )
