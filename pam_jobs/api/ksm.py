"""The Keeper Secrets Manager endpoints: what the vendor's SDKs talk to, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.orm import Session

from pam_jobs.api.context import AppContext, remote_address
from pam_jobs.api.problems import status_of
from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.crypto.blob import to_base64
from pam_jobs.crypto.keystore import SERVER_KEY_ID
from pam_jobs.errors import NotFound, PamJobsError
from pam_jobs.jobs.wire import VaultRead
from pam_jobs.vault import ksm_access, ksm_envelope, ksm_folders, ksm_read, ksm_write
from pam_jobs.vault import ksm_payloads as p
from pam_jobs.vault.ksm_access import Caller
from pam_jobs.vault.ksm_envelope import BadRequest, Expired, InvalidClientVersion, Opened, Throttled, WrongKey
from pam_jobs.vault.throttle import RequestWindow

__all__ = ["PREFIX", "CarriedRead", "Limits", "install", "limits_of", "refused", "serve"]

PREFIX = "/api/rest/sm/v1/"
_WINDOW_SECONDS = 10.0
_BAD_REQUEST, _FORBIDDEN = 400, 403
_Action = Callable[[AppContext, Session, Caller, Any], dict[str, Any] | None]


class Limits:
    """How often a device may ask, and how many refusals of an address are written down."""

    def __init__(self, context: AppContext) -> None:
        per_window = context.settings.ksm_requests_per_10s
        self.requests = RequestWindow(per_window, _WINDOW_SECONDS, context.clock.monotonic)
        self.refusals = RequestWindow(per_window, _WINDOW_SECONDS, context.clock.monotonic)


def install(app: FastAPI, context: AppContext) -> None:
    """Give the application its counters."""
    app.state.ksm_limits = Limits(context)


class CarriedRead:
    """A read of the vault that comes with another call of the same device, in that call's transaction.

    Whatever stands against it is no error of that call: nothing is answered, and the device reads by itself and is told.
    """

    def __init__(self, context: AppContext, opened: Opened, payload: p.GetSecret) -> None:
        self._context = context
        self._opened = opened
        self._payload = payload
        self._answer: dict[str, Any] | None = None

    @classmethod
    def opened(cls, context: AppContext, read: VaultRead, client_id: str) -> CarriedRead | None:
        """Return the read; None where it cannot be opened, or is another device's."""
        headers = {
            "publickeyid": read.key_id,
            "transmissionkey": to_base64(read.transmission_key),
            "authorization": f"Signature {to_base64(read.signature)}",
        }
        try:
            opened = ksm_envelope.open_request(context.keys.server, headers, read.payload)
            payload = p.GetSecret.model_validate(opened.payload)
        except (PamJobsError, ValidationError):
            return None
        return cls(context, opened, payload) if payload.clientId == client_id else None

    def take(self, session: Session, record_uids: list[str], remote_address: str | None) -> None:
        """Read these records, whatever the request names.

        Args:
            session: the transaction of the call that carries the read.
            record_uids: of the records.
            remote_address: where the call comes from.
        """
        context, payload = self._context, self._payload.model_copy(update={"requestedRecords": record_uids})
        asked = _Exchange("get_secret", context, None, remote_address)
        try:
            caller = asked.caller(session, self._opened, payload)
            self._answer = _get_secret(context, session, caller, payload)
        except PamJobsError:
            self._answer = None

    def sealed(self) -> bytes | None:
        """Return the answer as the SDK opens it; None where there is none."""
        return None if self._answer is None else ksm_envelope.seal(self._answer, self._opened.transmission_key)


@dataclass
class _Exchange:
    """One request, and as much as is known of who sent it."""

    endpoint: str
    context: AppContext
    limits: Limits | None  # None: it comes with another call
    remote_address: str | None
    version: str | None = None
    device_name: str | None = None
    application_uid: str | None = None
    record_uid: str | None = None

    @property
    def actor(self) -> Actor:
        return ksm_access.unknown_caller(self.remote_address, self.version, self.device_name or "unknown")

    def caller(self, session: Session, opened: Opened, payload: p.ClientPayload) -> Caller:
        """Return the device, having checked that it may ask, and ask now."""
        ksm_access.check_version(payload.clientVersion)
        self.version = payload.clientVersion
        client, application, owner_public_key = ksm_access.find(session, payload.clientId)
        self.device_name, self.application_uid = client.name, application.uid
        was_bound = client.public_key is not None
        has_bound = ksm_access.authenticate(
            session,
            self.context.clock,
            opened,
            client,
            public_key=payload.publicKey if isinstance(payload, p.GetSecret) else None,
            remote_address=self.remote_address,
        )
        if client.gateway_uid is None and self.limits is not None:  # gateways ask as often as they rotate
            self._throttle(self.limits, payload.clientId)
        caller = Caller(
            client=client,
            application=application,
            owner_public_key=owner_public_key,
            actor=self.actor,
            has_bound=has_bound,
        )
        if not was_bound:
            ksm_access.connected(session, self.context.clock, caller)
        return caller

    def _throttle(self, limits: Limits, client_id: str) -> None:
        admission = limits.requests.admit(f"{self.endpoint} {client_id}")
        if admission.retry_after_seconds is not None:
            raise Throttled(admission.retry_after_seconds, is_first=admission.is_first_refusal)


