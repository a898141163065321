"""What the vault holds: ciphertext, wrapped keys and identifiers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from pam_jobs.db.base import Base, BigIntKey

__all__ = [
    "Application",
    "ApplicationShare",
    "Client",
    "CredentialVersion",
    "FileBlob",
    "Folder",
    "FolderMember",
    "StoredFile",
    "StoredRecord",
    "VersionKind",
    "VersionState",
]


class Folder(Base):
    """A folder; one without a parent is a shared folder, the unit that users and applications are given."""

    __tablename__ = "folders"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    parent_uid: Mapped[str | None] = mapped_column(ForeignKey("folders.uid"), index=True)
    root_uid: Mapped[str] = mapped_column(String(22), index=True)  # the shared folder it lies in; itself for a root
    data: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-CBC by the folder key: {"name": …}
    key_by_root: Mapped[bytes | None] = mapped_column(LargeBinary)  # subfolder: AES-256-CBC by the shared folder's key
    created_at: Mapped[datetime]
    revision: Mapped[int] = mapped_column(default=1)


class FolderMember(Base):
    """A user's way to a shared folder's key."""

    __tablename__ = "folder_members"

    folder_uid: Mapped[str] = mapped_column(ForeignKey("folders.uid"), primary_key=True)
    user_uid: Mapped[str] = mapped_column(ForeignKey("users.uid"), primary_key=True)
    key_by_user: Mapped[bytes] = mapped_column(LargeBinary)  # ECIES to the user's public key
    can_edit: Mapped[bool]


class StoredRecord(Base):
    """A record as ciphertext. ``revision`` grows by one with each change and is the optimistic lock."""

    __tablename__ = "records"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    folder_uid: Mapped[str] = mapped_column(ForeignKey("folders.uid"), index=True)  # the folder it lies in
    version: Mapped[int]  # Keeper's record version: 3 typed record, 6 PAM configuration
    key_by_folder: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the shared (root) folder's key
    key_by_owner: Mapped[bytes] = mapped_column(LargeBinary)  # ECIES to the owner's public key
    owner_uid: Mapped[str] = mapped_column(ForeignKey("users.uid"), index=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the record key
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class StoredFile(Base):
    """A file attached to a record: metadata and key are ciphertext, content is in ``file_blobs``."""

    __tablename__ = "files"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    record_uid: Mapped[str] = mapped_column(ForeignKey("records.uid"), index=True)
    key_by_record: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the record key (KSM linkKey)
    key_by_owner: Mapped[bytes | None] = mapped_column(LargeBinary)  # ECIES to the owner
    data: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the file key: {"name","title","size","type"…}
    size: Mapped[int]  # bytes of ciphertext announced
    added_by: Mapped[str] = mapped_column(String(120))  # user uid, or client id
    upload_token_hash: Mapped[bytes | None] = mapped_column(LargeBinary)  # SHA-256; None once uploaded
    download_token: Mapped[str] = mapped_column(String(64), unique=True)  # names the capability URL
    uploaded_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class FileBlob(Base):
    """A file's content, AES-256-GCM by the file key."""

    __tablename__ = "file_blobs"

    file_uid: Mapped[str] = mapped_column(ForeignKey("files.uid"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Application(Base):
    """A Keeper Secrets Manager application: an identity that devices act for."""

    __tablename__ = "applications"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    owner_uid: Mapped[str] = mapped_column(ForeignKey("users.uid"), index=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the application key: {"title","type"}
    key_by_owner: Mapped[bytes] = mapped_column(LargeBinary)  # ECIES to the owner
    created_at: Mapped[datetime]


class ApplicationShare(Base):
    """A shared folder that an application's devices can read, and edit when ``can_edit``."""

    __tablename__ = "application_shares"

    application_uid: Mapped[str] = mapped_column(ForeignKey("applications.uid"), primary_key=True)
    folder_uid: Mapped[str] = mapped_column(ForeignKey("folders.uid"), primary_key=True)  # a root folder
    key_by_application: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the application key
    can_edit: Mapped[bool]
    created_at: Mapped[datetime]


class Client(Base):
    """A device of an application; bound once its public key is known."""

    __tablename__ = "clients"

    client_id: Mapped[str] = mapped_column(String(120), primary_key=True)  # base64 of HMAC-SHA512 of the token
    application_uid: Mapped[str] = mapped_column(ForeignKey("applications.uid"), index=True)
    gateway_uid: Mapped[str | None] = mapped_column(ForeignKey("gateways.uid"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    encrypted_app_key: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM(application key, token)
    public_key: Mapped[bytes | None] = mapped_column(LargeBinary)  # set at the first contact
    lock_ip: Mapped[bool]
    locked_ip: Mapped[str | None] = mapped_column(String(64))
    first_access_expires_at: Mapped[datetime]
    access_expires_at: Mapped[datetime | None]
    first_access_at: Mapped[datetime | None]
    last_access_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class VersionState(StrEnum):
    """Where a credential version stands; nothing but ``staged`` and ``applying`` is unresolved."""

    STAGED = "staged"  # durable, the target has not heard of it
    APPLYING = "applying"  # the target may have it
    CURRENT = "current"  # proven to log in, or given by the operator
    PREVIOUS = "previous"  # was current
    RETIRED = "retired"  # was previous
    ABANDONED = "abandoned"  # refused by the target for a stated reason while current was proven


class VersionKind(StrEnum):
    """What a version's ciphertext holds."""

    CREDENTIAL = "credential"  # {"password", "private_key", "public_key"} by the record key
    RECORD = "record"  # the whole record data, staged by a KSM client's transaction


_UNRESOLVED = text("state IN ('staged', 'applying')")
_CURRENT = text("state = 'current'")


class CredentialVersion(Base):
    """The candidate ledger: immutable values whose state alone moves; unresolved ones block every deletion."""

    __tablename__ = "credential_versions"
    __table_args__ = (
        UniqueConstraint("record_uid", "seq"),
        Index(
            "uq_versions_unresolved", "record_uid", unique=True, sqlite_where=_UNRESOLVED, postgresql_where=_UNRESOLVED
        ),
        Index("uq_versions_current", "record_uid", unique=True, sqlite_where=_CURRENT, postgresql_where=_CURRENT),
    )

    id: Mapped[int] = mapped_column(BigIntKey, primary_key=True)
    record_uid: Mapped[str] = mapped_column(ForeignKey("records.uid", ondelete="RESTRICT"))
    seq: Mapped[int]  # 1, 2, 3 … within the record
    kind: Mapped[VersionKind] = mapped_column(String(16))
    epoch: Mapped[int]  # of the latest attempt that wrote to it; 0 for operators and KSM clients
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[VersionState] = mapped_column(String(16))
    base_revision: Mapped[int | None]  # of the record when a KSM client staged it
    job_uid: Mapped[str | None] = mapped_column(String(22))
    staged_by: Mapped[str] = mapped_column(String(120))  # gateway uid, client id or user uid
    staged_at: Mapped[datetime]
    applying_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    evidence: Mapped[dict[str, Any]]  # plain: {"login": "accepted", "gateway": …, "at": …, "cause": …}
