"""Tags of a server: by them the router sees that two records are one server, and nothing else of it.

A tag is a keyed hash of one place where the server can be reached: host and port as the record has them, each address
that the host has now, and those of a directory's further controllers. Two records are one server when they have a tag in
common. The key comes from the application's, which every instance of the gateway has and the router has not; so it has to
guess and cannot try whether it guessed right.

Two records of one server have no tag in common, and its administrators may be changed at once,

- by gateways with different applications;
- where the ports differ: of a pooler or a forwarded port, of a directory at 389 and 636, of a machine by SSH and WinRM;
- where one address is translated to another, or is this machine's own and the other record says localhost;
- of clusters whose members only the server itself tells: Redis, MongoDB, databases with replicas;
- where the name has other addresses each time it is looked up, and one of the records has an address.

The other way round, equal addresses in two networks that gateways of one application reach count as one server, as do
databases that share a proxy's address. Their administrators are changed one after the other.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connectors.activedirectory.addresses import addresses_of
from connectors.base import Target
from connectors.saas.connector import PROTOCOL as SAAS
from pam_jobs.jobs.wire import MOST_TAGS

__all__ = ["LookUp", "TargetTags"]

LookUp = Callable[[str], Sequence[str]]
"""Returns a name's addresses; raises OSError or UnicodeError where it has none. May take long."""

_log = structlog.get_logger(__name__)
_PURPOSE: Final = b"pam-jobs tags of targets 1"
_BYTES: Final = 16
_SECONDS: Final = 3.0
_LOCALHOST: Final = "localhost"


def _look_up(host: str) -> Sequence[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class TargetTags:
    """Makes the tags of this gateway's targets; shared between threads."""

    def __init__(self, application_key: bytes, *, look_up: LookUp = _look_up, seconds: float = _SECONDS) -> None:
        """Derive the key.

        Args:
            application_key: 32 bytes that the router has only sealed.
            look_up: asks for a name's addresses.
            seconds: how long all the names of a target may take together.
        """
        self._key = HKDF(hashes.SHA256(), 32, None, _PURPOSE).derive(application_key)
        self._look_up = look_up
        self._seconds = seconds

    def of(self, target: Target) -> list[str]:
        """Return the target's tags, 1 to ``MOST_TAGS``, the same in each process that sees the same addresses.

        A name that has no address, or none in time, is told by the name alone: the connector says what is wrong with it.
        """
        hosts = [_plain(host) for host in addresses_of(target)]
        places = [f"{host}:{target.port}" for host in hosts]
        if target.protocol != SAAS:  # services of many customers share a few addresses
            places += sorted(f"{address}:{target.port}" for address in self._addresses(hosts))
        if target.options.get("directory_type") and (domain := target.options.get("domain_name")):
            places.insert(0, f"domain {_plain(domain)}")  # an account is the same on each of its controllers
        return [self._tag(place) for place in dict.fromkeys(places)][:MOST_TAGS]

    def _tag(self, place: str) -> str:
        return urlsafe_b64encode(hmac.digest(self._key, place.encode(), hashlib.sha256)[:_BYTES]).decode().rstrip("=")

    def _addresses(self, hosts: Iterable[str]) -> set[str]:
        """Return the addresses of those hosts that are names."""
        found: dict[str, Sequence[str]] = {}
        asked = [
            threading.Thread(target=self._ask, args=(host, found), daemon=True) for host in hosts if _is_name(host)
        ]
        for each in asked:
            each.start()
        end = time.monotonic() + self._seconds
        for each in asked:  # nothing else ends a name service that is silent; the thread ends when that gives up
            each.join(max(0.0, end - time.monotonic()))
        return _of_all(dict(found))

    def _ask(self, host: str, found: dict[str, Sequence[str]]) -> None:
        try:
            found[host] = [_plain(address) for address in self._look_up(host)]
        except (OSError, UnicodeError) as error:
            _log.info("host_not_resolved", error=type(error).__name__)


def _of_all(found: Mapping[str, Sequence[str]]) -> set[str]:
    return {address for addresses in found.values() for address in addresses}


def _plain(host: str) -> str:
    """Return a name or an address in its one form; all that means this machine is ``localhost``."""
    text = host.strip().casefold().removeprefix("[").removesuffix("]").rstrip(".")
    address = _address(text)
    if address is None:
        return _LOCALHOST if text.endswith(f".{_LOCALHOST}") else text
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(
            int(address)
        )  # a scope names the interface, which differs by machine
    return _LOCALHOST if address.is_loopback or address.is_unspecified else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    return host != _LOCALHOST and _address(host) is None