def limits_of(request: Request) -> Limits:
    """Return the application's counters."""
    limits: Limits = request.app.state.ksm_limits
    return limits


def refused(
    context: AppContext, limits: Limits, actor: Actor, error: PamJobsError, **fields: str | None
) -> PamJobsError:
    """Write the refusal into the audit log, in a transaction of its own, and return what is answered.

    An address that is refused all the time is told to wait, and its refusals are no longer written down one by one:
    else anybody could fill the log.
    """
    if isinstance(error, Throttled):
        if not error.is_first:
            return error
    else:
        admission = limits.refusals.admit(actor.remote_address or "")
        if admission.retry_after_seconds is not None:
            error = Throttled(admission.retry_after_seconds, is_first=admission.is_first_refusal)
            if not error.is_first:
                return error
    event = "app_client_expired" if isinstance(error, Expired) else "app_client_access_denied"
    with context.database.transaction() as session:
        record_event(session, context.clock, actor, event, result_code=error.code, **fields)
    return error


def _error_answer(error: PamJobsError) -> JSONResponse:
    body: dict[str, Any] = {"error": error.code, "message": error.message, "additional_info": error.remedy or ""}
    status = status_of(error)
    match error:
        case WrongKey():
            status, body["key_id"] = _BAD_REQUEST, SERVER_KEY_ID
        case Throttled():
            # 403 is what clients wait and come back on; 429 would be an error to them.
            status, body["retry_after"] = _FORBIDDEN, round(error.retry_after_seconds, 3)
        case BadRequest() | InvalidClientVersion():
            status = _BAD_REQUEST
    return JSONResponse(body, status_code=status)


def _payload(kind: type[p.ClientPayload], opened: Opened) -> p.ClientPayload:
    try:
        return kind.model_validate(opened.payload)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{field}: {first['msg']}", remedy="correct the named member") from error


def _files_url(context: AppContext) -> str:
    return f"https://{context.settings.public_host}/api/files/"


def _get_secret(context: AppContext, session: Session, caller: Caller, payload: p.GetSecret) -> dict[str, Any]:
    return ksm_read.get_secret(session, context.clock, caller, payload, file_url=_files_url(context))


def _get_folders(_context: AppContext, session: Session, caller: Caller, _payload: p.ClientPayload) -> dict[str, Any]:
    return ksm_read.get_folders(session, caller)


def _add_file(context: AppContext, session: Session, caller: Caller, payload: p.AddFile) -> dict[str, Any]:
    return ksm_write.add_file(
        session,
        context.clock,
        caller,
        payload,
        upload_url=_files_url(context),
        max_bytes=context.settings.max_file_bytes,
    )


def _timed(service: Callable[[Session, Clock, Caller, Any], dict[str, Any] | None]) -> _Action:
    """Give a service the clock it asks for."""
    return lambda context, session, caller, payload: service(session, context.clock, caller, payload)


_ENDPOINTS: dict[str, tuple[type[p.ClientPayload], _Action]] = {
    "get_secret": (p.GetSecret, _get_secret),
    "get_folders": (p.ClientPayload, _get_folders),
    "create_secret": (p.CreateSecret, _timed(ksm_write.create_secret)),
    "update_secret": (p.UpdateSecret, _timed(ksm_write.update_secret)),
    "finalize_secret_update": (p.CompleteTransaction, _timed(ksm_write.finalize)),
    "rollback_secret_update": (p.CompleteTransaction, _timed(ksm_write.roll_back)),
    "delete_secret": (p.DeleteSecret, _timed(ksm_write.delete_secret)),
    "create_folder": (p.CreateFolder, _timed(ksm_folders.create_folder)),
    "update_folder": (p.UpdateFolder, _timed(ksm_folders.update_folder)),
    "delete_folder": (p.DeleteFolder, _timed(ksm_folders.delete_folder)),
    "add_file": (p.AddFile, _add_file),
}


async def serve(request: Request, body: bytes, threads: ThreadPoolExecutor) -> Response:
    """Answer a device: the request and its answer are sealed with the key that the request brings."""
    endpoint = request.scope["path"].removeprefix(PREFIX)
    return await asyncio.get_running_loop().run_in_executor(threads, _exchange, endpoint, request, body)


def _exchange(endpoint: str, request: Request, body: bytes) -> Response:
    context: AppContext = request.app.state.context
    if endpoint not in _ENDPOINTS:
        raise NotFound("there is no such endpoint", remedy="use one of the vendor's SDKs")
    kind, action = _ENDPOINTS[endpoint]
    limits = limits_of(request)
    asked = _Exchange(endpoint, context, limits, remote_address(request))
    try:
        opened = ksm_envelope.open_request(context.keys.server, request.headers, body)
        payload = _payload(kind, opened)
        asked.record_uid = getattr(payload, "recordUid", None)
        with context.database.transaction() as session:
            answer = action(context, session, asked.caller(session, opened, payload), payload)
    except PamJobsError as error:
        told = refused(
            context,
            limits,
            asked.actor,
            error,
            channel=endpoint,
            app_uid=asked.application_uid,
            device_name=asked.device_name,
            record_uid=asked.record_uid,
        )
        return _error_answer(told)
    return Response(ksm_envelope.seal(answer, opened.transmission_key), media_type="application/octet-stream")
