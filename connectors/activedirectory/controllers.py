"""Reaching a domain controller: the record's host, then its alternative IPs, as long as nothing was sent."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from connectors.activedirectory.addresses import addresses_of
from connectors.activedirectory.errors import map_error
from connectors.base import Deadline, Target
from connectors.ldap.errors import FAILURES
from connectors.ldap.link import Link, is_clear_text
from connectors.ldap.look import ACTIVE_DIRECTORY
from pam_jobs.errors import HostKeyMismatch, TargetError, Unreachable, Unsupported, WrongTarget

__all__ = ["reach"]

_READ_ONLY: Final = "1.2.840.113556.1.4.1920"  # the controller keeps passwords of some accounts only, and changes none
_NAME_DIFFERS: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def reach(target: Target, deadline: Deadline, *, first: str | None = None, writable: bool = False) -> Link:
    """Return a connection to the first controller that answers; nobody is logged in.

    Args:
        target: where, and how the certificate is checked.
        deadline: ends all tries.
        first: the address to try before the others.
        writable: pass over read-only controllers.

    Raises:
        Unsupported: the options are wrong, the controller only reads, or there is no domain controller (WrongTarget).
        HostKeyMismatch: a certificate is not trusted.
        Unreachable: no controller answers.
    """
    if is_clear_text(target):
        remedy = "remove the custom field LDAP Security"
        raise Unsupported("Active Directory takes passwords over TLS alone", remedy=remedy)
    failures: list[TargetError] = []
    for address in addresses_of(target, first):
        if failures and deadline.is_over:
            break
        try:
            link = _connect(target, address, deadline)
        except FAILURES as error:
            failures.append(map_error(error, sent=False))
            continue
        with _closed_on_error(link):
            try:
                if not writable or _takes_writes(link, address, deadline):
                    return link
            except FAILURES as error:
                failures.append(map_error(error, sent=False))
            else:
                remedy = "name a controller that takes writes"
                failures.append(Unsupported(f"{address} is a read-only domain controller", remedy=remedy))
        link.close()
    raise _most_telling(failures)


def _connect(target: Target, address: str, deadline: Deadline) -> Link:
    """Connect to one address; its certificate is for the address, or for the domain of the record."""
    place = replace(target, host=address)
    domain = target.options.get("domain_name", "").strip()
    try:
        return Link.connect(place, deadline)
    except ssl.SSLCertVerificationError as error:
        if not domain or error.verify_code not in _NAME_DIFFERS:
            raise
        return Link.connect(place, deadline, name=domain)


def _takes_writes(link: Link, address: str, deadline: Deadline) -> bool:
    link.use(deadline)
    told = link.root().all("supportedCapabilities")
    if ACTIVE_DIRECTORY not in told:
        remedy = "set directoryType of the resource to openldap, or correct its host and port"
        raise WrongTarget(f"{address} is no domain controller of Active Directory", remedy=remedy)
    return _READ_ONLY not in told


@contextlib.contextmanager
def _closed_on_error(link: Link) -> Iterator[None]:
    try:
        yield
    except BaseException:
        link.close()
        raise


def _most_telling(failures: list[TargetError]) -> TargetError:
    """Return what to tell of several controllers: a certificate that is not trusted first, then what answered at all."""
    for kind in (HostKeyMismatch, Unsupported):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0] if failures else Unreachable("there was no time left to reach a domain controller")
