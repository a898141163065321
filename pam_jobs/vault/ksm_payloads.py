"""What KSM clients put into their requests. Unknown members are ignored: newer clients send more."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.crypto.blob import Blob
from pam_jobs.vault.models import MAX_DATA_BYTES, Uid

__all__ = [
    "AddFile",
    "ClientPayload",
    "CompleteTransaction",
    "CreateFolder",
    "CreateSecret",
    "DeleteFolder",
    "DeleteSecret",
    "GetSecret",
    "UpdateFolder",
    "UpdateSecret",
]

# The clients' own file uids are 16 plain random bytes, which may begin with a dash.
FileUid = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]$")]
_AnyUid = Annotated[str, Field(max_length=64)]
_Uids = Annotated[list[_AnyUid], Field(max_length=5000)]
_Key = Annotated[Blob, Field(min_length=48, max_length=256)]
_Data = Annotated[Blob, Field(min_length=29, max_length=MAX_DATA_BYTES)]


class ClientPayload(BaseModel):
    """What every request carries."""

    model_config = ConfigDict(hide_input_in_errors=True)

    clientVersion: str  # noqa: N815 - the names are the protocol's
    clientId: str = Field(max_length=120)  # noqa: N815


class GetSecret(ClientPayload):
    """get_secret and get_folders."""

    publicKey: Annotated[Blob, Field(min_length=65, max_length=65)] | None = None  # noqa: N815
    requestedRecords: _Uids | None = None  # noqa: N815
    requestedFolders: _Uids | None = None  # noqa: N815
    requestLinks: bool | None = None  # noqa: N815


class CreateSecret(ClientPayload):
    """create_secret."""

    recordUid: Uid  # noqa: N815
    recordKey: _Key  # noqa: N815 - ECIES to the application's owner
    folderUid: Uid  # noqa: N815 - the shared folder
    folderKey: _Key  # noqa: N815 - the record key by the shared folder's key
    data: _Data
    subFolderUid: Uid | None = None  # noqa: N815


class UpdateSecret(ClientPayload):
    """update_secret."""

    recordUid: Uid  # noqa: N815
    data: _Data
    revision: int = Field(ge=0)
    transactionType: Literal["general", "rotation"] | None = None  # noqa: N815
    links2Remove: Annotated[list[FileUid], Field(max_length=1000)] | None = None  # noqa: N815


class CompleteTransaction(ClientPayload):
    """finalize_secret_update and rollback_secret_update."""

    recordUid: Uid  # noqa: N815


class DeleteSecret(ClientPayload):
    """delete_secret."""

    recordUids: Annotated[list[_AnyUid], Field(min_length=1, max_length=500)]  # noqa: N815


class CreateFolder(ClientPayload):
    """create_folder."""

    folderUid: Uid  # noqa: N815
    sharedFolderUid: Uid  # noqa: N815
    sharedFolderKey: _Key  # noqa: N815 - the folder's key by the shared folder's (AES-CBC)
    data: _Data
    parentUid: Uid | None = None  # noqa: N815


class UpdateFolder(ClientPayload):
    """update_folder."""

    folderUid: Uid  # noqa: N815
    data: _Data


class DeleteFolder(ClientPayload):
    """delete_folder."""

    folderUids: Annotated[list[_AnyUid], Field(min_length=1, max_length=500)]  # noqa: N815
    forceDeletion: bool | None = None  # noqa: N815


class AddFile(ClientPayload):
    """add_file."""

    fileRecordUid: FileUid  # noqa: N815
    fileRecordKey: _Key  # noqa: N815 - ECIES to the application's owner
    fileRecordData: _Data  # noqa: N815
    ownerRecordUid: Uid  # noqa: N815
    ownerRecordData: _Data  # noqa: N815
    ownerRecordRevision: int = Field(ge=0)  # noqa: N815
    linkKey: _Key  # noqa: N815 - the file key by the record key
    fileSize: int = Field(ge=28)  # noqa: N815 - bytes of ciphertext
