"""Where WinRM answers on a domain's controllers, and which of these places may be logged in to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from connectors.activedirectory.addresses import addresses_of
from connectors.base import Deadline, Target
from connectors.windows.errors import mapped
from connectors.windows.kerberos import kerberos_demand
from connectors.windows.winrm_link import Endpoint, offers
from pam_jobs.errors import HostKeyMismatch, TargetError, Unsupported

__all__ = ["find_place", "login_of", "places_of"]

_SECURE_PORT: Final = 5986
_PLAIN_PORT: Final = 5985
_LOOK_SECONDS: Final = 5.0  # for one place to say that it is there
_OFF: Final = frozenset({"off", "no", "false", "none", "0"})


def places_of(target: Target) -> Iterator[Target]:
    """Yield the places to try, controller by controller: HTTPS on 5986, then sealed messages on 5985.

    A place that no record named is logged in to only where the controller proves itself first: by its certificate, or by
    Kerberos. Else whoever shuts LDAPS gets a login by NTLM, which can be passed on to other servers.

    Args:
        target: of the resource, with the custom field ``WinRM Port``.

    Raises:
        Unsupported: WinRM is switched off, or the field cannot be read.
    """
    named = _named(target)
    demand = kerberos_demand(target)
    for address in addresses_of(target):
        options = dict(target.options)
        if address != target.host:  # the name in the DNS is that of the resource's own host
            options.pop("kerberos_host", None)
        options.setdefault("kerberos_kdc", address)
        if domain := _domain_of(target):
            options.setdefault("kerberos_realm", domain)
        if options.get("tls_verify", "").casefold() == "ca":
            options["tls_verify"] = "full"
        for port, is_secure in [named] if named else [(_SECURE_PORT, True), (_PLAIN_PORT, False)]:
            place = Target(host=address, port=port, protocol="winrm", use_ssl=is_secure, options=options)
            if named or (is_secure and options.get("tls_verify", "").casefold() != "none"):
                yield place
            elif demand is not False:
                yield replace(place, options={**options, "Kerberos": "True"})


def _named(target: Target) -> tuple[int, bool] | None:
    """Return the port that the records name and whether it is HTTPS; None: they name none."""
    if target.protocol == "winrm":
        return target.port, target.use_ssl or target.port == _SECURE_PORT
    text = target.options.get("winrm_port", "").strip().casefold()
    if not text:
        return None
    if text in _OFF:
        raise Unsupported("WinRM is switched off for this directory", remedy="clear the custom field 'WinRM Port'")
    scheme, colon, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536 and scheme in {"", "http", "https"}):
        raise Unsupported(f"{text[:20]!r} is no value of WinRM Port", remedy="write a port, http: and a port, or off")
    return int(number), scheme == "https" or (not colon and int(number) != _PLAIN_PORT)


def _domain_of(target: Target) -> str:
    return target.options.get("domain_name", "").strip()


def find_place(target: Target, deadline: Deadline) -> Target:
    """Return the first place where WinRM answers; nobody is logged in.

    Raises:
        Unsupported: there is none, beside LDAPS.
        TargetError: the same, of a resource whose port is WinRM's.
    """
    failures: list[TargetError] = []
    for place in places_of(target):
        if failures and deadline.is_over:
            break
        try:
            with mapped(sent=False):
                told = offers(Endpoint.of(place), Deadline(deadline.remaining(_LOOK_SECONDS)))
        except TargetError as error:
            failures.append(error)
            continue
        if told is not None:
            return place
        failures.append(Unsupported(f"port {place.port} does not answer as WinRM does", remedy="check WinRM Port"))
    if target.protocol == "winrm" and failures:
        raise next((each for each in failures if isinstance(each, HostKeyMismatch)), failures[0])
    said = failures[0].message if failures else "its records leave no login that would be safe"
    raise Unsupported(
        f"no domain controller can be reached over WinRM either: {said}",
        remedy="mend LDAPS; or let WinRM listen, and name its port in the custom field 'WinRM Port'",
    )


def login_of(login: str, target: Target) -> str:
    """Return a login as WinRM takes it: a bare one gets the domain of the record."""
    domain = _domain_of(target)
    return login if "\\" in login or "@" in login or "=" in login or not domain else f"{domain}\\{login}"
