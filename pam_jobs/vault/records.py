"""Records as ciphertext: create, read, change under the optimistic lock, delete when nothing needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Select, bindparam, or_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.tables import (
    CredentialEpoch,
    CredentialVersion,
    FileBlob,
    Folder,
    FolderMember,
    Job,
    JobState,
    LoginRefusal,
    LoginReservation,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    Schedule,
    ServiceMap,
    StoredFile,
    StoredRecord,
    VersionKind,
    VersionState,
)
from pam_jobs.errors import AccessDenied, AlreadyExists, NotFound, StateError, VaultConflict
from pam_jobs.jobs import set_aside
from pam_jobs.vault import drift, folders, ledger
from pam_jobs.vault.models import NewRecord, RecordChange

__all__ = [
    "RecordView",
    "create",
    "delete",
    "discard",
    "has_current",
    "list_for_user",
    "replace_data",
    "require",
    "require_member",
    "roll_back",
    "update",
    "view",
]

_OPEN_JOBS = (JobState.CREATED, JobState.QUEUED, JobState.LEASED, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class RecordView:
    """A record with its place and its files."""

    row: StoredRecord
    root_uid: str
    files: list[StoredFile] = field(default_factory=list)


_TO_READ: Final = (
    select(StoredRecord, FolderMember.can_edit)
    .join(Folder, Folder.uid == StoredRecord.folder_uid)
    .join(FolderMember, FolderMember.folder_uid == Folder.root_uid)
    .where(StoredRecord.uid == bindparam("record"), FolderMember.user_uid == bindparam("user"))
)
_MAY_READ: Final = _TO_READ.with_only_columns(StoredRecord.uid)
_TO_EDIT: Final = _TO_READ.with_for_update(of=StoredRecord).execution_options(populate_existing=True)


def require(session: Session, user_uid: str, record_uid: str, *, can_edit: bool = False) -> StoredRecord:
    """Return the record when the user is a member of its shared folder; for a change its row is locked.

    Raises:
        NotFound: there is no such record, or it lies in no folder of the user's; the answer does not tell which.
        AccessDenied: the user may read but not edit.
    """
    query = _TO_EDIT if can_edit else _TO_READ
    row = session.execute(query, {"record": record_uid, "user": user_uid}).one_or_none()
    if row is None:
        raise _not_yours(record_uid)
    if can_edit and not row[1]:
        raise AccessDenied("you may read this record but not change it", remedy="ask for the right to edit its folder")
    record: StoredRecord = row[0]
    return record


def require_member(session: Session, user_uid: str, record_uid: str) -> None:
    """Return when the user may read the record, without fetching it.

    Raises:
        NotFound: as ``require``.
    """
    if prepared.row(session, _MAY_READ, {"record": record_uid, "user": user_uid}) is None:
        raise _not_yours(record_uid)


def _not_yours(record_uid: str) -> NotFound:
    return NotFound(f"there is no record {record_uid} of yours", remedy="list the records and take the UID from there")


def view(session: Session, user_uid: str, record_uid: str) -> RecordView:
    """Return one record of the user's with its uploaded files.

    Raises:
        NotFound: there is no such record of the user's.
    """
    row = require(session, user_uid, record_uid)
    return _views(session, [row], [record_uid])[0]


def list_for_user(session: Session, user_uid: str, folder_uid: str | None = None) -> list[RecordView]:
    """Return the records of the user's folders, oldest first.

    Args:
        session: the caller's transaction.
        user_uid: who asks.
        folder_uid: only the records that lie in this very folder.

    Raises:
        NotFound: the folder is not the user's.
    """
    query = (
        select(StoredRecord)
        .join(Folder, Folder.uid == StoredRecord.folder_uid)
        .join(FolderMember, FolderMember.folder_uid == Folder.root_uid)
        .where(FolderMember.user_uid == user_uid)
        .order_by(StoredRecord.created_at, StoredRecord.uid)
    )
    if folder_uid is not None:
        folders.require_member(session, user_uid, folder_uid)
        query = query.where(StoredRecord.folder_uid == folder_uid)
    return _views(session, session.scalars(query).all(), query.with_only_columns(StoredRecord.uid).order_by(None))


def create(session: Session, clock: Clock, actor: Actor, user_uid: str, new: NewRecord) -> StoredRecord:
    """Add a record to a folder of the user's; its credential becomes the first version of the ledger.

    Raises:
        AlreadyExists: the UID is taken.
        NotFound: the folder is not the user's.
        AccessDenied: the user may not edit the folder.
    """
    folder = folders.require_member(session, user_uid, new.folder_uid, can_edit=True)
    if session.get(StoredRecord, new.uid) is not None:
        raise AlreadyExists(f"the record {new.uid} exists already", remedy="create it with a new UID")
    record = StoredRecord(
        uid=new.uid,
        folder_uid=new.folder_uid,
        version=new.version,
        key_by_folder=new.key,
        key_by_owner=new.owner_key,
        owner_uid=user_uid,
        data=new.data,
        revision=1,
        created_at=clock.now(),
        updated_at=clock.now(),
    )
    session.add(record)
    session.flush()
    if new.credential is not None:
        ledger.operator_current(session, clock, new.uid, new.credential, user_uid)
    record_event(session, clock, actor, "record_add", record_uid=new.uid)
    record_event(
        session, clock, actor, "folder_add_record",
        record_uid=new.uid, folder_uid=folder.uid, shared_folder_uid=folder.root_uid,
    )  # fmt: skip
    return record


def update(
    session: Session, clock: Clock, actor: Actor, user_uid: str, record_uid: str, change: RecordChange
) -> StoredRecord:
    """Replace the record's data, and its credential when one is given.

    Raises:
        VaultConflict: the change was made from an older revision.
        StateError: a credential is given while a version is unresolved.
        NotFound: there is no such record of the user's.
        AccessDenied: the user may not edit it.
    """
    record = require(session, user_uid, record_uid, can_edit=True)
    replace_data(clock, record, change.data, change.revision)
    session.flush()
    record_event(session, clock, actor, "record_update", record_uid=record_uid)
    configuration = session.get(PamConfiguration, record_uid)
    if configuration is not None:
        record_event(
            session, clock, actor, "pam_configuration_updated", record_uid=record_uid,
            gateway_uid=configuration.gateway_uid,
        )  # fmt: skip
    if change.credential is not None:
        ledger.operator_current(session, clock, record_uid, change.credential, user_uid)
        record_event(session, clock, actor, "record_password_change", record_uid=record_uid)
        set_aside.lift_for_admin(session, clock, actor, record_uid, by=actor.username)
        drift.forget(session, clock, actor, record_uid)
    return record


def replace_data(clock: Clock, record: StoredRecord, data: bytes, revision: int) -> None:
    """Put new data into a locked record when it was made from the record's revision.

    Raises:
        VaultConflict: it was made from another one.
    """
    if revision != record.revision:
        raise VaultConflict(
            f"the record is at revision {record.revision}, the change was made from {revision}",
            remedy="read the record again, repeat the change on it and save that",
        )
    record.data = data
    record.revision += 1
    record.updated_at = clock.now()


def delete(session: Session, clock: Clock, actor: Actor, user_uid: str, record_uid: str) -> None:
    """Remove a record with its files and its decided versions.

    Raises:
        StateError: a version is unresolved, a job is open, or something refers to the record.
        NotFound: there is no such record of the user's.
        AccessDenied: the user may not edit it.
    """
    record = require(session, user_uid, record_uid, can_edit=True)
    folder_uid = record.folder_uid
    discard(session, record)
    record_event(session, clock, actor, "record_delete", record_uid=record_uid, folder_uid=folder_uid)


def discard(session: Session, record: StoredRecord) -> None:
    """Remove a locked record and all that belongs to it alone; the caller writes the event.

    Raises:
        StateError: a version is unresolved, a job is open, or something refers to the record.
    """
    _check_deletable(session, record.uid)
    files = select(StoredFile.uid).where(StoredFile.record_uid == record.uid)
    session.execute(sql_delete(FileBlob).where(FileBlob.file_uid.in_(files)))
    session.execute(sql_delete(StoredFile).where(StoredFile.record_uid == record.uid))
    session.execute(sql_delete(CredentialVersion).where(CredentialVersion.record_uid == record.uid))
    session.execute(sql_delete(CredentialEpoch).where(CredentialEpoch.record_uid == record.uid))
    session.execute(sql_delete(LoginRefusal).where(LoginRefusal.record_uid == record.uid))
    session.execute(sql_delete(LoginReservation).where(LoginReservation.record_uid == record.uid))
    session.execute(sql_delete(Schedule).where(Schedule.subject_uid == record.uid))
    session.execute(sql_delete(RotationSettings).where(RotationSettings.record_uid == record.uid))
    session.execute(sql_delete(ServiceMap).where(ServiceMap.user_uid == record.uid))
    session.delete(record)
    session.flush()


def roll_back(session: Session, clock: Clock, actor: Actor, user_uid: str, record_uid: str) -> CredentialVersion:
    """Drop what a KSM client staged and never finished; its value stays in the ledger as ``abandoned``.

    Raises:
        StateError: no client's transaction is open on the record.
        NotFound: there is no such record of the user's.
        AccessDenied: the user may not edit it.
    """
    require(session, user_uid, record_uid, can_edit=True)
    row = ledger.unresolved(session, record_uid)
    if row is None or row.kind != VersionKind.RECORD:
        raise StateError(
            "no client's transaction is open on this record", remedy="look at its versions; rotations resolve their own"
        )
    ledger.abandon(
        session, clock, record_uid, row.seq, epoch=row.epoch, reason="operator", evidence={"source": "operator"}
    )
    record_event(session, clock, actor, "record_update", record_uid=record_uid, result_code="rolled_back")
    return row


def has_current(session: Session, record_uid: str) -> bool:
    """Say whether the ledger has a current version of the record."""
    row = session.scalar(
        select(CredentialVersion.id).where(
            CredentialVersion.record_uid == record_uid, CredentialVersion.state == VersionState.CURRENT
        )
    )
    return row is not None


def _check_deletable(session: Session, record_uid: str) -> None:
    if (row := ledger.unresolved(session, record_uid)) is not None:
        raise StateError(
            f"version {row.seq} of this record is not resolved, its value may be live on the target",
            remedy="wait for the rotation, reconcile the record or roll the change back",
        )
    if session.scalar(select(Job.uid).where(Job.record_uid == record_uid, Job.state.in_(_OPEN_JOBS)).limit(1)):
        raise StateError("a job of this record is open", remedy="wait for it or cancel it first")
    if session.get(PamConfiguration, record_uid) is not None:
        raise StateError("the record is a PAM configuration", remedy="remove the configuration, that deletes it too")
    user = session.scalar(select(RotationSettings.record_uid).where(RotationSettings.saas_uid == record_uid).limit(1))
    if user is not None:
        raise StateError(f"the record is the SaaS configuration of {user}", remedy="give that user another one first")
    link = session.scalar(
        select(ResourceLink)
        .where(or_(ResourceLink.resource_uid == record_uid, ResourceLink.admin_uid == record_uid))
        .limit(1)
    )
    if link is not None:
        what = "a linked resource" if link.resource_uid == record_uid else f"the admin of resource {link.resource_uid}"
        raise StateError(f"the record is {what}", remedy="unlink the resource or give it another admin first")


def _views(session: Session, rows: Sequence[StoredRecord], uids: Sequence[str] | Select[str]) -> list[RecordView]:
    """Join rows with their roots and files; ``uids`` names the same rows, as a query where there may be very many."""
    if not rows:
        return []
    pairs = session.execute(
        select(Folder.uid, Folder.root_uid)
        .join(StoredRecord, StoredRecord.folder_uid == Folder.uid)
        .where(StoredRecord.uid.in_(uids))
        .distinct()
    ).all()
    roots: dict[str, str] = {row.uid: row.root_uid for row in pairs}
    files: dict[str, list[StoredFile]] = {}
    for file in session.scalars(
        select(StoredFile)
        .where(StoredFile.record_uid.in_(uids), StoredFile.uploaded_at.is_not(None))
        .order_by(StoredFile.created_at, StoredFile.uid)
    ):
        files.setdefault(file.record_uid, []).append(file)
    return [RecordView(row=row, root_uid=roots[row.folder_uid], files=files.get(row.uid, [])) for row in rows]
