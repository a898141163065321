"""What KSM clients change: secrets, at once or in two phases.

``update_secret`` with a transaction type stages the new data in the candidate ledger; finalize makes it the record's,
rollback abandons it. While the rotation engine has an unresolved version, no client changes the secret: which value
is live is not known then.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialVersion, StoredFile, StoredRecord, VersionKind, VersionState
from pam_jobs.errors import AlreadyExists, InvalidInput, PamJobsError, StateError, VaultConflict
from pam_jobs.jobs import set_aside
from pam_jobs.vault import drift, files, ledger, records
from pam_jobs.vault.ksm_access import Caller, editable_record, shared_folder
from pam_jobs.vault.ksm_payloads import AddFile, CompleteTransaction, CreateSecret, DeleteSecret, UpdateSecret

__all__ = ["add_file", "create_secret", "delete_secret", "finalize", "roll_back", "update_secret"]

UPLOADED = 200
"""Status of a successful upload; clients compare it."""

_RECORD_VERSION = 3
_LINKS = "links_to_remove"


def _event(session: Session, clock: Clock, caller: Caller, name: str, record_uid: str, **fields: str | None) -> None:
    record_event(
        session, clock, caller.actor, name,
        app_uid=caller.application.uid, device_name=caller.client.name, record_uid=record_uid, **fields,
    )  # fmt: skip


def create_secret(session: Session, clock: Clock, caller: Caller, payload: CreateSecret) -> None:
    """Add a record; it belongs to the application's owner.

    Raises:
        AlreadyExists: the UID is taken.
        InvalidInput: the folder is none the application has as a whole, or the subfolder lies elsewhere.
        AccessDenied: the application may not edit there.
    """
    root = shared_folder(session, caller, payload.folderUid, can_edit=True)
    if root.parent_uid is not None:
        raise InvalidInput("folderUid is not a shared folder", remedy="name the subfolder by subFolderUid")
    place = shared_folder(session, caller, payload.subFolderUid, can_edit=True) if payload.subFolderUid else root
    if place.root_uid != root.uid:
        raise InvalidInput("the subfolder lies in another shared folder", remedy="name the folder it lies in")
    if session.get(StoredRecord, payload.recordUid) is not None:
        raise AlreadyExists("the record exists already", remedy="create it with a new UID")
    session.add(
        StoredRecord(
            uid=payload.recordUid,
            folder_uid=place.uid,
            version=_RECORD_VERSION,
            key_by_folder=payload.folderKey,
            key_by_owner=payload.recordKey,
            owner_uid=caller.application.owner_uid,
            data=payload.data,
            revision=1,
            created_at=clock.now(),
            updated_at=clock.now(),
        )
    )
    session.flush()
    _event(session, clock, caller, "app_client_record_create", payload.recordUid, folder_uid=place.uid)


def update_secret(session: Session, clock: Clock, caller: Caller, payload: UpdateSecret) -> None:
    """Replace the record's data at once, or stage the new data for finalize.

    Raises:
        VaultConflict: the data was made from an older revision.
        StateError: a version of the record is unresolved.
        NotFound: the application has no such record.
        AccessDenied: the application may not edit it.
    """
    record = editable_record(session, caller, payload.recordUid)
    if (row := ledger.unresolved(session, record.uid)) is not None:
        what = "a rotation" if row.kind == VersionKind.CREDENTIAL else "a transaction"
        raise StateError(f"{what} of this record is under way", remedy="wait for its end, or finalize or roll it back")
    if payload.transactionType is None:
        records.replace_data(clock, record, payload.data, payload.revision)
        session.flush()
        _remove_files(session, clock, caller, record.uid, payload.links2Remove or [])
        if records.has_current(session, record.uid):
            ledger.client_current(session, clock, record.uid, payload.data, caller.client.client_id)
            set_aside.lift_for_admin(session, clock, caller.actor, record.uid, by=caller.actor.username)
            drift.forget(session, clock, caller.actor, record.uid)
        _event(session, clock, caller, "app_client_record_update", record.uid)
        return
    if payload.revision != record.revision:
        raise _stale(record, payload.revision)
    if not records.has_current(session, record.uid):
        # The value of before must outlive the finalize that replaces it.
        ledger.client_current(session, clock, record.uid, record.data, caller.client.client_id)
    ledger.stage(
        session,
        clock,
        record_uid=record.uid,
        kind=VersionKind.RECORD,
        ciphertext=payload.data,
        epoch=0,
        staged_by=caller.client.client_id,
        base_revision=record.revision,
        evidence={_LINKS: list(payload.links2Remove)} if payload.links2Remove else None,
    )
    _event(session, clock, caller, "app_client_record_update", record.uid, status="staged")


def finalize(session: Session, clock: Clock, caller: Caller, payload: CompleteTransaction) -> None:
    """Make the staged data the record's; saying so again after it was done changes nothing.

    Raises:
        VaultConflict: the record was changed meanwhile; the staged data stays, nothing is overwritten.
        StateError: nothing is staged.
        NotFound: the application has no such record.
        AccessDenied: the application may not edit it.
    """
    record = editable_record(session, caller, payload.recordUid)
    row = _staged(session, caller, record.uid, done=VersionState.CURRENT)
    if row is None:
        return
    if row.base_revision != record.revision:
        raise _stale(record, row.base_revision or 0)
    links = list(row.evidence.get(_LINKS, []))
    ledger.promote(session, clock, record.uid, row.seq, epoch=row.epoch, evidence={"source": "client"})
    drift.forget(session, clock, caller.actor, record.uid)
    records.replace_data(clock, record, row.ciphertext, record.revision)
    session.flush()
    _remove_files(session, clock, caller, record.uid, links)
    _event(session, clock, caller, "app_client_record_update", record.uid, status="finalized")
    set_aside.lift_for_admin(session, clock, caller.actor, record.uid, by=caller.actor.username)


def roll_back(session: Session, clock: Clock, caller: Caller, payload: CompleteTransaction) -> None:
    """Abandon the staged data; saying so again after it was done changes nothing.

    Raises:
        StateError: nothing is staged.
        NotFound: the application has no such record.
        AccessDenied: the application may not edit it.
    """
    record = editable_record(session, caller, payload.recordUid)
    row = _staged(session, caller, record.uid, done=VersionState.ABANDONED)
    if row is None:
        return
    ledger.abandon(session, clock, record.uid, row.seq, epoch=row.epoch, reason="client", evidence={"source": "client"})
    _event(session, clock, caller, "app_client_record_update", record.uid, status="rolled_back")


def delete_secret(session: Session, clock: Clock, caller: Caller, payload: DeleteSecret) -> dict[str, Any]:
    """Remove records, each one or not at all, and say of each what became of it."""
    return {"records": [_deleted(session, clock, caller, uid) for uid in dict.fromkeys(payload.recordUids)]}


def _deleted(session: Session, clock: Clock, caller: Caller, uid: str) -> dict[str, str]:
    try:
        record = editable_record(session, caller, uid)
        records.discard(session, record)
    except PamJobsError as error:  # raised before anything of this record was changed
        record_event(
            session, clock, caller.actor, "app_client_access_denied", app_uid=caller.application.uid,
            device_name=caller.client.name, record_uid=uid, channel="delete_secret", result_code=error.code,
        )  # fmt: skip
        return {"recordUid": uid, "responseCode": error.code, "errorMessage": error.sentence()}
    _event(session, clock, caller, "app_client_record_delete", uid)
    return {"recordUid": uid, "responseCode": "ok", "errorMessage": ""}


def add_file(
    session: Session, clock: Clock, caller: Caller, payload: AddFile, *, upload_url: str, max_bytes: int
) -> dict[str, Any]:
    """Announce a file and put its reference into the record; the answer names where its content goes, once.

    Raises:
        VaultConflict: the record's data was made from an older revision.
        InvalidInput: the file is larger than ``max_bytes``.
        AlreadyExists: the file's UID is taken.
        NotFound: the application has no such record.
        AccessDenied: the application may not edit it.
    """
    record = editable_record(session, caller, payload.ownerRecordUid)
    records.replace_data(clock, record, payload.ownerRecordData, payload.ownerRecordRevision)
    session.flush()
    token = files.announce(
        session,
        clock,
        caller.client.client_id,
        files.Announcement(
            uid=payload.fileRecordUid,
            record_uid=record.uid,
            key_by_record=payload.linkKey,
            key_by_owner=payload.fileRecordKey,
            data=payload.fileRecordData,
            size=payload.fileSize,
        ),
        max_bytes=max_bytes,
    )
    _event(session, clock, caller, "app_client_record_update", record.uid, attachment_id=payload.fileRecordUid)
    return {"url": upload_url + token, "parameters": "{}", "successStatusCode": UPLOADED}


def _staged(session: Session, caller: Caller, record_uid: str, *, done: VersionState) -> CredentialVersion | None:
    """Return the staged row, or None when this device has brought it to ``done`` already and asks again."""
    row = ledger.unresolved(session, record_uid)
    if row is not None and row.kind == VersionKind.RECORD:
        return row
    newest = ledger.versions(session, record_uid)[:1]
    if row is None and newest:
        latest = newest[0]
        is_own = latest.kind == VersionKind.RECORD and latest.staged_by == caller.client.client_id
        if is_own and latest.state == done and latest.base_revision is not None:
            return None
    raise StateError("no transaction is open on this record", remedy="stage one by an update with a transaction type")


def _stale(record: StoredRecord, revision: int) -> VaultConflict:
    return VaultConflict(
        f"the record is at revision {record.revision}, the change was made from {revision}",
        remedy="read the record again, repeat the change on it and save that",
    )


def _remove_files(session: Session, clock: Clock, caller: Caller, record_uid: str, uids: list[str]) -> None:
    if not uids:
        return
    rows = session.scalars(
        select(StoredFile).where(StoredFile.record_uid == record_uid, StoredFile.uid.in_(uids))
    ).all()
    for file in rows:
        files.discard(session, file)
        _event(session, clock, caller, "file_attachment_deleted", record_uid, attachment_id=file.uid)
