"""Reads of the vault with the vendor's SDK, in real time, over kept connections."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import structlog
from keeper_secrets_manager_core import SecretsManager
from keeper_secrets_manager_core.crypto import CryptoUtils
from keeper_secrets_manager_core.dto.payload import KSMHttpResponse
from keeper_secrets_manager_core.exceptions import KeeperError
from requests.utils import get_environ_proxies
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64
from pam_jobs.errors import AccessDenied, InvalidInput, VaultError, VaultUnavailable
from pam_jobs.ids import new_uid
from pam_jobs.jobs import wire
from pam_jobs.records.record import Record
from workers.pool import make_pool, post
from workers.ports import VaultFile, VaultRecord
from workers.storage import GatewayStorage

__all__ = ["SdkVault"]

_log = structlog.get_logger(__name__)
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 20.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LARGEST_FILE_BYTES: Final = 16 * 1024 * 1024
_AWAY: Final = frozenset({500, 502, 503, 504})


class _Throttled(VaultUnavailable):
    """The vault asks to wait."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("the vault throttles this gateway")
        self.retry_after_seconds = retry_after_seconds


class SdkVault:
    """The gateway's view of the vault; shared between threads."""

    def __init__(
        self,
        storage: GatewayStorage,
        ca_file: Path | None = None,
        *,
        patience_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the SDK's client; nothing is sent yet.

        Args:
            storage: the identity.
            ca_file: CA of the router's certificate; None: the system's.
            patience_seconds: how long a read is repeated while the router is away.
            monotonic: the clock, in seconds.
            sleep: waits.
        """
        self._ca_file = ca_file
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._sessions = threading.local()
        self._carrying = threading.local()
        self._storage = storage
        self._pool: tuple[str, HTTPSConnectionPool] | None = None
        self._sdk = SecretsManager(config=storage, custom_post_function=self._post)

    def fetch(self, uids: Iterable[str]) -> dict[str, VaultRecord]:
        """Return those of the records that the application can read, as they are now; one request.

        Raises:
            VaultUnavailable: no answer in time.
            AccessDenied: the device was removed or its access ended.
            VaultError: the vault refused, or a record cannot be opened.
        """
        wanted = list(dict.fromkeys(uids))
        if not wanted:
            return {}  # an empty filter would read everything
        response = self._patiently(lambda: self._sdk.get_secrets(wanted, full_response=True))
        return {record.uid: _converted(record) for record in response.records or [] if record.uid in wanted}

    def fetch_along(self, carry: Callable[[wire.VaultRead], bytes | None]) -> dict[str, VaultRecord]:
        """Let another call carry the SDK's read, and return the records that came back with its answer.

        Args:
            carry: makes the call once; returns the sealed answer to the read, None where there is none.

        Returns:
            What could be read; the rest is to be fetched, which also tells why.

        Raises:
            Exception: what ``carry`` raises, and nothing else: what it did must not get lost.
        """
        carried = _Carried(carry)
        self._carrying.call = carried
        try:
            response = self._sdk.get_secrets([new_uid()], full_response=True)  # the router names the records
            return {record.uid: _converted(record) for record in response.records or []}
        except Exception as error:  # noqa: BLE001 - whatever the SDK meets, the call was made
            if carried.failure is not None:
                raise carried.failure from None
            if not carried.is_unanswered:
                _log.warning("records_not_read_along", error=type(error).__name__)
            return {}
        finally:
            self._carrying.call = None

    def greet(self) -> None:
        """Make one read that brings no record; the first one of a device spends its one-time token.

        Raises:
            VaultUnavailable, AccessDenied, VaultError: as ``fetch``.
        """
        self.fetch([new_uid()])

    def download(self, file: VaultFile) -> bytes:
        """Return the content of a file.

        Raises:
            VaultUnavailable: no answer in time.
            VaultError: the file is gone or was changed.
        """
        return aes.decrypt(self._patiently(lambda: self._get(file)), file.key)

    def _get(self, file: VaultFile) -> bytes:
        # The SDK's own download waits for ever and takes an error page for the content.
        timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        proxies = get_environ_proxies(file.url)
        with self._session().get(
            file.url, verify=str(self._ca_file or "") or True, timeout=timeout, stream=True, proxies=proxies
        ) as response:
            if response.status_code in _AWAY:
                raise VaultUnavailable(f"the router answered a download with status {response.status_code}")
            if response.status_code != 200:
                raise VaultError(
                    f"the file {file.name} cannot be downloaded (status {response.status_code})",
                    remedy="attach the file again",
                )
            content = bytearray()
            for chunk in response.iter_content(65536):
                content += chunk
                if len(content) > _LARGEST_FILE_BYTES:
                    raise VaultError(f"the file {file.name} is larger than 16 MiB", remedy="attach a smaller file")
            return bytes(content)

    def _patiently(self, read: Callable[[], Any]) -> Any:
        end = self._monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return read()
            except _Throttled as error:
                reason, wait = "throttled", max(error.retry_after_seconds, pause)
            except (
                HTTPError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError,
            ) as error:  # fmt: skip
                reason, wait = type(error).__name__, pause
            except VaultUnavailable as error:
                reason, wait = error.message, pause
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if status not in _AWAY:
                    raise VaultError(f"the vault refused the read with status {status}") from None
                reason, wait = f"status {status}", pause
            except KeeperError as error:
                raise _refusal(str(error)) from None
            if self._monotonic() + wait >= end:
                raise VaultUnavailable(
                    f"the vault could not be read ({reason})",
                    remedy="check that the router runs and can be reached from the gateway",
                )
            self._sleep(wait * (0.75 + secrets.randbelow(50) / 100))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # a .netrc would replace the signature
            self._sessions.session = session
        return session

    def _post(self, url: str, transmission_key: Any, sealed: Any, _verify: Any, _proxy: Any) -> KSMHttpResponse:
        """Send the SDK's request over a kept connection; the SDK waits minutes when throttled, we have a deadline."""
        if (carried := getattr(self._carrying, "call", None)) is not None:
            return KSMHttpResponse(200, carried.answer(transmission_key, sealed), None)
        place = urlsplit(url)
        headers = {
            "Content-Type": "application/octet-stream",
            "PublicKeyId": str(transmission_key.publicKeyId),
            "TransmissionKey": base64.b64encode(transmission_key.encryptedKey).decode(),
            "Authorization": "Signature " + base64.b64encode(sealed.signature).decode(),
        }
        status, content = post(self._connections(place.netloc), place.path, sealed.encrypted_payload, headers)
        if status == 200:
            return KSMHttpResponse(status, content, None)
        problem = _json_of(content)
        code = problem.get("result_code", problem.get("error"))
        if code == "throttled":
            raise _Throttled(_number(problem.get("retry_after")))
        if code == "key":  # the SDK would switch keys and try again without a pause, for ever
            raise VaultError(
                "the router does not know the key in the gateway's configuration",
                remedy="create the gateway again and use its new configuration",
            )
        return KSMHttpResponse(status, content, _Refusal(status_code=status, text=content.decode(errors="replace")))

    def _connections(self, host: str) -> HTTPSConnectionPool:
        """Return those to the router; made with the first read, since the SDK knows the host."""
        if self._pool is None or self._pool[0] != host:
            made = make_pool(host, self._ca_file, connect_seconds=_CONNECT_SECONDS, answer_seconds=_READ_SECONDS)
            self._pool = host, made
        return self._pool[1]


class _Unanswered(Exception):
    """The call was made, and its answer holds no records."""


class _Carried:
    """One call that carries the SDK's request."""

    def __init__(self, carry: Callable[[wire.VaultRead], bytes | None]) -> None:
        self._carry = carry
        self.failure: Exception | None = None  # of the call
        self.is_unanswered = False
        self._is_made = False

    def answer(self, transmission_key: Any, sealed: Any) -> bytes:
        """Make the call and return what the SDK opens; it is made once, whatever the SDK wants."""
        if self._is_made:
            raise _Unanswered
        self._is_made = True
        try:
            read = wire.VaultRead(
                key_id=str(transmission_key.publicKeyId),
                transmission_key=transmission_key.encryptedKey,
                signature=sealed.signature,
                payload=sealed.encrypted_payload,
            )
            content = self._carry(read)
        except Exception as error:
            self.failure = error
            raise
        if content is None:
            self.is_unanswered = True
            raise _Unanswered
        return content


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """What the SDK reads of an answer that it makes an error of."""

    status_code: int
    text: str
    reason: str = ""


def _json_of(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _number(value: Any) -> float:
    try:
        return max(0.0, float(value or 0))
    except (TypeError, ValueError):
        return 0.0


def _refusal(text: str) -> VaultError | AccessDenied:
    if "access_denied" in text or "invalid_client" in text:
        return AccessDenied(
            "the vault refuses this gateway", remedy="check with `pam gateway list` that it was not removed"
        )
    return VaultError("the vault refused the read", remedy="look at the router's audit log")


def _converted(found: Any) -> VaultRecord:
    try:
        record = Record.parse(found.raw_json)
    except InvalidInput as error:
        raise VaultError(f"the record {found.uid} is not in a known form: {error.message}") from None
    key = bytes(found.record_key_bytes)
    files = {}
    for file in found.files:
        uid = str(file.f.get("fileUid"))
        files[uid] = VaultFile(
            uid=uid,
            name=str(file.name or file.title or uid),
            title=str(file.title or file.name or uid),
            url=str(file.f.get("url")),
            key=bytes(CryptoUtils.decrypt_aes(from_base64(file.f["fileKey"]), key)),
        )
    return VaultRecord(uid=str(found.uid), record=record, key=key, revision=int(found.revision or 0), files=files)
