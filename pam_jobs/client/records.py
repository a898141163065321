"""Records and their files, encrypted before they leave and decrypted after they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pam_jobs.client.folders import Folder, Folders
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import InvalidInput, NotFound, VaultConflict, VaultError
from pam_jobs.ids import is_uid, new_uid
from pam_jobs.records.record import Record

__all__ = ["AttachedFile", "NewRecord", "Records", "VaultRecord"]

_UPDATE_ATTEMPTS = 5
_MAX_FILE_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class AttachedFile:
    """A file of a record; its content is fetched apart."""

    uid: str
    name: str
    size: int
    key: bytes = field(repr=False)
    added_by: str | None


@dataclass(frozen=True, kw_only=True)
class VaultRecord:
    """A record, open, with its key and where it is."""

    uid: str
    folder_uid: str
    root_uid: str
    version: int  # 3: record, 6: configuration
    revision: int
    record: Record
    key: bytes = field(repr=False)
    owner_uid: str | None
    updated_at: str | None
    files: tuple[AttachedFile, ...] = ()

    @property
    def type(self) -> str:
        """The record type."""
        return self.record.type

    @property
    def title(self) -> str:
        """The title."""
        return self.record.title


@dataclass(frozen=True, kw_only=True)
class NewRecord:
    """What is sent to create a record, and its key."""

    uid: str
    key: bytes = field(repr=False)
    body: dict[str, Any] = field(repr=False)


class Records:
    """The records in the user's folders."""

    def __init__(self, router: RouterClient, session: Session, folders: Folders) -> None:
        self._router = router
        self._session = session
        self._folders = folders

    def list(self, folder: Folder | None = None) -> list[VaultRecord]:
        """Return the records, by title; of one folder, or of all."""
        rows = self._router.get("/api/v1/records", folder_uid=folder.uid if folder else None)["records"]
        opened = [record for record in map(self._open_or_none, rows) if record is not None]
        return sorted(opened, key=lambda entry: (entry.title.casefold(), entry.uid))

    def get(self, uid: str) -> VaultRecord:
        """Return one record.

        Raises:
            NotFound: there is none with that UID among the user's.
        """
        return self._open(self._router.get(f"/api/v1/records/{uid}"))

    def find(self, text: str, kinds: tuple[str, ...] = ()) -> VaultRecord:
        """Return the record with that UID, or with exactly that title.

        Args:
            text: UID or title.
            kinds: record types that a title is looked for among; empty: all.

        Raises:
            NotFound: there is none.
            InvalidInput: several have the title.
        """
        if is_uid(text):
            return self.get(text)
        titled = [entry for entry in self.list() if entry.title == text and (not kinds or entry.type in kinds)]
        if not titled:
            raise NotFound(f"there is no record {text!r}", remedy="give a UID or exact title from `pam record list`")
        if len(titled) > 1:
            raise InvalidInput(f"{len(titled)} records have the title {text!r}", remedy="give the UID instead")
        return titled[0]

    def seal(self, record: Record, folder: Folder, *, version: int = 3) -> NewRecord:
        """Return a new record as it is sent, encrypted under a new key."""
        uid, key = new_uid(), aes.new_key()
        body = {
            "uid": uid,
            "folder_uid": folder.uid,
            "version": version,
            "key": to_base64(aes.encrypt(key, self._folders.root_key(folder.root_uid))),
            "owner_key": to_base64(p256.ecies_encrypt(key, self._session.public_key)),
            "data": to_base64(aes.encrypt(record.to_json().encode(), key)),
            "credential": _credential(record, key),
        }
        return NewRecord(uid=uid, key=key, body=body)

    def add(self, record: Record, folder: Folder) -> str:
        """Create a record and return its UID."""
        new = self.seal(record, folder)
        self._router.post("/api/v1/records", new.body)
        return new.uid

    def update(self, uid: str, change: Callable[[Record], Record]) -> VaultRecord:
        """Change a record; when somebody else was first, the change is made again to the newer record.

        Args:
            uid: of the record.
            change: returns the changed record; may be called several times.

        Raises:
            VaultConflict: others kept changing it.
            StateError: the credential is changed while a rotation of it is not settled.
        """
        for attempt in range(_UPDATE_ATTEMPTS):
            stored = self.get(uid)
            changed = change(stored.record)
            if changed == stored.record:
                return stored
            body: dict[str, Any] = {
                "data": to_base64(aes.encrypt(changed.to_json().encode(), stored.key)),
                "revision": stored.revision,
                "credential": None,
            }
            if (changed.password, changed.private_key) != (stored.record.password, stored.record.private_key):
                body["credential"] = _credential(changed, stored.key)
            try:
                self._router.put(f"/api/v1/records/{uid}", body)
            except VaultConflict:
                if attempt == _UPDATE_ATTEMPTS - 1:
                    raise
            else:
                break
        return self.get(uid)

    def delete(self, uid: str) -> None:
        """Delete a record.

        Raises:
            StateError: something refers to it, or its credential is not settled.
        """
        self._router.delete(f"/api/v1/records/{uid}")

    def upload(self, stored: VaultRecord, name: str, content: bytes, mime_type: str | None = None) -> str:
        """Store an encrypted file beside a record and return its UID; the record must still refer to it.

        Raises:
            InvalidInput: it is larger than 10 MB.
        """
        if len(content) > _MAX_FILE_BYTES:
            raise InvalidInput(f"{name} has {len(content)} bytes", remedy="attach files of at most 10 MB")
        uid, key = new_uid(), aes.new_key()
        about = {"name": name, "title": name, "size": len(content), "type": mime_type or "application/octet-stream"}
        self._router.post(
            f"/api/v1/records/{stored.uid}/files",
            {
                "uid": uid,
                "key": to_base64(aes.encrypt(key, stored.key)),
                "owner_key": to_base64(p256.ecies_encrypt(key, self._session.public_key)),
                "data": to_base64(aes.encrypt(json.dumps(about).encode(), key)),
                "content": to_base64(aes.encrypt(content, key)),
            },
        )
        return uid

    def attach(self, uid: str, name: str, content: bytes, change: Callable[[Record, str], Record] | None = None) -> str:
        """Attach a file to a record and return the file's UID.

        Args:
            uid: of the record.
            name: of the file.
            content: at most 10 MB.
            change: also changes the record, given the file's UID.
        """
        file_uid = self.upload(self.get(uid), name, content)

        def refer(record: Record) -> Record:
            linked = record.set_field("fileRef", [*record.file_uids(), file_uid])
            return change(linked, file_uid) if change else linked

        try:
            self.update(uid, refer)
        except Exception:
            self._router.delete(f"/api/v1/files/{file_uid}")  # nothing refers to it
            raise
        return file_uid

    def detach(self, uid: str, file_uid: str, change: Callable[[Record], Record] | None = None) -> None:
        """Remove a file: first what refers to it, then the file."""

        def forget(record: Record) -> Record:
            left = record.set_field("fileRef", [entry for entry in record.file_uids() if entry != file_uid])
            return change(left) if change else left

        self.update(uid, forget)
        self._router.delete(f"/api/v1/files/{file_uid}")

    def download(self, file: AttachedFile) -> bytes:
        """Return the content of a file."""
        return aes.decrypt(self._router.content(f"/api/v1/files/{file.uid}/content"), file.key)

    def _open_or_none(self, row: dict[str, Any]) -> VaultRecord | None:
        try:
            return self._open(row)
        except (VaultError, InvalidInput, NotFound):
            return None  # one damaged record must not hide the others; `get` tells what is wrong with it

    def _open(self, row: dict[str, Any]) -> VaultRecord:
        key = aes.decrypt(from_base64(row["key"]), self._folders.root_key(row["root_uid"]))
        return VaultRecord(
            uid=row["uid"],
            folder_uid=row["folder_uid"],
            root_uid=row["root_uid"],
            version=row["version"],
            revision=row["revision"],
            record=Record.parse(aes.decrypt(from_base64(row["data"]), key)),
            key=key,
            owner_uid=row.get("owner_uid"),
            updated_at=row.get("updated_at"),
            files=tuple(_open_file(entry, key) for entry in row.get("files") or []),
        )


def _open_file(row: dict[str, Any], record_key: bytes) -> AttachedFile:
    key = aes.decrypt(from_base64(row["key"]), record_key)
    about = json.loads(aes.decrypt(from_base64(row["data"]), key))
    return AttachedFile(
        uid=row["uid"],
        name=str(about.get("name") or about.get("title") or row["uid"]),
        size=int(row.get("size") or 0),
        key=key,
        added_by=row.get("added_by"),
    )


def _credential(record: Record, key: bytes) -> str | None:
    """Return the sealed credential that begins the ledger of a rotatable record."""
    if record.type != "pamUser":
        return None
    parts = {"password": record.password, "private_key": record.private_key}
    plain = {name: part.reveal() for name, part in parts.items() if part}
    return to_base64(aes.encrypt(json.dumps(plain).encode(), key)) if plain else None
