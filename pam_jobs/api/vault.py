"""Folders, records, files, applications and devices of the signed-in user: ciphertext in, ciphertext out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response, status
from pydantic import BaseModel

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.audit.log import record_event
from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import Client
from pam_jobs.vault import applications, clients, files, folders, ledger, records
from pam_jobs.vault.models import NewApplication, NewClient, NewFile, NewFolder, NewRecord, NewShare, RecordChange

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["vault"])

_Vault = Annotated[Principal, Depends(require("vault"))]
_Applications = Annotated[Principal, Depends(require("applications"))]
_FolderFilter = Annotated[str | None, Query(max_length=22)]


class _View(BaseModel):
    model_config = {"from_attributes": True}


class FolderOut(_View):
    """A folder; a root's key is for the user (ECIES), a subfolder's by the root's key (AES-CBC)."""

    uid: str
    parent_uid: str | None
    root_uid: str
    data: Blob
    key: Blob
    can_edit: bool
    revision: int


class FolderList(BaseModel):
    """The user's folders, parents first."""

    folders: list[FolderOut]


class FileOut(BaseModel):
    """A file of a record, without its content."""

    uid: str
    key: Blob
    data: Blob
    size: int
    added_by: str


class RecordOut(BaseModel):
    """A record; its key is by the root folder's key."""

    uid: str
    folder_uid: str
    root_uid: str
    version: int
    key: Blob
    data: Blob
    revision: int
    created_at: datetime
    updated_at: datetime
    owner_uid: str
    files: list[FileOut]


class RecordList(BaseModel):
    """The user's records."""

    records: list[RecordOut]


class Revision(BaseModel):
    """A record's revision after the change."""

    uid: str
    revision: int


class VersionOut(_View):
    """One row of the candidate ledger."""

    seq: int
    kind: str
    state: str
    epoch: int
    ciphertext: Blob
    staged_at: datetime
    decided_at: datetime | None
    evidence: dict[str, Any]
    staged_by: str


class VersionList(BaseModel):
    """A record's ledger, newest first."""

    versions: list[VersionOut]


class ShareOut(_View):
    """A shared folder of an application."""

    folder_uid: str
    can_edit: bool


class ClientOut(BaseModel):
    """A device of an application."""

    client_id: str
    application_uid: str
    gateway_uid: str | None
    name: str
    is_bound: bool
    lock_ip: bool
    locked_ip: str | None
    first_access_expires_at: datetime
    access_expires_at: datetime | None
    first_access_at: datetime | None
    last_access_at: datetime | None
    created_at: datetime


class ApplicationOut(BaseModel):
    """An application of the user's; its key is for the user (ECIES)."""

    uid: str
    data: Blob
    key: Blob
    owner_uid: str
    created_at: datetime
    shares: list[ShareOut]
    clients: list[ClientOut]


class ApplicationList(BaseModel):
    """The user's applications."""

    applications: list[ApplicationOut]


class ClientList(BaseModel):
    """An application's devices."""

    clients: list[ClientOut]


def _record_out(view: records.RecordView) -> RecordOut:
    row = view.row
    return RecordOut(
        uid=row.uid,
        folder_uid=row.folder_uid,
        root_uid=view.root_uid,
        version=row.version,
        key=row.key_by_folder,
        data=row.data,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        owner_uid=row.owner_uid,
        files=[
            FileOut(uid=file.uid, key=file.key_by_record, data=file.data, size=file.size, added_by=file.added_by)
            for file in view.files
        ],
    )


def _client_out(client: Client) -> ClientOut:
    return ClientOut.model_validate(
        {name: getattr(client, name) for name in ClientOut.model_fields if name != "is_bound"}
        | {"is_bound": client.public_key is not None}
    )


@router.get("/folders")
def list_folders(principal: _Vault, context: Context) -> FolderList:
    """Return the folders of every shared folder that the user is a member of."""
    with context.database.transaction(read_only=True) as session:
        views = folders.list_for_user(session, principal.user_uid)
    return FolderList(folders=[FolderOut.model_validate(view) for view in views])


@router.post("/folders", status_code=status.HTTP_201_CREATED)
def create_folder(body: NewFolder, principal: _Vault, context: Context) -> dict[str, str]:
    """Add a folder."""
    with context.database.transaction() as session:
        folders.create(session, context.clock, principal.actor(), principal.user_uid, body)
    return {"uid": body.uid}


