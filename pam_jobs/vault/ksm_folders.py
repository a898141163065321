"""What KSM clients change in folders, below the shared folders that their application may edit."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Folder, StoredRecord
from pam_jobs.errors import AccessDenied, AlreadyExists, InvalidInput, NotFound, PamJobsError, StateError
from pam_jobs.vault import folders, records
from pam_jobs.vault.ksm_access import Caller, shared_folder
from pam_jobs.vault.ksm_payloads import CreateFolder, DeleteFolder, UpdateFolder

__all__ = ["create_folder", "delete_folder", "update_folder"]


def _event(session: Session, clock: Clock, caller: Caller, name: str, folder: Folder, **fields: str) -> None:
    record_event(
        session, clock, caller.actor, name,
        app_uid=caller.application.uid, device_name=caller.client.name, folder_uid=folder.uid,
        shared_folder_uid=folder.root_uid, **fields,
    )  # fmt: skip


def create_folder(session: Session, clock: Clock, caller: Caller, payload: CreateFolder) -> None:
    """Add a folder below a shared folder.

    Raises:
        AlreadyExists: the UID is taken.
        InvalidInput: the parent does not lie in the shared folder.
        NotFound: the application has no such folder.
        AccessDenied: the application may not edit there.
    """
    root = shared_folder(session, caller, payload.sharedFolderUid, can_edit=True)
    if root.parent_uid is not None:
        raise InvalidInput("sharedFolderUid is not a shared folder", remedy="name the parent by parentUid")
    parent = shared_folder(session, caller, payload.parentUid, can_edit=True) if payload.parentUid else root
    if parent.root_uid != root.uid:
        raise InvalidInput("the parent lies in another shared folder", remedy="name the folder it lies in")
    if session.get(Folder, payload.folderUid) is not None:
        raise AlreadyExists("the folder exists already", remedy="create it with a new UID")
    folder = Folder(
        uid=payload.folderUid,
        parent_uid=parent.uid,
        root_uid=root.uid,
        data=payload.data,
        key_by_root=payload.sharedFolderKey,
        created_at=clock.now(),
        revision=1,
    )
    session.add(folder)
    session.flush()
    _event(session, clock, caller, "app_client_folder_create", folder)


def update_folder(session: Session, clock: Clock, caller: Caller, payload: UpdateFolder) -> None:
    """Give a folder a new name.

    Raises:
        NotFound: the application has no such folder.
        AccessDenied: the application may not edit it.
    """
    folder = shared_folder(session, caller, payload.folderUid, can_edit=True)
    folder.data = payload.data
    folder.revision += 1
    session.flush()
    _event(session, clock, caller, "app_client_folder_update", folder)


def delete_folder(session: Session, clock: Clock, caller: Caller, payload: DeleteFolder) -> dict[str, Any]:
    """Remove folders, each one or not at all; a folder that is not there (any more) is no error."""
    force = bool(payload.forceDeletion)
    uids = dict.fromkeys(payload.folderUids)
    return {"folders": [_deleted(session, clock, caller, uid, force=force) for uid in uids]}


def _deleted(session: Session, clock: Clock, caller: Caller, uid: str, *, force: bool) -> dict[str, str]:
    try:
        with session.begin_nested():
            _delete(session, clock, caller, shared_folder(session, caller, uid, can_edit=True), force=force)
    except NotFound:
        return {"folderUid": uid, "responseCode": "ok", "errorMessage": ""}
    except PamJobsError as error:
        record_event(
            session, clock, caller.actor, "app_client_access_denied", app_uid=caller.application.uid,
            device_name=caller.client.name, folder_uid=uid, channel="delete_folder", result_code=error.code,
        )  # fmt: skip
        return {"folderUid": uid, "responseCode": error.code, "errorMessage": error.sentence()}
    return {"folderUid": uid, "responseCode": "ok", "errorMessage": ""}


def _delete(session: Session, clock: Clock, caller: Caller, folder: Folder, *, force: bool) -> None:
    if folder.parent_uid is None:
        raise AccessDenied("a shared folder is deleted by its owner", remedy="delete what is in it instead")
    below = folders.subtree(session, folder)
    held = session.scalars(
        select(StoredRecord).where(StoredRecord.folder_uid.in_([entry.uid for entry in below])).with_for_update()
    ).all()
    if (held or len(below) > 1) and not force:
        raise StateError("the folder is not empty", remedy="delete what is in it first, or force the deletion")
    for record in held:
        uid = record.uid
        records.discard(session, record)
        _event(session, clock, caller, "app_client_folder_remove_record", folder, record_uid=uid)
        _event(session, clock, caller, "app_client_record_delete", folder, record_uid=uid)
    for entry in reversed(below):
        session.delete(entry)
        session.flush()
        _event(session, clock, caller, "app_client_folder_delete", entry)
