"""Telling a directory from other services, and what it did not show."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from connectors.base import Deadline, Service, Unseen
from connectors.ldap.errors import (
    ADMIN_LIMIT,
    FAILURES,
    NO_SUCH_OBJECT,
    SIZE_LIMIT,
    TIME_LIMIT,
    LdapRefusal,
    map_error,
)
from connectors.ldap.link import Entry, Link
from connectors.ldap.names import parents_of

__all__ = ["ACTIVE_DIRECTORY", "domain_of", "product_of", "recognised", "unseen_of"]

ACTIVE_DIRECTORY: Final = "1.2.840.113556.1.4.800"
"""Capability that the root DSE of every domain controller tells."""

_LIMITS: Final[dict[int | None, str]] = {
    SIZE_LIMIT: "size limit", TIME_LIMIT: "time limit", ADMIN_LIMIT: "limits for this login",
}  # fmt: skip
_LOOK_SECONDS: Final = 3.0  # one of the two looks


def recognised(host: str, port: int, deadline: Deadline) -> Service | None:
    """Return the service when it answers as a directory does: in the clear first, then within TLS."""
    for protocol in ("ldap", "ldaps"):
        if deadline.is_over:
            break
        limit = Deadline(deadline.remaining(_LOOK_SECONDS))
        try:
            raw = socket.create_connection((host, port), timeout=limit.remaining())
        except OSError:
            return None
        with raw:
            root = _look(raw, host, limit, is_secure=protocol == "ldaps")
        if root is not None:
            tls = "yes" if protocol == "ldaps" or _offers_tls(root) else "no"
            return Service(protocol=protocol, banner=product_of(root), facts={"tls": tls, **_kind_of(root)})
    return None


def _kind_of(root: Entry) -> dict[str, str]:
    if ACTIVE_DIRECTORY not in root.all("supportedCapabilities"):
        return {"directory_type": "openldap"}
    return {"directory_type": "active_directory", "domain": domain_of(root), "name": root.first("dnsHostName") or ""}


def domain_of(root: Entry) -> str:
    """Return the name in the DNS of the domain that a controller serves; nothing where it does not tell."""
    within = parents_of(f"CN=x,{root.first('defaultNamingContext') or ''}")
    return ".".join(value for kind, value in within if kind == "dc")


def product_of(root: Entry) -> str:
    """Return the server's software, as far as its root DSE tells."""
    told = " ".join(filter(None, (root.first("vendorName"), root.first("vendorVersion"))))
    if ACTIVE_DIRECTORY in root.all("supportedCapabilities"):
        level = root.first("domainControllerFunctionality") or "?"
        return f"Active Directory ({told or 'Windows'}, functional level {level})"
    return told or ("OpenLDAP" if "OpenLDAProotDSE" in root.all("objectClass") else "LDAP server")


def _offers_tls(root: Entry) -> bool:
    return "1.3.6.1.4.1.1466.20037" in root.all("supportedExtension")


def _look(raw: socket.socket, host: str, deadline: Deadline, *, is_secure: bool) -> Entry | None:
    """Return the root DSE, or None from what is no directory."""
    link = Link(raw, deadline)
    try:
        if is_secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # looking is not trusting
            link.secure(context, host)
        return link.root()
    except FAILURES:
        return None
    finally:
        link.close()


def unseen_of(base: str, error: Exception) -> Unseen:
    """Return what the end of a list of accounts means.

    Args:
        base: where the accounts are.
        error: one of ``FAILURES``.

    Raises:
        TargetError: the list was not ended by the server for a reason of its own.
    """
    code = error.code if isinstance(error, LdapRefusal) else None
    if code == NO_SUCH_OBJECT:
        return Unseen(what=base, cause="not_permitted", detail="the rotator sees nothing there")
    if code not in _LIMITS:
        raise map_error(error, sent=False) from None
    detail = f"the server's {_LIMITS[code]} ended the list"
    return Unseen(what=f"more accounts of {base}", cause="refused", detail=detail)