@router.delete("/folders/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def delete_folder(uid: str, principal: _Vault, context: Context) -> None:
    """Remove an empty folder."""
    with context.database.transaction() as session:
        folders.delete(session, context.clock, principal.actor(), principal.user_uid, uid)


@router.get("/records")
def list_records(principal: _Vault, context: Context, folder_uid: _FolderFilter = None) -> RecordList:
    """Return the user's records, or those of one folder."""
    with context.database.transaction(read_only=True) as session:
        views = records.list_for_user(session, principal.user_uid, folder_uid)
    return RecordList(records=[_record_out(view) for view in views])


@router.post("/records", status_code=status.HTTP_201_CREATED)
def create_record(body: NewRecord, principal: _Vault, context: Context) -> Revision:
    """Add a record."""
    with context.database.transaction() as session:
        record = records.create(session, context.clock, principal.actor(), principal.user_uid, body)
    return Revision(uid=record.uid, revision=record.revision)


@router.get("/records/{uid}")
def get_record(uid: str, principal: _Vault, context: Context) -> RecordOut:
    """Return one record; the audit log tells that it was opened."""
    with context.database.transaction() as session:
        view = records.view(session, principal.user_uid, uid)
        record_event(session, context.clock, principal.actor(), "open_record", record_uid=uid)
    return _record_out(view)


@router.put("/records/{uid}")
def update_record(uid: str, body: RecordChange, principal: _Vault, context: Context) -> Revision:
    """Replace a record's data, made from the revision that is named."""
    with context.database.transaction() as session:
        record = records.update(session, context.clock, principal.actor(), principal.user_uid, uid, body)
    return Revision(uid=uid, revision=record.revision)


@router.delete("/records/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def delete_record(uid: str, principal: _Vault, context: Context) -> None:
    """Remove a record that nothing needs."""
    with context.database.transaction() as session:
        records.delete(session, context.clock, principal.actor(), principal.user_uid, uid)


@router.get("/records/{uid}/versions")
def list_versions(uid: str, principal: _Vault, context: Context) -> VersionList:
    """Return every value the record's credential had, has or is about to have, as ciphertext."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, uid)
        rows = ledger.versions(session, uid)
        record_event(session, context.clock, principal.actor(), "open_record", record_uid=uid, channel="versions")
    return VersionList(versions=[VersionOut.model_validate(row) for row in rows])


@router.post("/records/{uid}/rollback")
def roll_back(uid: str, principal: _Vault, context: Context) -> VersionOut:
    """Drop what a KSM client staged and never finished."""
    with context.database.transaction() as session:
        row = records.roll_back(session, context.clock, principal.actor(), principal.user_uid, uid)
    return VersionOut.model_validate(row)


@router.post("/records/{uid}/files", status_code=status.HTTP_201_CREATED)
def attach_file(uid: str, body: NewFile, principal: _Vault, context: Context) -> dict[str, str]:
    """Attach a file."""
    with context.database.transaction() as session:
        files.attach(
            session,
            context.clock,
            principal.actor(),
            principal.user_uid,
            uid,
            body,
            max_bytes=context.settings.max_file_bytes,
        )
    return {"uid": body.uid}


@router.get("/files/{uid}/content", response_class=Response)
def file_content(uid: str, principal: _Vault, context: Context) -> Response:
    """Return a file's ciphertext."""
    with context.database.transaction() as session:
        content = files.content_for_user(session, context.clock, principal.actor(), principal.user_uid, uid)
    return Response(content, media_type="application/octet-stream")


@router.delete("/files/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def delete_file(uid: str, principal: _Vault, context: Context) -> None:
    """Remove a file."""
    with context.database.transaction() as session:
        files.delete(session, context.clock, principal.actor(), principal.user_uid, uid)


@router.get("/applications")
def list_applications(principal: _Applications, context: Context) -> ApplicationList:
    """Return the user's applications."""
    with context.database.transaction(read_only=True) as session:
        views = applications.list_for_user(session, principal.user_uid)
    return ApplicationList(
        applications=[
            ApplicationOut(
                uid=view.row.uid,
                data=view.row.data,
                key=view.row.key_by_owner,
                owner_uid=view.row.owner_uid,
                created_at=view.row.created_at,
                shares=[ShareOut.model_validate(share) for share in view.shares],
                clients=[_client_out(client) for client in view.clients],
            )
            for view in views
        ]
    )


@router.post("/applications", status_code=status.HTTP_201_CREATED)
def create_application(body: NewApplication, principal: _Applications, context: Context) -> dict[str, str]:
    """Add an application."""
    with context.database.transaction() as session:
        applications.create(session, context.clock, principal.actor(), principal.user_uid, body)
    return {"uid": body.uid}


@router.delete("/applications/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def delete_application(uid: str, principal: _Applications, context: Context) -> None:
    """Remove an application that no gateway uses."""
    with context.database.transaction() as session:
        applications.delete(session, context.clock, principal.actor(), principal.user_uid, uid)


@router.put("/applications/{uid}/shares/{folder_uid}")
def share_folder(uid: str, folder_uid: str, body: NewShare, principal: _Applications, context: Context) -> ShareOut:
    """Give an application a shared folder, or change what it may do there."""
    with context.database.transaction() as session:
        row = applications.share(session, context.clock, principal.actor(), principal.user_uid, uid, folder_uid, body)
    return ShareOut.model_validate(row)


@router.delete("/applications/{uid}/shares/{folder_uid}", status_code=status.HTTP_204_NO_CONTENT)
def unshare_folder(uid: str, folder_uid: str, principal: _Applications, context: Context) -> None:
    """Take a shared folder from an application."""
    with context.database.transaction() as session:
        applications.unshare(session, context.clock, principal.actor(), principal.user_uid, uid, folder_uid)


@router.post("/applications/{uid}/clients", status_code=status.HTTP_201_CREATED)
def add_client(uid: str, body: NewClient, principal: _Applications, context: Context) -> ClientOut:
    """Add a device to an application; its one-time token stays with whoever made it."""
    with context.database.transaction() as session:
        client = clients.add(session, context.clock, principal.actor(), principal.user_uid, uid, body)
    return _client_out(client)


@router.get("/applications/{uid}/clients")
def list_clients(uid: str, principal: _Applications, context: Context) -> ClientList:
    """Return an application's devices."""
    with context.database.transaction(read_only=True) as session:
        rows = clients.list_for_user(session, principal.user_uid, uid)
    return ClientList(clients=[_client_out(row) for row in rows])


@router.delete("/clients", status_code=status.HTTP_204_NO_CONTENT)
def remove_client(client_id: Annotated[str, Query(max_length=120)], principal: _Applications, context: Context) -> None:
    """End the access of a device."""
    with context.database.transaction() as session:
        clients.remove(session, context.clock, principal.actor(), principal.user_uid, client_id)
