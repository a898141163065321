"""Addresses that are permissions: whoever has one may upload or download that one file's ciphertext."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from pam_jobs.api.context import AppContext, Context, remote_address
from pam_jobs.api.ksm import Limits, limits_of, refused
from pam_jobs.api.limits import DRAIN_BYTES
from pam_jobs.api.problems import problem, status_of
from pam_jobs.audit.log import record_event
from pam_jobs.db.tables import Client
from pam_jobs.errors import InvalidInput, PamJobsError
from pam_jobs.vault import files
from pam_jobs.vault.ksm_access import unknown_caller
from pam_jobs.vault.ksm_write import UPLOADED

__all__ = ["extract_file", "router"]

router = APIRouter(prefix="/api/files", tags=["ksm"])

_FORM_BYTES = 64 * 1024
"""Room for the form's borders and headers around the file."""


@dataclass(frozen=True)
class _Upload:
    """What came in: content, or why it was not taken."""

    content: bytes
    error: PamJobsError | None = None


def extract_file(content_type: str, body: bytes) -> bytes:
    """Return the content of the form's field ``file``.

    Some clients send it without a file name, which general form parsers read as text.

    Raises:
        InvalidInput: the body is no form, is cut off, or has no such field.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise InvalidInput("the upload is not a multipart form", remedy="send the file as the form field `file`")
    reader = _Reader()
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": reader.begin,
            "on_header_field": reader.name,
            "on_header_value": reader.value,
            "on_header_end": reader.header,
            "on_part_data": reader.data,
            "on_end": reader.end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput("the form cannot be read", remedy="send the file again") from error
    if not reader.is_whole or reader.file is None:
        raise InvalidInput("the form has no field `file`, or was cut off", remedy="send the file again")
    return bytes(reader.file)


class _Reader:
    """Collects the one field that is wanted."""

    def __init__(self) -> None:
        self.file: bytearray | None = None
        self.is_whole = False
        self._name = b""
        self._value = b""
        self._is_wanted = False

    def begin(self) -> None:
        self._is_wanted = False

    def name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if options.get(b"name") == b"file" and self.file is None:
                self._is_wanted, self.file = True, bytearray()
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted and self.file is not None:
            self.file += data[start:end]

    def end(self) -> None:
        self.is_whole = True


async def _bounded(stream: AsyncIterator[bytes], limit: int) -> bytes:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > limit:
            raise InvalidInput("the upload is larger than was announced", remedy="announce the file's true size")
    return bytes(body)


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read on, for a peer that is still sending would lose the answer with the connection."""
    left = DRAIN_BYTES
    async for chunk in stream:
        left -= len(chunk)
        if left <= 0:
            return


def _announced_size(context: AppContext, token: str) -> int:
    with context.database.transaction(read_only=True) as session:
        return files.announced(session, token).size


async def _receive(token: str, request: Request, context: Context) -> _Upload:
    """Read the content only when the token is good, and keep no more of it than was announced."""
    stream = request.stream()
    try:
        limit = _FORM_BYTES + await run_in_threadpool(_announced_size, context, token)
        body = await _bounded(stream, limit)
        return _Upload(extract_file(request.headers.get("content-type", ""), body))
    except PamJobsError as error:
        await _drain(stream)
        return _Upload(b"", error)


def _refuse(request: Request, context: AppContext, limits: Limits, error: PamJobsError, channel: str) -> Response:
    actor = unknown_caller(remote_address(request))
    told = refused(context, limits, actor, error, channel=channel)
    answer = problem(status_of(told) if told is error else 403, told.code, told.message, told.remedy)
    if channel == "upload":
        answer.headers["Connection"] = "close"
    return answer


@router.post("/{token}", response_class=Response)
def upload(token: str, request: Request, context: Context, received: Annotated[_Upload, Depends(_receive)]) -> Response:
    """Store the content of an announced file; the address serves once."""
    limits = limits_of(request)
    if received.error is not None:
        return _refuse(request, context, limits, received.error, "upload")
    try:
        with context.database.transaction() as session:
            file = files.announced(session, token)
            files.receive(session, context.clock, file, received.content)
            client = session.get(Client, file.added_by)
            actor = unknown_caller(remote_address(request), name=client.name if client else "unknown")
            record_event(
                session, context.clock, actor, "file_attachment_uploaded",
                record_uid=file.record_uid, attachment_id=file.uid,
                app_uid=client.application_uid if client else None,
            )  # fmt: skip
    except PamJobsError as error:
        return _refuse(request, context, limits, error, "upload")
    return Response(status_code=UPLOADED)


@router.get("/{token}", response_class=Response)
def download(token: str, request: Request, context: Context) -> Response:
    """Return a file's ciphertext to whoever has its address."""
    try:
        with context.database.transaction() as session:
            file, content = files.content_by_token(session, token)
            record_event(
                session, context.clock, unknown_caller(remote_address(request), name="file address"),
                "file_attachment_downloaded", record_uid=file.record_uid, attachment_id=file.uid,
            )  # fmt: skip
    except PamJobsError as error:
        return _refuse(request, context, limits_of(request), error, "download")
    return Response(content, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})
