"""What KSM clients read: secrets and folders, in as few statements as it takes, for every rotation begins here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy.orm import Session, aliased

from pam_jobs.audit.log import record_event
from pam_jobs.clock import Clock
from pam_jobs.crypto.blob import to_base64
from pam_jobs.db import prepared
from pam_jobs.db.many import among
from pam_jobs.db.tables import ApplicationShare, Folder, ResourceLink, RotationSettings, StoredFile, StoredRecord
from pam_jobs.vault.folders import parents_first
from pam_jobs.vault.ksm_access import Caller
from pam_jobs.vault.ksm_payloads import GetSecret

__all__ = ["get_folders", "get_secret"]


_FILES: Final = (
    select(StoredFile.uid, StoredFile.record_uid, StoredFile.key_by_record, StoredFile.data, StoredFile.download_token)
    .where(among(StoredFile.record_uid, "record_uids"), StoredFile.uploaded_at.is_not(None))
    .order_by(StoredFile.created_at, StoredFile.uid)
)
_RESOURCES: Final = select(ResourceLink).where(among(ResourceLink.resource_uid, "record_uids"))
_USERS: Final = select(RotationSettings).where(
    among(RotationSettings.resource_uid, "record_uids")
    | (among(RotationSettings.configuration_uid, "record_uids") & RotationSettings.resource_uid.is_(None))
)


def get_secret(session: Session, clock: Clock, caller: Caller, payload: GetSecret, *, file_url: str) -> dict[str, Any]:
    """Return the answer to get_secret.

    Args:
        session: the caller's transaction.
        clock: gives the event's time.
        caller: the device.
        payload: filters; absent ones mean everything the application has.
        file_url: what precedes a file's download token.
    """
    rows = _rows(session, caller, payload)
    record_uids = [row.record_uid for row in rows if row.record_uid is not None]
    files = _files(session, record_uids, file_url)
    links = _links(session, record_uids) if payload.requestLinks else {}
    folders: dict[str, dict[str, Any]] = {}
    for row in rows:
        folder = folders.setdefault(
            row.root_uid,
            {
                "folderUid": row.root_uid,
                "folderKey": to_base64(row.key_by_application),
                "data": to_base64(row.root_data),
                "records": [],  # always a list: clients walk it without asking
            },
        )
        if row.record_uid is not None:
            folder["records"].append(_record(row, files.get(row.record_uid, []), links.get(row.record_uid, [])))
    record_event(
        session, clock, caller.actor, "app_client_access",
        app_uid=caller.application.uid, device_name=caller.client.name, gateway_uid=caller.client.gateway_uid,
    )  # fmt: skip
    return _answer(caller, list(folders.values()))


def _answer(caller: Caller, folders: list[dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "appData": to_base64(caller.application.data),
        "folders": folders,
        "records": [],
        "warnings": [],
    }
    if caller.client.access_expires_at is not None:
        answer["expiresOn"] = int(caller.client.access_expires_at.timestamp() * 1000)
    if caller.has_bound:
        answer["encryptedAppKey"] = to_base64(caller.client.encrypted_app_key)
        answer["appOwnerPublicKey"] = to_base64(caller.owner_public_key)
    return answer


@cache
def _read_statement(
    *, by_record: bool, by_folder: bool
) -> Select[str, bytes, bool, bytes, str, str, bytes, bytes, int]:
    """Return the statement of a read, put together once: building it costs more than running it."""
    root = aliased(Folder)
    query = (
        select(
            ApplicationShare.folder_uid.label("root_uid"),
            ApplicationShare.key_by_application,
            ApplicationShare.can_edit,
            root.data.label("root_data"),
            StoredRecord.uid.label("record_uid"),
            StoredRecord.folder_uid.label("folder_uid"),
            StoredRecord.key_by_folder,
            StoredRecord.data,
            StoredRecord.revision,
        )
        .join(root, root.uid == ApplicationShare.folder_uid)
        .join(Folder, Folder.root_uid == ApplicationShare.folder_uid)
        .outerjoin(StoredRecord, StoredRecord.folder_uid == Folder.uid)
        .where(ApplicationShare.application_uid == bindparam("application_uid"))
        .order_by(ApplicationShare.created_at, ApplicationShare.folder_uid, StoredRecord.created_at, StoredRecord.uid)
    )
    if by_record:
        query = query.where(among(StoredRecord.uid, "record_uids"))
    if by_folder:
        query = query.where(among(Folder.uid, "folder_uids"))
    return query


def _rows(session: Session, caller: Caller, payload: GetSecret) -> list[Row[Any]]:
    """Return one row a record with its shared folder, and one without a record for a shared folder that is empty."""
    wanted: dict[str, Any] = {"application_uid": caller.application.uid}
    if payload.requestedRecords:
        wanted["record_uids"] = payload.requestedRecords
    if payload.requestedFolders:
        wanted["folder_uids"] = payload.requestedFolders
    query = _read_statement(by_record="record_uids" in wanted, by_folder="folder_uids" in wanted)
    return prepared.rows(session, query, wanted)


def _record(row: Row[Any], files: list[dict[str, Any]], links: list[dict[str, Any]]) -> dict[str, Any]:
    record = {
        "recordUid": row.record_uid,
        "recordKey": to_base64(row.key_by_folder),
        "data": to_base64(row.data),
        "revision": row.revision,
        "isEditable": row.can_edit,
        "files": files,
        "links": links,
    }
    if row.folder_uid != row.root_uid:
        record["innerFolderUid"] = row.folder_uid
    return record


def _files(session: Session, record_uids: list[str], file_url: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for part in _parts(record_uids):
        for file in prepared.rows(session, _FILES, {"record_uids": part}):
            found.setdefault(file.record_uid, []).append(
                {
                    "fileUid": file.uid,
                    "fileKey": to_base64(file.key_by_record),
                    "data": to_base64(file.data),
                    "url": file_url + file.download_token,
                    "thumbnailUrl": None,
                }
            )
    return found


def _parts(uids: list[str], size: int = 1000) -> Iterable[list[str]]:
    """Cut a long list: databases bound the number of parameters of a statement."""
    return (uids[start : start + size] for start in range(0, len(uids), size))


def _links(session: Session, record_uids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return each resource's own settings, its admin and its users, and each configuration's users."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in _parts(record_uids):
        admins: dict[str, str | None] = {}
        for link in session.scalars(_RESOURCES, {"record_uids": part}):
            admins[link.resource_uid] = link.admin_uid
            meta = {"allowedSettings": {"rotation": True}, "version": 1}
            found.setdefault(link.resource_uid, []).append(_link(link.resource_uid, meta, path="meta"))
        users = session.scalars(_USERS, {"record_uids": part}).all()
        for settings in users:
            place = settings.resource_uid or settings.configuration_uid
            is_admin = admins.get(place) == settings.record_uid
            found.setdefault(place, []).append(_link(settings.record_uid, _user(settings, is_admin=is_admin)))
        belonging = {(settings.resource_uid, settings.record_uid) for settings in users}
        for resource_uid, admin_uid in admins.items():
            if admin_uid is not None and (resource_uid, admin_uid) not in belonging:
                found[resource_uid].append(_link(admin_uid, {"is_admin": True, "belongs_to": False}))
    return found


def _user(settings: RotationSettings, *, is_admin: bool) -> dict[str, Any]:
    return {
        "is_admin": is_admin,
        "is_launch_credential": False,
        "is_iam_user": settings.profile == "iam_user",
        "belongs_to": True,
        "rotation_settings": {
            "schedule": settings.schedule,
            "pwd_complexity": to_base64(settings.complexity) if settings.complexity else "",
            "disabled": settings.disabled,
            "noop": settings.profile in {"scripts_only", "saas"},
            "saas_record_uid_list": [settings.saas_uid] if settings.saas_uid else [],
        },
    }


def _link(record_uid: str, data: dict[str, Any], *, path: str | None = None) -> dict[str, Any]:
    return {"recordUid": record_uid, "data": to_base64(json.dumps(data).encode()), "path": path}


def get_folders(session: Session, caller: Caller) -> dict[str, Any]:
    """Return the answer to get_folders: every folder in the application's shared folders, parents first."""
    rows = session.execute(
        select(Folder, ApplicationShare.key_by_application)
        .join(ApplicationShare, ApplicationShare.folder_uid == Folder.root_uid)
        .where(ApplicationShare.application_uid == caller.application.uid)
        .order_by(Folder.created_at, Folder.uid)
    ).all()
    keys = {folder.uid: key for folder, key in rows}
    answer = []
    for folder in parents_first([folder for folder, _ in rows]):
        key = folder.key_by_root if folder.key_by_root is not None else keys[folder.uid]
        entry = {"folderUid": folder.uid, "folderKey": to_base64(key), "data": to_base64(folder.data)}
        if folder.parent_uid is not None:
            entry["parent"] = folder.parent_uid
        answer.append(entry)
    return {"folders": answer}
