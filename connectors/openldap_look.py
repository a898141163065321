"""Telling a directory from other services, without a login."""

from __future__ import annotations

import socket
import ssl

from connectors.base import Deadline, Service
from connectors.openldap_errors import FAILURES
from connectors.openldap_link import Entry, Link

__all__ = ["recognised"]

_LOOK_SECONDS = 3.0  # one of the two looks


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
            is_openldap = "OpenLDAProotDSE" in root.all("objectClass")
            product = root.first("vendorName") or ("OpenLDAP" if is_openldap else "LDAP")
            tls = "yes" if protocol == "ldaps" or _offers_tls(root) else "no"
            return Service(protocol=protocol, banner=product, facts={"tls": tls})
    return None


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
