"""From records to a target and the connectors that speak to it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, TypeVar

import structlog

from connectors.base import Connector, Target
from pam_jobs.errors import InvalidInput, Unreachable, Unsupported, WrongAccount, WrongTarget
from pam_jobs.records.portmap import PortMapping, protocol_for
from pam_jobs.records.record import Record, parse_flag

__all__ = ["kind_of", "mapping_of", "options_of", "target_of", "through"]

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")
_OF_USERS: Final = frozenset({"Shell", "Kerberos"})


def mapping_of(configuration: Record) -> PortMapping:
    """Return the configuration's port mapping.

    Raises:
        InvalidInput: it is not in the known form.
    """
    return PortMapping.parse("\n".join(str(value) for value in configuration.values("multiline", "portMapping")))


def target_of(resource: Record, configuration: Record, user: Record | None = None) -> Target:
    """Return where the resource is and what it speaks.

    Custom fields of the resource, and after them of the configuration, steer the connector: ``Host Key Policy`` is also
    found as ``host_key_policy``. Of the user record only ``Shell`` and ``Kerberos`` count, so that whoever owns an account
    cannot weaken how its machine is checked.

    Raises:
        InvalidInput: the resource has no host or port, the port's protocol is not known, or a host key cannot be read.
    """
    host = resource.host
    if host is None:
        raise InvalidInput("the resource has no host name", remedy="set the host of the resource's record")
    protocol = protocol_for(
        resource.port, mapping_of(configuration), resource.type, _text(resource.field("databaseType"))
    )
    options = options_of(configuration, resource)
    options |= {label: text for label, text in (user.customs() if user else {}).items() if label in _OF_USERS}
    if system := _text(resource.field("text", "operatingSystem")):
        options["operatingSystem"] = system
    options |= _of_directory(resource, configuration, options)
    return Target(
        host=host,
        port=resource.port or 0,
        protocol=protocol,
        use_ssl=_flag(resource.field("checkbox", "useSSL")) or _flag(resource.field("checkbox", "sslVerification")),
        database=_text(resource.field("text", "connectDatabase")),
        host_keys=_host_keys(resource),
        options=options,
    )


def _of_directory(resource: Record, configuration: Record, customs: Mapping[str, str]) -> dict[str, str]:
    """Return what the records say of a directory: its kind, its domain, its other controllers, whose accounts count."""
    told = {
        "directory_type": _text(resource.field("directoryType")) if resource.type == "pamDirectory" else None,
        "domain_name": _text(resource.field("text", "domainName")),
        "alternative_ips": _text(resource.field("multiline", "alternativeIPs")),
        "user_match": customs.get("user_match")
        or _text(resource.field("text", "userMatch"))
        or _text(configuration.field("text", "userMatch")),
    }
    return {name: text for name, text in told.items() if text}


def kind_of(target: Target) -> str | None:
    """Return what tells targets of one protocol apart: the operating system, or the kind of directory; None: unknown."""
    return target.options.get("operatingSystem") or target.options.get("directory_type")


def through(chain: Sequence[Connector], protocol: str, action: Callable[[Connector], _Result]) -> _Result:
    """Return what the first connector achieves; the next one is asked only when nothing was applied.

    Raises:
        Unsupported: no connector speaks the protocol, or none can do this.
        PamJobsError: of the action.
    """
    told: Unsupported | Unreachable | None = None
    for connector in chain:
        try:
            return action(connector)
        except WrongAccount:
            raise  # it is the same account for the next one
        except (Unsupported, Unreachable) as error:
            _log.info("connector_passed", connector=connector.name, cause=error.code)
            # That a later one was not set up for this target explains less than why the first one failed; that the target
            # is another connector's explains nothing.
            if told is None or isinstance(told, WrongTarget) or isinstance(error, Unreachable):
                told = error
    if told is not None:
        raise told
    raise Unsupported(
        f"no connector for {protocol} is installed", remedy="install the extra of the gateway that brings it"
    )


def options_of(*records: Record) -> dict[str, str]:
    """Return the custom fields that steer a connector, those of later records before those of earlier ones."""
    options: dict[str, str] = {}
    for record in records:
        customs = record.customs()
        options |= customs | {"_".join(label.casefold().split()): text for label, text in customs.items()}
    return options


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return parse_flag(value, "a checkbox of the resource") if isinstance(value, str) and value.strip() else False


def _host_keys(resource: Record) -> tuple[str, ...]:
    """Return the SSH host keys on record: the custom field ``Host Key``, and what a connection's settings hold.

    Raises:
        InvalidInput: one cannot be read.
    """
    lines = (resource.custom("Host Key") or "").splitlines()
    settings = resource.field("pamSettings")
    connection = settings.get("connection") if isinstance(settings, dict) else None
    if isinstance(connection, dict) and isinstance(connection.get("hostKey"), str):
        lines += connection["hostKey"].splitlines()
    told = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return tuple(dict.fromkeys(_host_key(line) for line in told))


def _host_key(line: str) -> str:
    """Return "type base64" of a line as ``ssh-keyscan``, a ``.pub`` file or a bare key has it.

    What cannot be read is refused: a key on record that is passed over would let any server in.
    """
    words = line.split()
    for kind, key in pairwise(words):
        if kind.startswith(("ssh-", "ecdsa-sha2-", "sk-")) and not words[0].startswith("@"):
            return f"{kind} {key}"
    with suppress(ValueError):
        blob = base64.b64decode(words[0], validate=True)
        end = 4 + int.from_bytes(blob[:4])
        kind = blob[4:end].decode("ascii")
        if len(words) == 1 and len(blob) > end and kind.startswith(("ssh-", "ecdsa-sha2-", "sk-")):
            return f"{kind} {words[0]}"
    raise InvalidInput(
        "a host key of the resource cannot be read", remedy="write it as ssh-keyscan prints it: ssh-ed25519 AAAA…"
    )
