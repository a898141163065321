"""Syslog over TCP and TLS (RFC 5424, RFC 6587, RFC 5425)."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from pam_jobs.audit.sinks.base import DeliveryRefused, Sink, SinkEvent, SinkSettings
from pam_jobs.audit.sinks.rfc5424 import format_message
from pam_jobs.audit.sinks.tls import check_ca, client_context
from pam_jobs.errors import DeliveryFailed
from pam_jobs.secret import SecretValue

__all__ = ["SyslogSettings", "SyslogSink"]

_CONNECT_SECONDS = 10.0
_SEND_SECONDS = 20.0
_TLS_CLOSE_SECONDS = 5.0
_CLOSE_SECONDS = 10.0
_ACKNOWLEDGE_TRIES = 200
_ACKNOWLEDGE_PAUSE_SECONDS = 0.01
_HOST = re.compile(r"^[A-Za-z0-9_.:-]{1,253}$")


class SyslogSettings(SinkSettings):
    """Where the messages go and what they look like."""

    host: str
    port: int = Field(ge=1, le=65_535)
    transport: Literal["tcp", "tls"] = "tls"
    framing: Literal["octet-counting", "newline"] = "octet-counting"
    message: Literal["json", "text"] = "json"
    ca: str | None = None  # PEM; None trusts the system's authorities
    hostname: str | None = None  # HOSTNAME of the messages; None takes this machine's name
    app_name: str = Field("pam-jobs", min_length=1, max_length=48)
    sd_id: str = Field("pam-jobs@32473", pattern=r"^[!#-<>-\\^-~]{1,32}$")

    @field_validator("host")
    @classmethod
    def _name(cls, value: str) -> str:
        if not _HOST.match(value):
            raise ValueError("must be a host name or an address, without scheme and port")
        return value

    @field_validator("ca")
    @classmethod
    def _ca(cls, value: str | None) -> str | None:
        return check_ca(value)


class SyslogSink(Sink):
    """Sends a batch over a connection of its own and waits for the receiver to close it.

    Syslog has no acknowledgement. What TCP offers is the end of the connection: this side says that it has no more
    (TLS close, then FIN), and the receiver, which reads to the end before it closes, answers with its own end. Only then
    has the receiver taken the batch out of the kernel's buffers; a receiver that dies earlier resets the connection, and
    the batch is sent again. What a receiver loses after reading, out of its own memory, no syslog sender can know.
    """

    kind = "syslog"
    settings_type = SyslogSettings

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings = settings

    @classmethod
    def build(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> Self:  # noqa: ARG003
        """Return the sink of these settings."""
        return cls(SyslogSettings.model_validate(settings))

    def deliver(self, events: Sequence[SinkEvent]) -> None:
        """Send the batch and wait until the receiver has read it."""
        where = f"{self._settings.host}:{self._settings.port}"
        data = b"".join(self._frame(event) for event in events)
        try:
            with self._connect() as connection:
                connection.settimeout(_SEND_SECONDS)
                connection.sendall(data)
                _finish(connection)
        except ssl.SSLCertVerificationError as error:
            raise DeliveryRefused(f"the certificate of {where} is not trusted: {error.verify_message}") from error
        except TimeoutError as error:
            raise DeliveryFailed(f"{where} did not take the events in time") from error
        except OSError as error:
            raise DeliveryFailed(f"{where}: {error.strerror or type(error).__name__}") from error

    def _frame(self, event: SinkEvent) -> bytes:
        message = format_message(
            event,
            hostname=self._settings.hostname or socket.gethostname(),
            app_name=self._settings.app_name,
            identifier=self._settings.sd_id,
            as_json=self._settings.message == "json",
        )
        if self._settings.framing == "newline":
            return message + b"\n"
        return str(len(message)).encode() + b" " + message

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._settings.host, self._settings.port), timeout=_CONNECT_SECONDS)
        if self._settings.transport == "tcp":
            return plain
        try:
            return client_context(self._settings.ca).wrap_socket(plain, server_hostname=self._settings.host)
        except BaseException:
            plain.close()
            raise


def _finish(connection: socket.socket) -> None:
    """Say that nothing follows, and return once the receiver has read everything.

    Raises:
        OSError: the connection was reset, or the receiver did not read to the end in time.
    """
    if isinstance(connection, ssl.SSLSocket):
        _close_tls(connection)
    connection.settimeout(_CLOSE_SECONDS)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):  # what a receiver says is not syslog; only its end counts
        pass
    _wait_until_taken(connection)


def _close_tls(connection: ssl.SSLSocket) -> None:
    connection.settimeout(_TLS_CLOSE_SECONDS)
    try:
        connection.unwrap()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError):
        return  # it ends TCP without the courtesy of ending TLS; the end of TCP is what is waited for
    except OSError as error:
        if error.errno or isinstance(error, ssl.SSLError):  # reset, broken pipe, or an alert: it refused us
            raise


def _wait_until_taken(connection: socket.socket) -> None:
    # The receiver's end may have been on its way before it had our last bytes (it died). Its machine then answers
    # those with a reset; only when all of them are acknowledged did the end follow our own.
    for _ in range(_ACKNOWLEDGE_TRIES):
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        if not _unacknowledged(connection):
            return
        time.sleep(_ACKNOWLEDGE_PAUSE_SECONDS)
    raise TimeoutError


def _unacknowledged(connection: socket.socket) -> int:
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
