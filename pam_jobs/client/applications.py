"""Applications, what is shared with them, and the devices that act for them."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from pam_jobs.client.folders import Folder, Folders
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import InvalidInput, NotFound, VaultError
from pam_jobs.ids import b64url, new_uid
from pam_jobs.secret import SecretValue

__all__ = ["Application", "Applications", "NewClient", "new_client"]

_CLIENT_ID_MESSAGE = b"KEEPER_SECRETS_MANAGER_CLIENT_ID"


@dataclass(frozen=True, kw_only=True)
class Application:
    """An application whose key is open here."""

    uid: str
    title: str
    key: bytes = field(repr=False)
    created_at: str | None
    shares: tuple[dict[str, Any], ...]  # {folder_uid, can_edit}
    clients: tuple[dict[str, Any], ...]

    def can_edit(self, root_uid: str) -> bool | None:
        """Say whether it may change a top folder; None when the folder is not shared with it."""
        return next((bool(share["can_edit"]) for share in self.shares if share["folder_uid"] == root_uid), None)


@dataclass(frozen=True, kw_only=True)
class NewClient:
    """A device that has not connected yet."""

    token: SecretValue  # one-time
    body: dict[str, Any]  # what the router stores: neither token nor application key


def new_client(
    app_key: bytes,
    name: str,
    *,
    lock_ip: bool,
    first_access_expires_in_seconds: int,
    access_expires_in_seconds: int | None = None,
) -> NewClient:
    """Return a one-time token and what is stored for it.

    Args:
        app_key: of the application; sealed by the token.
        name: for people.
        lock_ip: only the address that connects first may connect later.
        first_access_expires_in_seconds: 60 to 86400.
        access_expires_in_seconds: when the device loses access; None: never.
    """
    token = secrets.token_bytes(32)
    body = {
        "client_id": to_base64(hmac.digest(token, _CLIENT_ID_MESSAGE, hashlib.sha512)),
        "name": name,
        "encrypted_app_key": to_base64(aes.encrypt(app_key, token)),
        "lock_ip": lock_ip,
        "first_access_expires_in_seconds": first_access_expires_in_seconds,
    }
    if access_expires_in_seconds is not None:
        body["access_expires_in_seconds"] = access_expires_in_seconds
    return NewClient(token=SecretValue(b64url(token)), body=body)


class Applications:
    """The user's applications."""

    def __init__(self, router: RouterClient, session: Session, folders: Folders) -> None:
        self._router = router
        self._session = session
        self._folders = folders

    def list(self) -> list[Application]:
        """Return the applications, by title."""
        rows = self._router.get("/api/v1/applications")["applications"]
        opened = [app for app in map(self._open, rows) if app is not None]
        return sorted(opened, key=lambda app: (app.title.casefold(), app.uid))

    def find(self, text: str) -> Application:
        """Return the application with that UID or exact title.

        Raises:
            NotFound: there is none.
            InvalidInput: several have the title.
        """
        known = self.list()
        for app in known:
            if app.uid == text:
                return app
        titled = [app for app in known if app.title == text]
        if not titled:
            raise NotFound(f"there is no application {text!r}", remedy="look at `pam app list`")
        if len(titled) > 1:
            raise InvalidInput(f"{len(titled)} applications have the title {text!r}", remedy="give the UID instead")
        return titled[0]

    def add(self, title: str) -> str:
        """Create an application and return its UID.

        Raises:
            InvalidInput: the title is blank.
        """
        if not title.strip():
            raise InvalidInput("the application has no name", remedy="give a name that is not blank")
        uid, key = new_uid(), aes.new_key()
        data = aes.encrypt(json.dumps({"title": title, "type": "app"}).encode(), key)
        sealed = p256.ecies_encrypt(key, self._session.public_key)
        self._router.post("/api/v1/applications", {"uid": uid, "data": to_base64(data), "key": to_base64(sealed)})
        return uid

    def remove(self, app: Application) -> None:
        """Delete an application with its shares and devices.

        Raises:
            StateError: a gateway uses it.
        """
        self._router.delete(f"/api/v1/applications/{app.uid}")

    def share(self, app: Application, folder: Folder, *, can_edit: bool) -> None:
        """Let the application read a top folder and all below it, and change it when ``can_edit``.

        Raises:
            InvalidInput: the folder is not a top one.
        """
        if folder.parent_uid is not None:
            raise InvalidInput(
                f"{folder.name!r} lies inside another folder, and shares are of top folders",
                remedy=f"share {folder.root_uid} instead",
            )
        key = to_base64(aes.encrypt(self._folders.root_key(folder.uid), app.key))
        self._router.put(f"/api/v1/applications/{app.uid}/shares/{folder.uid}", {"key": key, "can_edit": can_edit})

    def unshare(self, app: Application, folder_uid: str) -> None:
        """Take a folder away from the application."""
        self._router.delete(f"/api/v1/applications/{app.uid}/shares/{folder_uid}")

    def add_client(self, app: Application, client: NewClient) -> None:
        """Store a device that may connect with its token once."""
        self._router.post(f"/api/v1/applications/{app.uid}/clients", client.body)

    def remove_client(self, client_id: str) -> None:
        """Take a device's access away."""
        self._router.delete("/api/v1/clients", client_id=client_id)

    def client_config(self, token: SecretValue) -> dict[str, str]:
        """Return the configuration that the SDKs take: address, one-time token and the router's key."""
        server = self._router.get("/api/v1/server")
        return {
            "hostname": server["public_host"],
            "clientKey": token.reveal(),
            "serverPublicKey": server["server_public_key"],
            "serverPublicKeyId": server["server_public_key_id"],
        }

    def _open(self, row: dict[str, Any]) -> Application | None:
        try:
            key = p256.ecies_decrypt(from_base64(row["key"]), self._session.private_key)
            title = str(json.loads(aes.decrypt(from_base64(row["data"]), key))["title"])
        except (VaultError, ValueError, KeyError, TypeError):
            return None  # one damaged application must not hide the others
        return Application(
            uid=row["uid"],
            title=title,
            key=key,
            created_at=row.get("created_at"),
            shares=tuple(row.get("shares") or ()),
            clients=tuple(row.get("clients") or ()),
        )
