"""Splunk's HTTP Event Collector."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self

import httpx
from pydantic import Field, field_validator

from pam_jobs.audit.sinks.base import DeliveryRefused, Sink, SinkEvent, SinkSettings
from pam_jobs.audit.sinks.tls import check_ca, client_context
from pam_jobs.errors import DeliveryFailed, InvalidInput
from pam_jobs.secret import SecretValue

__all__ = ["SplunkSettings", "SplunkSink"]

_PATH = "/services/collector"
_BODY_BYTES = 512 * 1024  # below the smallest limit a receiver has had by default
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
_TOKEN = re.compile(r"^[\x21-\x7e]{1,256}\Z")
_TEMPORARY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class SplunkSettings(SinkSettings):
    """Where the collector is and how events are filed there."""

    url: str  # https://host:8088, the path is added; or the full address
    host: str | None = Field(None, max_length=255)  # None takes this machine's name
    source: str = Field("pam-jobs", min_length=1, max_length=255)
    index: str | None = Field(None, pattern=r"^[a-z0-9_][a-z0-9_-]{0,79}$")
    ca: str | None = None  # PEM; None trusts the system's authorities

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            raise ValueError("is not an address") from None
        if url.userinfo or url.query or url.fragment:
            raise ValueError("must have no user, query or fragment; the token is given apart")
        if not url.host or not (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
            raise ValueError("must begin with https://, for the token goes with every request")
        return str(url.copy_with(path=_PATH)) if url.path in {"", "/"} else str(url)

    @field_validator("ca")
    @classmethod
    def _ca(cls, value: str | None) -> str | None:
        return check_ca(value)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SplunkSink(Sink):
    """Posts events; a request counts once the collector answers 200 with code 0."""

    kind = "splunk"
    settings_type = SplunkSettings
    needs_secret = True

    def __init__(self, settings: SplunkSettings, token: SecretValue) -> None:
        self._settings = settings
        self._token = token

    @classmethod
    def check(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> dict[str, Any]:
        """Return the settings complete with defaults, the token having been looked at too."""
        if secret and not _TOKEN.match(secret.reveal()):
            raise InvalidInput(
                "the token has characters that no collector issues", remedy="copy the token again, without spaces"
            )
        return super().check(settings, secret)

    @classmethod
    def build(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> Self:
        """Return the sink of these settings.

        Raises:
            DeliveryRefused: there is no token.
        """
        if secret is None:
            raise DeliveryRefused("the sink has no token", remedy="remove the sink and add it again with its token")
        return cls(SplunkSettings.model_validate(settings), secret)

    def deliver(self, events: Sequence[SinkEvent]) -> None:
        """Post the batch and check each answer."""
        with httpx.Client(
            verify=client_context(self._settings.ca),
            timeout=_TIMEOUT,
            trust_env=False,
            headers={"Authorization": f"Splunk {self._token.reveal()}", "Content-Type": "application/json"},
        ) as client:
            for body in self._bodies(events):
                self._post(client, body)

    def _post(self, client: httpx.Client, body: bytes) -> None:
        try:
            answer = client.post(self._settings.url, content=body)
        except httpx.TimeoutException as error:
            raise DeliveryFailed(f"{self._settings.url} did not answer in time") from error
        except httpx.HTTPError as error:
            # the text names the cause (refused, certificate, …) and never the headers
            raise DeliveryFailed(f"{self._settings.url} cannot be reached: {error}") from error
        code = _collector_code(answer)
        if answer.status_code == HTTPStatus.OK and code == 0:  # a page of some proxy is 200 too, and took nothing
            return
        text = f"the collector answered {answer.status_code}" + ("" if code is None else f" with code {code}")
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in _TEMPORARY:
            raise DeliveryFailed(text)
        if answer.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise DeliveryRefused(f"{text}: it does not accept the token", remedy="give a token that it accepts")
        raise DeliveryRefused(text, remedy="check the collector's address and the index")

    def _bodies(self, events: Sequence[SinkEvent]) -> Iterator[bytes]:
        lines: list[bytes] = []
        size = 0
        for event in events:
            line = json.dumps(self._envelope(event), ensure_ascii=False, separators=(",", ":")).encode(
                errors="backslashreplace"
            )
            if lines and size + len(line) > _BODY_BYTES:
                yield b"\n".join(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        yield b"\n".join(lines)

    def _envelope(self, event: SinkEvent) -> dict[str, Any]:
        envelope: dict[str, Any] = {
            "time": round(event.created_at.timestamp(), 3),
            "host": self._settings.host or socket.gethostname(),
            "source": self._settings.source,
            "sourcetype": "_json",
            "event": dict(event.body),
        }
        if self._settings.index:
            envelope["index"] = self._settings.index
        return envelope


def _collector_code(answer: httpx.Response) -> int | None:
    """Return the collector's own code; None when the answer is not a collector's."""
    try:
        document = answer.json()
    except ValueError:
        return None
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, int) else None
