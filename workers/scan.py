"""Finds what listens in a network: bounded sockets, one short try each."""

from __future__ import annotations

import errno
import ipaddress
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from pam_jobs.errors import InvalidInput

__all__ = ["ScanResult", "addresses_of", "scan"]

_MOST_ADDRESSES: Final = 65_536  # a /16
_TICK_SECONDS: Final = 0.05
_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
_CHUNK: Final = 2048  # probes between two looks at the lease

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(kw_only=True)
class ScanResult:
    """What a scan saw."""

    open: list[tuple[str, int]] = field(default_factory=list)
    closed: int = 0  # refused: the machine is there
    silent: int = 0  # no answer in time
    failed: int = 0  # no route, or the system refused
    skipped: int = 0  # not tried, because the time was used up


def addresses_of(text: str) -> list[str]:
    """Return the addresses of one or more CIDR blocks, separated by commas, spaces or lines.

    Raises:
        InvalidInput: one is not a block, there is none, or they hold more than 65536 addresses.
    """
    networks: list[_Network] = []
    for part in text.replace(",", " ").split():
        try:
            networks.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise InvalidInput(
                f"{part!r} in the network CIDR is not a network", remedy="write it as 192.0.2.0/24"
            ) from None
    if not networks:
        raise InvalidInput("the configuration names no network", remedy="set its network CIDR, such as 192.0.2.0/24")
    total = sum(network.num_addresses for network in networks)
    if total > _MOST_ADDRESSES:
        raise InvalidInput(
            f"the network CIDR holds {total} addresses, more than {_MOST_ADDRESSES} (a /16)",
            remedy="discover it in smaller parts",
        )
    found: dict[str, None] = {}
    for network in networks:
        hosts: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address] = network.hosts()
        found.update((str(address), None) for address in hosts)
    return list(found)


def scan(
    addresses: Sequence[str],
    ports: Sequence[int],
    *,
    in_flight: int = 256,
    timeout_seconds: float = 1.0,
    between: Callable[[], bool] = lambda: True,
) -> ScanResult:
    """Try every address on every port and return what answered.

    Args:
        addresses: to try.
        ports: of each address.
        in_flight: sockets at a time, at least 1.
        timeout_seconds: of one try.
        between: called every few thousand tries; False ends the scan early, what it raises ends it at once.
    """
    result = ScanResult()
    waiting: dict[socket.socket, tuple[str, int, float]] = {}
    todo = iter(product(addresses, ports))
    count = 0
    with selectors.DefaultSelector() as selector:
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < in_flight:
                    more = _begin(next(todo, None), selector, waiting, result, timeout_seconds)
                    count += 1
                    if count % _CHUNK == 0 and not between():
                        more = False
                        result.skipped = sum(1 for _ in todo)
                for key, _ in selector.select(_TICK_SECONDS if waiting else 0):
                    _settle(key.fileobj, selector, waiting, result)  # type: ignore[arg-type]
                for connection in list(_overdue(waiting)):
                    result.silent += 1
                    _drop(connection, selector, waiting)
        finally:
            for connection in list(waiting):
                _drop(connection, selector, waiting)
    return result


def _begin(
    address: tuple[str, int] | None,
    selector: selectors.BaseSelector,
    waiting: dict[socket.socket, tuple[str, int, float]],
    result: ScanResult,
    timeout_seconds: float,
) -> bool:
    if address is None:
        return False
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect((host, port))
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        result.failed += 1
        return True
    selector.register(connection, selectors.EVENT_WRITE)
    waiting[connection] = (host, port, time.monotonic() + timeout_seconds)
    return True


def _settle(
    connection: socket.socket,
    selector: selectors.BaseSelector,
    waiting: dict[socket.socket, tuple[str, int, float]],
    result: ScanResult,
) -> None:
    host, port, _ = waiting[connection]
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error == 0:
        result.open.append((host, port))
    elif error in _REFUSED:
        result.closed += 1
    else:
        result.failed += 1
    _drop(connection, selector, waiting)


def _overdue(waiting: dict[socket.socket, tuple[str, int, float]]) -> Iterator[socket.socket]:
    now = time.monotonic()
    for connection, (_, _, until) in waiting.items():
        if now < until:
            return  # they stand in the order in which they were begun
        yield connection


def _drop(
    connection: socket.socket,
    selector: selectors.BaseSelector,
    waiting: dict[socket.socket, tuple[str, int, float]],
) -> None:
    waiting.pop(connection, None)
    selector.unregister(connection)
    connection.close()
