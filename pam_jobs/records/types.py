"""Record types: new records from what a person types (``FIELD=VALUE``), and the questions asked of a type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pam_jobs.errors import InvalidInput
from pam_jobs.records.catalogue import (
    PAM_USER,
    TYPES,
    FieldSpec,
    fields_of,
    is_configuration,
    is_resource,
    validate,
)
from pam_jobs.records.generator import generate_password
from pam_jobs.records.record import Record, parse_flag
from pam_jobs.records.schedule import parse_schedule

__all__ = [
    "PAM_USER",
    "TYPES",
    "assign",
    "is_configuration",
    "is_resource",
    "new_record",
    "split_assignment",
    "validate",
]

_SECTIONS: Final = {"f": "fields", "fields": "fields", "c": "custom", "custom": "custom"}
_HOST_PARTS: Final = {
    "host": "hostName",
    "hostname": "hostName",
    "pamhostname.hostname": "hostName",
    "pamhostname.host": "hostName",
    "port": "port",
    "pamhostname.port": "port",
}
_JSON_MARK: Final = "$JSON:"
_GENERATE: Final = "$GEN"
_CUSTOM_KINDS: Final = frozenset(
    {
        *("text", "secret", "multiline", "checkbox", "url", "email", "phone", "date", "json", "note", "pinCode"),
        *("host", "login", "password", "oneTimeCode", "keyPair"),
    }
)


def split_assignment(text: str) -> tuple[str, str]:
    """Return name and value of ``FIELD=VALUE``; the value may hold ``=`` itself.

    Raises:
        InvalidInput: there is no ``=``, or nothing before it. The text is not repeated: it may be a secret.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InvalidInput("a field was given without a value", remedy="write FIELD=VALUE, such as login=alice")
    return name.strip(), value


def new_record(
    record_type: str, title: str, assignments: Sequence[tuple[str, str]] = (), *, complete: bool = True
) -> Record:
    """Return a new record with all standard fields of its type in order.

    Names of fields: the standard ones by label or type (``login``, ``privatePEMKey``, ``databaseType``), ``host`` and
    ``port`` (also ``pamHostname.hostName``, ``pamHostname.port``), ``notes``, ``type.label`` as in
    ``secret.privatePEMKey``, and ``c.type.label`` for custom fields as in ``c.text.NOOP``. A value ``$JSON:…`` is
    decoded; ``password=$GEN`` makes one. A multiline field given again gets another line.

    Args:
        record_type: such as ``pamUser``.
        title: not empty.
        assignments: names and values in order.
        complete: refuse a record that misses a required field; False while a configuration is being put together.

    Raises:
        InvalidInput: unknown type or field, a wrong value, or a required field is missing.
    """
    fields: list[dict[str, Any]] = []
    for spec in fields_of(record_type):
        if not spec.legacy:
            entry: dict[str, Any] = {"type": spec.kind}
            fields.append(entry | ({"label": spec.label} if spec.label else {}) | {"value": []})
    record = Record({"type": record_type, "title": title.strip(), "notes": "", "fields": fields, "custom": []})
    if is_configuration(record_type):
        record = record.set_field("schedule", [{"type": "ON_DEMAND"}], "defaultRotationSchedule")
    record = assign(record, assignments)
    if complete:
        validate(record)
    return record


def assign(record: Record, assignments: Sequence[tuple[str, str]]) -> Record:
    """Return the record with the fields set; see ``new_record`` for their names.

    Raises:
        InvalidInput: unknown field, a field given twice, or a wrong value.
    """
    given: set[str] = set()
    for name, value in assignments:
        record, field_id, repeats = _assign_one(record, name.strip(), value, given)
        if field_id in given and not repeats:
            raise InvalidInput(f"the field {name!r} is given twice", remedy="give it once")
        given.add(field_id)
    return record


def _assign_one(record: Record, name: str, value: str, given: set[str]) -> tuple[Record, str, bool]:
    """Return the changed record, what was set, and whether it may be set again."""
    if name.casefold() == "notes":
        return record.with_notes(value), "notes", False
    part = _HOST_PARTS.get(name.removeprefix("f.").removeprefix("fields.").casefold())
    specs = fields_of(record.type)
    if part is not None and any(spec.kind == "pamHostname" for spec in specs):
        return _set_host(record, part, value), f"pamHostname.{part}", False
    section, spec = _resolve(name, specs, record.type)
    field_id = f"{section}.{spec.kind}.{spec.label}".casefold()
    content = _content(spec, value)
    repeats = spec.kind == "multiline"
    label = spec.label or None
    custom = section == "custom"
    if repeats and field_id in given:
        content = f"{_present(record, spec, custom=custom)}\n{content}"
    return record.set_field(spec.kind, content, label, custom=custom), field_id, repeats


def _present(record: Record, spec: FieldSpec, *, custom: bool) -> str:
    value = record.custom(spec.label) if custom else record.field(spec.kind, spec.label or None)
    return str(value or "")


def _resolve(name: str, specs: Sequence[FieldSpec], record_type: str) -> tuple[str, FieldSpec]:
    """Return the section and the field that a name means."""
    head, _, rest = name.partition(".")
    section = _SECTIONS.get(head.casefold()) if rest else None
    path = rest if section else name
    kind, _, label = path.partition(".")
    label = label.strip().strip('"').strip()
    if section != "custom":
        for spec in specs:
            by_label = bool(spec.label) and path.casefold() == spec.label.casefold()
            by_kind = kind.casefold() == spec.kind.casefold() and label.casefold() == spec.label.casefold()
            if by_label or by_kind:
                return "fields", spec
    known = next((known for known in _CUSTOM_KINDS if known.casefold() == kind.casefold()), None)
    if known is not None and label and section != "fields":
        return "custom", FieldSpec(known, label)
    names = ", ".join(dict.fromkeys(spec.name for spec in specs if not spec.legacy))
    raise InvalidInput(
        f"{name!r} is not a field of {record_type}",
        remedy=f"use one of {names}, notes, or c.text.LABEL for a custom field",
    )


def _set_host(record: Record, part: str, value: str) -> Record:
    old = record.field("pamHostname")
    host: dict[str, Any] = old if isinstance(old, dict) else {"hostName": "", "port": ""}
    changed = record.set_field("pamHostname", host | {part: value.strip()})
    _ = changed.port  # raises when it is none
    return changed


def _content(spec: FieldSpec, value: str) -> Any:
    """Return the field's value as it stands in the record."""
    if value.startswith(_JSON_MARK) or spec.kind in {"schedule", "pamResources", "script"}:
        return _decoded(spec, value.removeprefix(_JSON_MARK))
    if spec.kind == "checkbox":
        return parse_flag(value, spec.name)
    if spec.kind == "pamHostname":
        host, _, port = value.strip().rpartition(":") if value.count(":") == 1 else (value.strip(), "", "")
        return {"hostName": host, "port": port}
    if spec.kind == "password" and value == _GENERATE:
        return generate_password()
    return value


def _decoded(spec: FieldSpec, text: str) -> Any:
    if spec.kind == "schedule":
        return json.loads(parse_schedule(text).to_json())
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidInput(f"the value of {spec.name} is not valid JSON", remedy="check its syntax") from None
