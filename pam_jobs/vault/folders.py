"""Folders and who may use them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import ApplicationShare, Folder, FolderMember, StoredRecord
from pam_jobs.errors import AccessDenied, AlreadyExists, NotFound, StateError
from pam_jobs.vault.models import NewFolder

__all__ = ["FolderView", "create", "delete", "list_for_user", "parents_first", "require_member", "subtree"]

_LIST_FIRST = "list the folders and take the UID from there"


@dataclass(frozen=True, kw_only=True)
class FolderView:
    """A folder as one of its members sees it."""

    uid: str
    parent_uid: str | None
    root_uid: str
    data: bytes
    key: bytes  # a root's by ECIES to the member; a subfolder's by its root's key (AES-CBC)
    can_edit: bool
    revision: int


def list_for_user(session: Session, user_uid: str) -> list[FolderView]:
    """Return the folders of every shared folder that the user is a member of, parents before their children."""
    rows = session.execute(
        select(Folder, FolderMember)
        .join(FolderMember, FolderMember.folder_uid == Folder.root_uid)
        .where(FolderMember.user_uid == user_uid)
        .order_by(Folder.created_at, Folder.uid)
    ).all()
    members = {folder.uid: member for folder, member in rows}
    return [
        FolderView(
            uid=folder.uid,
            parent_uid=folder.parent_uid,
            root_uid=folder.root_uid,
            data=folder.data,
            key=folder.key_by_root if folder.key_by_root is not None else members[folder.uid].key_by_user,
            can_edit=members[folder.uid].can_edit,
            revision=folder.revision,
        )
        for folder in parents_first([folder for folder, _ in rows])
    ]


def parents_first(folders: Iterable[Folder]) -> list[Folder]:
    """Return the folders so that each one follows its parent; clients open keys in this order."""
    waiting = {folder.uid: folder for folder in folders}
    ordered: list[Folder] = []
    while waiting:
        ready = [folder for folder in waiting.values() if folder.parent_uid not in waiting]
        if not ready:  # a cycle cannot be made through the API; a damaged table must not hang the router
            break
        ordered.extend(waiting.pop(folder.uid) for folder in ready)
    return ordered


def require_member(session: Session, user_uid: str, folder_uid: str, *, can_edit: bool = False) -> Folder:
    """Return the folder when the user is a member of its shared folder.

    Raises:
        NotFound: there is no such folder, or the user is no member; the answer does not tell which.
        AccessDenied: the user may read but not edit.
    """
    row = session.execute(
        select(Folder, FolderMember)
        .join(FolderMember, FolderMember.folder_uid == Folder.root_uid)
        .where(Folder.uid == folder_uid, FolderMember.user_uid == user_uid)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no folder {folder_uid} of yours", remedy=_LIST_FIRST)
    folder, member = row
    if can_edit and not member.can_edit:
        raise AccessDenied("you may read this folder but not change it", remedy="ask its owner for the right to edit")
    return folder


def create(session: Session, clock: Clock, actor: Actor, user_uid: str, new: NewFolder) -> Folder:
    """Add a folder; who creates a shared folder becomes its first member, with the right to edit.

    Raises:
        AlreadyExists: the UID is taken.
        NotFound: the parent is no folder of the user's.
        AccessDenied: the user may not edit the parent.
    """
    parent = require_member(session, user_uid, new.parent_uid, can_edit=True) if new.parent_uid else None
    if session.get(Folder, new.uid) is not None:
        raise AlreadyExists(f"the folder {new.uid} exists already", remedy="create it with a new UID")
    folder = Folder(
        uid=new.uid,
        parent_uid=new.parent_uid,
        root_uid=parent.root_uid if parent else new.uid,
        data=new.data,
        key_by_root=new.key if parent else None,
        created_at=clock.now(),
        revision=1,
    )
    session.add(folder)
    session.flush()
    if parent is None:
        session.add(FolderMember(folder_uid=new.uid, user_uid=user_uid, key_by_user=new.key, can_edit=True))
    record_event(session, clock, actor, "folder_add", folder_uid=folder.uid, shared_folder_uid=folder.root_uid)
    return folder


def delete(session: Session, clock: Clock, actor: Actor, user_uid: str, folder_uid: str) -> None:
    """Remove an empty folder that no application has.

    Raises:
        NotFound: it is no folder of the user's.
        AccessDenied: the user may not edit it.
        StateError: it holds folders or records, or an application has a share of it.
    """
    folder = require_member(session, user_uid, folder_uid, can_edit=True)
    held = select(Folder.uid).where(Folder.parent_uid == folder_uid)
    records = select(StoredRecord.uid).where(StoredRecord.folder_uid == folder_uid)
    if session.scalar(held.limit(1)) is not None or session.scalar(records.limit(1)) is not None:
        raise StateError("the folder is not empty", remedy="delete its records and folders first")
    shares = select(ApplicationShare.application_uid).where(ApplicationShare.folder_uid == folder_uid)
    if session.scalar(shares.limit(1)) is not None:
        raise StateError("the folder is shared with an application", remedy="remove the share first")
    for member in session.scalars(select(FolderMember).where(FolderMember.folder_uid == folder_uid)):
        session.delete(member)
    session.flush()
    session.delete(folder)
    record_event(session, clock, actor, "folder_delete", folder_uid=folder_uid, shared_folder_uid=folder.root_uid)


def subtree(session: Session, folder: Folder) -> list[Folder]:
    """Return the folder and everything below it, parents before their children."""
    known = session.scalars(select(Folder).where(Folder.root_uid == folder.root_uid)).all()
    below = {folder.uid}
    found = [folder]
    for candidate in parents_first(known):
        if candidate.parent_uid in below and candidate.uid not in below:
            below.add(candidate.uid)
            found.append(candidate)
    return found
