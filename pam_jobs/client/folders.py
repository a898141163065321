"""Folders and their keys, decrypted on this side."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import InvalidInput, NotFound, VaultError
from pam_jobs.ids import new_uid

__all__ = ["Folder", "Folders"]

_UNREADABLE = "(cannot be decrypted)"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder whose key is open here."""

    uid: str
    parent_uid: str | None
    root_uid: str
    name: str
    key: bytes = field(repr=False)
    can_edit: bool


class Folders:
    """The folders that the signed-in user has."""

    def __init__(self, router: RouterClient, session: Session) -> None:
        self._router = router
        self._session = session
        self._known: dict[str, Folder] | None = None

    def list(self) -> list[Folder]:
        """Return every folder, by name."""
        return sorted(self._load().values(), key=lambda folder: (folder.name.casefold(), folder.uid))

    def find(self, text: str) -> Folder:
        """Return the folder with that UID, name or path (``Top/Sub``).

        Raises:
            NotFound: there is none.
            InvalidInput: several have the name.
        """
        known = self._load()
        if text in known:
            return known[text]
        named = [folder for folder in known.values() if text in {folder.name, self.path(folder)}]
        if not named:
            raise NotFound(f"there is no folder {text!r}", remedy="look at `pam folder list`")
        if len(named) > 1:
            raise InvalidInput(
                f"{len(named)} folders have the name {text!r}", remedy="give the UID from `pam folder list`"
            )
        return named[0]

    def path(self, folder: Folder) -> str:
        """Return the names from the top folder down, joined by slashes."""
        known = self._load()
        names = [folder.name]
        while folder.parent_uid and folder.parent_uid in known:
            folder = known[folder.parent_uid]
            names.insert(0, folder.name)
        return "/".join(names)

    def root_key(self, root_uid: str) -> bytes:
        """Return the key of a top folder, which seals the keys of all records under it.

        Raises:
            NotFound: the folder is not shared with the user.
        """
        folder = self._load().get(root_uid)
        if folder is None:
            raise NotFound(f"the folder {root_uid} is not yours", remedy="ask its owner for a share")
        return folder.key

    def add(self, name: str, parent: Folder | None = None) -> str:
        """Create a folder and return its UID.

        Raises:
            InvalidInput: the name is blank.
        """
        if not name.strip():
            raise InvalidInput("the folder has no name", remedy="give a name that is not blank")
        uid, key = new_uid(), aes.new_key()
        sealed = aes.encrypt_cbc(key, self.root_key(parent.root_uid)) if parent else self._to_me(key)
        data = aes.encrypt_cbc(json.dumps({"name": name}).encode(), key)
        self._router.post(
            "/api/v1/folders",
            {
                "uid": uid,
                "parent_uid": parent.uid if parent else None,
                "data": to_base64(data),
                "key": to_base64(sealed),
            },
        )
        self._known = None
        return uid

    def remove(self, folder: Folder) -> None:
        """Delete an empty folder.

        Raises:
            StateError: it is not empty.
        """
        self._router.delete(f"/api/v1/folders/{folder.uid}")
        self._known = None

    def _to_me(self, key: bytes) -> bytes:
        return p256.ecies_encrypt(key, self._session.public_key)

    def _load(self) -> dict[str, Folder]:
        if self._known is None:
            self._known = {}
            rows = self._router.get("/api/v1/folders")["folders"]
            for row in sorted(rows, key=lambda row: row["parent_uid"] is not None):  # top folders' keys come first
                folder = self._open(row)
                if folder is not None:
                    self._known[folder.uid] = folder
        return self._known

    def _open(self, row: dict[str, object]) -> Folder | None:
        sealed = from_base64(str(row["key"]))
        root_uid = str(row["root_uid"])
        try:
            if row["parent_uid"] is None:
                key = p256.ecies_decrypt(sealed, self._session.private_key)
            else:
                root = (self._known or {}).get(root_uid)
                if root is None:
                    return None
                key = aes.decrypt_cbc(sealed, root.key)
        except VaultError:
            return None  # one damaged folder must not hide the others
        try:
            name = str(json.loads(aes.decrypt_cbc(from_base64(str(row["data"])), key))["name"])
        except (VaultError, ValueError, KeyError, TypeError):
            name = _UNREADABLE
        return Folder(
            uid=str(row["uid"]),
            parent_uid=str(row["parent_uid"]) if row["parent_uid"] else None,
            root_uid=root_uid,
            name=name,
            key=key,
            can_edit=bool(row["can_edit"]),
        )
