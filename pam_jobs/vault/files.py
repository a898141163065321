"""Files of records: metadata and content as ciphertext, fetched by URLs that nobody can guess."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import FileBlob, StoredFile
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound
from pam_jobs.vault import records
from pam_jobs.vault.models import NewFile

__all__ = [
    "Announcement",
    "announce",
    "announced",
    "attach",
    "content_by_token",
    "content_for_user",
    "delete",
    "discard",
    "new_token",
    "receive",
]

_TOKEN_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A file that a KSM client is about to upload."""

    uid: str
    record_uid: str
    key_by_record: bytes
    key_by_owner: bytes
    data: bytes
    size: int  # bytes of ciphertext


def new_token() -> str:
    """Return a capability: 32 random bytes as 43 base64url characters."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def attach(
    session: Session, clock: Clock, actor: Actor, user_uid: str, record_uid: str, new: NewFile, *, max_bytes: int
) -> StoredFile:
    """Add a file with its content to a record of the user's.

    Raises:
        InvalidInput: the content is larger than ``max_bytes``.
        AlreadyExists: the UID is taken.
        NotFound: there is no such record of the user's.
        AccessDenied: the user may not edit it.
    """
    records.require(session, user_uid, record_uid, can_edit=True)
    _check_size(len(new.content), max_bytes)
    _check_free(session, new.uid)
    file = StoredFile(
        uid=new.uid,
        record_uid=record_uid,
        key_by_record=new.key,
        key_by_owner=new.owner_key,
        data=new.data,
        size=len(new.content),
        added_by=user_uid,
        upload_token_hash=None,
        download_token=new_token(),
        uploaded_at=clock.now(),
        created_at=clock.now(),
    )
    session.add(file)
    session.flush()
    session.add(FileBlob(file_uid=new.uid, content=new.content))
    record_event(session, clock, actor, "file_attachment_uploaded", record_uid=record_uid, attachment_id=new.uid)
    return file


def announce(session: Session, clock: Clock, client_id: str, new: Announcement, *, max_bytes: int) -> str:
    """Add a file without content and return the token that uploads it, once.

    Raises:
        InvalidInput: the announced size is larger than ``max_bytes``.
        AlreadyExists: the UID is taken.
    """
    _check_size(new.size, max_bytes)
    _check_free(session, new.uid)
    token = new_token()
    session.add(
        StoredFile(
            uid=new.uid,
            record_uid=new.record_uid,
            key_by_record=new.key_by_record,
            key_by_owner=new.key_by_owner,
            data=new.data,
            size=new.size,
            added_by=client_id,
            upload_token_hash=_hash(token),
            download_token=new_token(),
            created_at=clock.now(),
        )
    )
    session.flush()
    return token


def announced(session: Session, token: str) -> StoredFile:
    """Return the file that the token uploads; its row is locked, so that a token serves once.

    Raises:
        NotFound: the token is unknown or used.
    """
    file = session.scalar(select(StoredFile).where(StoredFile.upload_token_hash == _hash(token)).with_for_update())
    if file is None:
        raise NotFound("the upload address is unknown or was used already", remedy="announce the file again")
    return file


def receive(session: Session, clock: Clock, file: StoredFile, content: bytes) -> None:
    """Store the content of an announced file and end its token.

    Raises:
        InvalidInput: the content has not the announced size.
    """
    if len(content) != file.size:
        raise InvalidInput(
            f"the file has {len(content)} bytes, {file.size} were announced", remedy="upload the whole file again"
        )
    session.add(FileBlob(file_uid=file.uid, content=content))
    file.uploaded_at = clock.now()
    file.upload_token_hash = None


def content_by_token(session: Session, token: str) -> tuple[StoredFile, bytes]:
    """Return the file that the download token names, and its ciphertext.

    Raises:
        NotFound: the token is unknown, or nothing was uploaded yet.
    """
    row = session.execute(
        select(StoredFile, FileBlob.content)
        .join(FileBlob, FileBlob.file_uid == StoredFile.uid)
        .where(StoredFile.download_token == token)
    ).one_or_none()
    if row is None:
        raise NotFound("there is no such file", remedy="read the record again, its file addresses may have changed")
    return row[0], row[1]


def content_for_user(session: Session, clock: Clock, actor: Actor, user_uid: str, file_uid: str) -> bytes:
    """Return the ciphertext of a file of the user's.

    Raises:
        NotFound: there is no such file among the user's records.
    """
    file = _require(session, user_uid, file_uid)
    content = session.scalar(select(FileBlob.content).where(FileBlob.file_uid == file_uid))
    if content is None:
        raise NotFound(f"the file {file_uid} was never uploaded", remedy="delete it and attach it again")
    record_event(
        session, clock, actor, "file_attachment_downloaded", record_uid=file.record_uid, attachment_id=file_uid
    )
    return content


def delete(session: Session, clock: Clock, actor: Actor, user_uid: str, file_uid: str) -> None:
    """Remove a file of the user's with its content.

    Raises:
        NotFound: there is no such file among the user's records.
        AccessDenied: the user may not edit the record.
    """
    file = _require(session, user_uid, file_uid, can_edit=True)
    discard(session, file)
    record_event(session, clock, actor, "file_attachment_deleted", record_uid=file.record_uid, attachment_id=file_uid)


def discard(session: Session, file: StoredFile) -> None:
    """Remove a file and its content; the caller writes the event."""
    if (blob := session.get(FileBlob, file.uid)) is not None:
        session.delete(blob)
        session.flush()
    session.delete(file)
    session.flush()


def _require(session: Session, user_uid: str, file_uid: str, *, can_edit: bool = False) -> StoredFile:
    file = session.get(StoredFile, file_uid)
    if file is None:
        raise NotFound(f"there is no file {file_uid} of yours", remedy="read the record, it lists its files")
    records.require(session, user_uid, file.record_uid, can_edit=can_edit)
    return file


def _check_free(session: Session, file_uid: str) -> None:
    if session.get(StoredFile, file_uid) is not None:
        raise AlreadyExists(f"the file {file_uid} exists already", remedy="attach it with a new UID")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidInput(
            f"the file has {size} bytes, at most {max_bytes} are taken",
            remedy="attach a smaller file, or raise PAM_MAX_FILE_BYTES on the router",
        )
