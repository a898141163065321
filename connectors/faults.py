"""A TCP proxy that breaks connections on purpose, at a chosen byte: what a network does to a rotation, on demand.

It listens on loopback only, forwards to one target, and misbehaves when told to::

    with FaultProxy("127.0.0.1", 5432) as proxy:
        proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT, pattern=b"ALTER ROLE"))
        ...  # connect to proxy.port

``REQUEST_SENT``: the triggering bytes reach the target, then the fault happens, so the answer never arrives.
``ANSWER_RECEIVED``: the target's answer reached the proxy and is kept from the client.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

__all__ = ["Action", "Fault", "FaultProxy", "When"]

_CHUNK_BYTES = 65536
_DRAIN_SECONDS = 2.0  # how long a cut waits for the target to have read what it was sent


class Action(StrEnum):
    """What happens to the connection."""

    CUT = "cut"  # closed in an orderly way on both sides
    RESET = "reset"  # the client sees a reset
    HANG = "hang"  # stays open, and nothing passes any more
    DELAY = "delay"  # everything waits once, then goes on
    HALF_CLOSE = "half_close"  # the client sees the end of the target's answers; its own bytes still pass
    DROP_BEFORE = "drop_before"  # the triggering bytes do not pass, then as CUT


class When(StrEnum):
    """On which bytes a fault is triggered."""

    CONNECTED = "connected"  # before any byte passes
    REQUEST_SENT = "request_sent"  # bytes from the client, after they were passed on
    ANSWER_RECEIVED = "answer_received"  # bytes from the target, before they are passed on


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. Without pattern and count the very next bytes trigger it."""

    action: Action
    when: When
    pattern: bytes | None = None  # the bytes that trigger it, within what passes in that direction
    after_bytes: int = 0  # how many bytes pass in that direction, since the fault was armed, before it triggers
    seconds: float = 1.0  # length of a DELAY
    times: int | None = 1  # how often it happens; None: always


@dataclass(kw_only=True)
class _Armed:
    fault: Fault
    left: int | None
    passed: int = 0
    tail: bytes = b""  # so that a pattern split between two reads is seen

    def triggers(self, data: bytes) -> bool:
        """Take note of the bytes and say whether they trigger the fault."""
        self.passed += len(data)
        if self.fault.pattern is not None:
            seen = self.tail + data
            self.tail = seen[-(len(self.fault.pattern) - 1) :] if len(self.fault.pattern) > 1 else b""
            return self.fault.pattern in seen
        return self.passed > self.fault.after_bytes


class FaultProxy:
    """A proxy in front of one target; use it as a context manager."""

    def __init__(self, host: str, port: int) -> None:
        """Prepare; nothing listens before the context is entered.

        Args:
            host: of the target.
            port: of the target.
        """
        self.host = "127.0.0.1"
        self.port = 0
        self.connections = 0  # accepted so far
        self.struck = 0  # faults that happened
        self._target = (host, port)
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        self._hanging = threading.Event()  # set: those that hang now end
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def arm(self, fault: Fault) -> None:
        """Let the fault happen from now on, on open connections too."""
        with self._lock:
            self._armed.append(_Armed(fault=fault, left=fault.times))

    def disarm(self) -> None:
        """Forget every fault; connections that hang stay so."""
        with self._lock:
            self._armed.clear()

    def mend(self) -> None:
        """Forget every fault, and end the connections that hang, as a network does that comes back without them."""
        self.disarm()
        with self._lock:
            self._hanging.set()
            self._hanging = threading.Event()

    def close(self) -> None:
        """Close the listener and every connection."""
        self._is_open.clear()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
            self._listener.close()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.host, 0))
        self._listener.settimeout(1.0)
        self.port = self._listener.getsockname()[1]
        self._is_open.set()
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="fault-proxy")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        while self._is_open.is_set() and listener is not None:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            client.settimeout(None)
            self.connections += 1
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Carry one connection until it ends or a fault ends it."""
        fault = self._next(When.CONNECTED, b"")
        if fault is not None and not self._survives(fault, client, None):
            return
        try:
            target = socket.create_connection(self._target, timeout=5.0)
        except OSError:
            _reset(client)
            return
        target.settimeout(None)
        with contextlib.suppress(OSError):
            self._carry(client, target)
        for side in (client, target):
            side.close()

    def _carry(self, client: socket.socket, target: socket.socket) -> None:
        with selectors.PollSelector() as open_sides:  # select() knows no descriptor above 1023
            for side, other in ((client, target), (target, client)):
                open_sides.register(side, selectors.EVENT_READ, data=(side, other))
            while open_sides.get_map() and self._is_open.is_set():
                for ready, _ in open_sides.select(0.1):
                    side, other = ready.data
                    data = side.recv(_CHUNK_BYTES)
                    if not data:
                        open_sides.unregister(side)
                        with contextlib.suppress(OSError):
                            other.shutdown(socket.SHUT_WR)
                    elif not self._pass(data, client, target, from_client=side is client):
                        return

    def _pass(self, data: bytes, client: socket.socket, target: socket.socket, *, from_client: bool) -> bool:
        """Pass the bytes on, with the fault they trigger; say whether the connection goes on."""
        fault = self._next(When.REQUEST_SENT if from_client else When.ANSWER_RECEIVED, data)
        receiver = target if from_client else client
        if fault is None:
            receiver.sendall(data)
            return True
        if from_client and fault.action is not Action.DROP_BEFORE:
            receiver.sendall(data)
        survives = self._survives(fault, client, target)
        if survives and not from_client:
            receiver.sendall(data)
        return survives

    def _next(self, when: When, data: bytes) -> Fault | None:
        """Return the fault that these bytes trigger."""
        with self._lock:
            for armed in self._armed:
                if armed.fault.when is not when or armed.left == 0:
                    continue
                if when is When.CONNECTED or armed.triggers(data):
                    if armed.left is not None:
                        armed.left -= 1
                    self.struck += 1
                    return armed.fault
        return None

    def _survives(self, fault: Fault, client: socket.socket, target: socket.socket | None) -> bool:
        """Let the fault happen; say whether bytes go on passing afterwards."""
        match fault.action:
            case Action.DELAY:
                time.sleep(fault.seconds)
                return True
            case Action.HANG:
                let_go = self._hanging
                while self._is_open.is_set() and not let_go.wait(0.05):
                    pass
                client.close()
            case Action.HALF_CLOSE:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                return target is not None
            case Action.RESET:
                _reset(client)
            case Action.CUT | Action.DROP_BEFORE:
                client.close()
        if target is not None:
            _drain(target)
        return False


def _reset(side: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


def _drain(target: socket.socket) -> None:
    """End the target's side in order: closing at once would reset it, and it might never read its last request."""
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
        target.settimeout(_DRAIN_SECONDS)
        while target.recv(_CHUNK_BYTES):
            pass
    target.close()
