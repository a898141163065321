"""What an operator's client sends to the vault: checked in form and bounded in size, ciphertext all of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pam_jobs.crypto.blob import Blob
from pam_jobs.ids import is_uid

__all__ = [
    "Ciphertext",
    "NewApplication",
    "NewClient",
    "NewFile",
    "NewFolder",
    "NewRecord",
    "NewShare",
    "RecordChange",
    "StrictModel",
    "Uid",
    "WrappedKey",
]

MAX_DATA_BYTES = 1_000_000
"""Largest ciphertext of one record's data, of a credential or of file metadata."""


class StrictModel(BaseModel):
    """A model that knows all its fields and shows no value in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError("not a UID: 22 base64url characters of 16 bytes that do not begin with '-'")
    return text


Uid = Annotated[str, AfterValidator(_uid)]
WrappedKey = Annotated[Blob, Field(min_length=48, max_length=256)]
"""A 32-byte key by another key: 60 bytes in AES-GCM, 64 in AES-CBC, 125 in ECIES."""
Ciphertext = Annotated[Blob, Field(min_length=29, max_length=MAX_DATA_BYTES)]


class NewFolder(StrictModel):
    """A folder to create; without a parent it is a shared folder and the key is for its creator."""

    uid: Uid
    parent_uid: Uid | None = None
    data: Ciphertext
    key: WrappedKey


class NewRecord(StrictModel):
    """A record to create."""

    uid: Uid
    folder_uid: Uid
    version: Literal[3, 6]
    key: WrappedKey  # by the shared (root) folder's key
    owner_key: WrappedKey  # ECIES to the creator
    data: Ciphertext
    credential: Ciphertext | None = None


class RecordChange(StrictModel):
    """A record's new data, made from the given revision."""

    data: Ciphertext
    revision: int = Field(ge=1)
    credential: Ciphertext | None = None


class NewFile(StrictModel):
    """A file to attach, content included."""

    uid: Uid
    key: WrappedKey  # by the record key
    owner_key: WrappedKey | None = None
    data: Ciphertext
    content: Annotated[Blob, Field(min_length=28)]


class NewApplication(StrictModel):
    """An application to create."""

    uid: Uid
    data: Ciphertext
    key: WrappedKey  # ECIES to the creator


class NewShare(StrictModel):
    """A shared folder for an application."""

    key: WrappedKey  # the folder's key by the application key
    can_edit: bool = False


class NewClient(StrictModel):
    """A device to add to an application. The router sees neither its token nor the application key."""

    client_id: str = Field(pattern=r"^[A-Za-z0-9+/]{86}==$", description="base64 of HMAC-SHA512 of the token")
    name: str = Field(min_length=1, max_length=128)
    encrypted_app_key: WrappedKey
    lock_ip: bool = False
    first_access_expires_in_seconds: int = Field(3600, ge=60, le=86_400)
    access_expires_in_seconds: int | None = Field(None, ge=60, le=10 * 366 * 86_400)
