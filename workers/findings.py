"""The objects of a discovery, in the form that results are sealed and records are made from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.base import Finding, Service, Unseen
from pam_jobs.ids import b64url

__all__ = ["Findings", "object_uid"]

_RECORD_TYPES: Final = {
    "directories": "pamDirectory", "machines": "pamMachine", "databases": "pamDatabase", "users": "pamUser",
}  # fmt: skip
_NO_LOGIN_SHELLS: Final = ("/nologin", "/false", "/sync", "/shutdown", "/halt")


def object_uid(configuration_uid: str, kind: str, identity: str) -> str:
    """Return the uid of a discovered object: the same thing found twice is the same object."""
    digest = hashlib.sha256(f"{configuration_uid}{kind}{identity}".lower().encode()).digest()
    if digest[0] >> 2 == 62:  # the first character would be a dash
        digest = bytes([digest[0] & 0x03]) + digest[1:]
    return b64url(digest[:16])


@dataclass(kw_only=True)
class Findings:
    """What one run found and what it could not look at."""

    configuration_uid: str
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)  # by uid, parents before children
    coverage: list[dict[str, str]] = field(default_factory=list)

    def machine(self, host: str, port: int, service: Service) -> str:
        """Add a machine and return its uid."""
        system = service.facts.get("os", "linux")
        fields = [_field("pamHostname", {"hostName": host, "port": str(port)}, "pamHostname")]
        fields.append(_field("text", system, "operatingSystem"))
        facts = {"name": host, "banner": service.banner, **service.facts}
        item = {
            "host": host, "ip": host, "port": port, "os": system, "provider_region": None, "provider_group": None,
            "is_gateway": False, "allows_admin": True, "admin_reason": None, "facts": facts,
        }  # fmt: skip
        return self._add("machines", host, host, f"Machine {host}", fields, item)

    def database(self, host: str, port: int, service: Service) -> str:
        """Add a database server and return its uid."""
        use_ssl = service.facts.get("tls") == "yes"
        fields = [
            _field("pamHostname", {"hostName": host, "port": str(port)}, "pamHostname"),
            _field("checkbox", use_ssl, "useSSL"),
            _field("databaseType", service.protocol, "databaseType"),
        ]
        item = {
            "host": host, "ip": host, "port": port, "type": service.protocol, "use_ssl": use_ssl, "database": None,
            "provider_region": None, "provider_group": None, "allows_admin": True, "admin_reason": None,
        }  # fmt: skip
        name = f"{host}:{port}"
        return self._add("databases", name, name, f"Database {service.protocol} {name}", fields, item)

    def directory(self, host: str, port: int, service: Service) -> str:
        """Add a directory server and return its uid."""
        use_ssl = service.facts.get("tls") == "yes"
        kind, domain = service.facts.get("directory_type", "openldap"), service.facts.get("domain") or None
        fields = [
            _field("pamHostname", {"hostName": host, "port": str(port)}, "pamHostname"),
            _field("checkbox", use_ssl, "useSSL"),
            _field("text", domain, "domainName"),
            _field("directoryType", kind, "directoryType"),
        ]
        item = {
            "host": host, "ip": host, "port": port, "type": kind, "use_ssl": use_ssl, "domain": domain,
            "provider_region": None, "provider_group": None, "allows_admin": True, "admin_reason": None,
        }  # fmt: skip
        name = f"{host}:{port}"
        return self._add("directories", name, name, f"Directory {name}", fields, item)

    def computer(self, parent_uid: str, finding: Finding) -> str:
        """Add a machine that a directory lists and return its uid; no port of it was tried."""
        facts = finding.facts
        host = str(facts.get("dns_name") or finding.name)
        system = "windows" if str(facts.get("operating_system", "")).lower().startswith("windows") else None
        fields = [_field("pamHostname", {"hostName": host, "port": ""}, "pamHostname")]
        fields.append(_field("text", system, "operatingSystem"))
        item = {
            "host": host, "ip": None, "port": None, "os": system, "provider_region": None, "provider_group": None,
            "is_gateway": False, "allows_admin": True, "admin_reason": None, "facts": dict(facts),
        }  # fmt: skip
        return self._add("machines", host, host, f"Machine {host}", fields, item, parent_uid)

    def opened(self, uid: str, record_uid: str) -> None:
        """Take note of the credential that could log in to a resource."""
        self.objects[uid]["access_user"] = {"record_uid": record_uid}

    def user(self, parent_uid: str, finding: Finding, known: Mapping[str, str]) -> None:
        """Add an account of a resource.

        Args:
            parent_uid: the resource's object.
            finding: the account.
            known: login to record uid, of the credentials that were used.
        """
        parent = self.objects[parent_uid]
        managed = bool(finding.facts.get("managed"))  # the directory sets the password itself
        active = not (finding.facts.get("locked") or finding.facts.get("disabled"))
        fields = [
            _field("login", finding.name, "login"),
            _field("password", None, "password"),
            _field("secret", None, "privatePEMKey"),
            _field("text", finding.facts.get("distinguished_name"), "distinguishedName"),
            _field("text", None, "connectDatabase"),
            _field("checkbox", managed, "managed"),
        ]
        item = {
            "user": finding.name, "alt_user": None, "dn": finding.facts.get("distinguished_name"), "database": None, "managed": managed, "active": active,
            "expired": bool(finding.facts.get("expired")), "source": "local", "password": None, "private_key": None,
            "private_key_passphrase": None, "could_login": finding.name in known, "facts": dict(finding.facts),
        }  # fmt: skip
        identity = f"{finding.name}{parent['id']}"
        title = f"User {finding.name} on {parent['name']}"
        self._add("users", identity, finding.name, title, fields, item, parent_uid)

    def unseen(self, what: str, cause: str, detail: str = "") -> None:
        """Add something that could not be looked at."""
        self.coverage.append({"what": what, "cause": cause, "detail": detail})

    def take(self, parent_uid: str, seen: Finding | Unseen, known: Mapping[str, str]) -> bool:
        """Add what a connector yields; False for an account of the system that nobody logs in to."""
        if isinstance(seen, Unseen):
            self.unseen(f"{self.objects[parent_uid]['name']}: {seen.what}", seen.cause, seen.detail)
            return True
        if seen.kind == "machines":
            self.computer(parent_uid, seen)
            return True
        if seen.kind == "units":
            self.objects[parent_uid]["item"].setdefault("organizational_units", []).append(seen.name)
            return True
        shell = str(seen.facts.get("shell", ""))
        if seen.facts.get("system") and shell.endswith(_NO_LOGIN_SHELLS):
            return False
        self.user(parent_uid, seen, known)
        return True

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind there are, and how much was not seen."""
        kinds = Counter(found["object_type_value"] for found in self.objects.values())
        return {kind: kinds.get(kind, 0) for kind in _RECORD_TYPES} | {"unseen": len(self.coverage)}

    def _add(
        self,
        kind: str,
        identity: str,
        name: str,
        title: str,
        fields: list[dict[str, Any]],
        item: dict[str, Any],
        parent_uid: str | None = None,
    ) -> str:
        uid = object_uid(self.configuration_uid, kind, identity)
        self.objects.setdefault(
            uid,
            {
                "uid": uid,
                "object_type_value": kind,
                "record_type": _RECORD_TYPES[kind],
                "parent_uid": parent_uid,
                "id": identity,
                "name": name,
                "title": title,
                "description": f"found by discovery: {title}",
                "fields": fields,
                "item": item,
                "access_user": None,
                "missing_since_ts": None,
            },
        )
        return uid


def _field(kind: str, value: Any, label: str) -> dict[str, Any]:
    return {"type": kind, "label": label, "value": [] if value is None else [value]}
