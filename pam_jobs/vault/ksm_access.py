"""Which device asks: bound at its first contact, known by its signature from then on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import Application, ApplicationShare, Client, Folder, StoredRecord, User
from pam_jobs.errors import AccessDenied, NotFound
from pam_jobs.vault.ksm_envelope import Expired, InvalidClientVersion, Opened

__all__ = [
    "Caller",
    "authenticate",
    "check_version",
    "connected",
    "editable_record",
    "find",
    "shared_folder",
    "unknown_caller",
]

_VERSION = re.compile(r"^[a-z]{1,3}[0-9][0-9A-Za-z.+-]{0,30}$")
_ACCESS_RESOLUTION = timedelta(seconds=10)
_NEW_TOKEN = "add a new device to the application and use its token"  # noqa: S105 - a sentence


class ApplicationRow(NamedTuple):
    """An application as its devices are told of it; not the session's object."""

    uid: str
    data: bytes
    owner_uid: str


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A device that proved who it is."""

    client: Client  # a row, not the session's object
    application: ApplicationRow
    owner_public_key: bytes
    actor: Actor
    has_bound: bool  # the request carried the public key: the answer carries the wrapped application key


def unknown_caller(remote_address: str | None, version: str | None = None, name: str = "unknown") -> Actor:
    """Return whom the audit log names while nobody has proved anything."""
    return Actor(username=f"client:{name}", remote_address=remote_address, client_version=version)


def check_version(version: str) -> None:
    """Return when the text is a version as the clients send it, such as ``mp17.3.0``.

    Raises:
        InvalidClientVersion: it is not.
    """
    if not _VERSION.match(version):
        raise InvalidClientVersion("the client version is not of a known form", remedy="use one of the vendor's SDKs")


_CLIENTS: Final = table_of(Client)
_DEVICE: Final = (  # made once: it runs with every request of every device
    select(
        _CLIENTS,
        Application.data.label("application_data"),
        Application.owner_uid,
        User.public_key.label("owner_public_key"),
    )
    .join(Application, Application.uid == _CLIENTS.c.application_uid)
    .join(User, User.uid == Application.owner_uid)
    .where(_CLIENTS.c.client_id == bindparam("client_id"))
)
_NOTE: Final = update(_CLIENTS).where(_CLIENTS.c.client_id == bindparam("client"))


def find(session: Session, client_id: str) -> tuple[Client, ApplicationRow, bytes]:
    """Return the device of that id, its application and the public key of the application's owner.

    Raises:
        AccessDenied: there is none.
    """
    row = prepared.row(session, _DEVICE, {"client_id": client_id})
    if row is None:
        raise AccessDenied("the device is not known", remedy=_NEW_TOKEN)
    application = ApplicationRow(row.application_uid, row.application_data, row.owner_uid)
    return cast("Client", row), application, row.owner_public_key


def authenticate(
    session: Session,
    clock: Clock,
    opened: Opened,
    client: Client,
    *,
    public_key: bytes | None,
    remote_address: str | None,
) -> bool:
    """Return when the request is this device's, having bound it at its first contact.

    Args:
        session: the caller's transaction.
        clock: tells what has expired.
        opened: the request.
        client: the device it claims to be from.
        public_key: what the request carries until the device is bound.
        remote_address: where it comes from.

    Returns:
        Whether the request carried the public key, so that its answer carries the wrapped application key. A device
        whose first answer was lost asks again with the same key and gets it again.

    Raises:
        Expired: the time of the first access, or of all access, is over.
        AccessDenied: wrong signature, a token used twice with different keys, a removed device, or another address
            than the first.
    """
    now = clock.now()
    known = client.public_key or public_key
    if known is None:
        raise AccessDenied("the device is not bound yet", remedy="call get_secret first, with the one-time token")
    if public_key is not None and public_key != known:
        raise AccessDenied("the one-time token was used already, with another key", remedy=_NEW_TOKEN)
    if not opened.is_signed_by(known):
        raise AccessDenied("the signature is not by this device's key", remedy=_NEW_TOKEN)
    if client.removed_at is not None:
        raise AccessDenied("the access of this device was ended", remedy=_NEW_TOKEN)
    if client.access_expires_at is not None and now >= client.access_expires_at:
        raise Expired("the access of this device has expired", remedy=_NEW_TOKEN)
    if client.public_key is None and now >= client.first_access_expires_at:
        raise Expired("the one-time token was not used in its time", remedy=_NEW_TOKEN)
    if client.lock_ip and client.locked_ip is not None and client.locked_ip != remote_address:
        raise AccessDenied("the device is locked to another address", remedy="ask from the address of its first access")
    noted: dict[str, Any] = {}
    if client.public_key is None:
        _bind(session, client, known)
        noted["first_access_at"] = now
    if client.lock_ip and client.locked_ip is None:
        noted["locked_ip"] = remote_address
    if client.last_access_at is None or now - client.last_access_at >= _ACCESS_RESOLUTION:
        noted["last_access_at"] = now
    if noted:
        prepared.run(session, _NOTE, {"client": client.client_id, **noted})
    return public_key is not None


def _bind(session: Session, client: Client, public_key: bytes) -> None:
    """Set the key where none is set: of two first contacts at once, the second finds the first one's."""
    done = session.execute(
        update(Client)
        .where(Client.client_id == client.client_id, Client.public_key.is_(None))
        .values(public_key=public_key)
        .returning(Client.client_id)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if done is None:
        raise AccessDenied("the one-time token was used already, with another key", remedy=_NEW_TOKEN)


def connected(session: Session, clock: Clock, caller: Caller) -> None:
    """Write that the device made its first contact."""
    record_event(
        session, clock, caller.actor, "app_client_connected",
        app_uid=caller.application.uid, device_name=caller.client.name, gateway_uid=caller.client.gateway_uid,
    )  # fmt: skip


def shared_folder(session: Session, caller: Caller, folder_uid: str, *, can_edit: bool) -> Folder:
    """Return a folder that lies in one of the application's shared folders.

    Raises:
        NotFound: there is none.
        AccessDenied: the application may read but not edit there.
    """
    row = session.execute(
        select(Folder, ApplicationShare.can_edit)
        .join(ApplicationShare, ApplicationShare.folder_uid == Folder.root_uid)
        .where(Folder.uid == folder_uid, ApplicationShare.application_uid == caller.application.uid)
    ).one_or_none()
    if row is None:
        raise NotFound("the folder is not shared with this application", remedy="share it with the application first")
    if can_edit and not row[1]:
        raise _read_only()
    folder: Folder = row[0]
    return folder


def editable_record(session: Session, caller: Caller, record_uid: str) -> StoredRecord:
    """Return a record that the application may edit, its row locked.

    Raises:
        NotFound: there is none in the application's folders.
        AccessDenied: the application may read but not edit it.
    """
    row = session.execute(
        select(StoredRecord, ApplicationShare.can_edit)
        .join(Folder, Folder.uid == StoredRecord.folder_uid)
        .join(ApplicationShare, ApplicationShare.folder_uid == Folder.root_uid)
        .where(StoredRecord.uid == record_uid, ApplicationShare.application_uid == caller.application.uid)
        .with_for_update(of=StoredRecord)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise NotFound("the record is not shared with this application", remedy="share its folder with the application")
    if not row[1]:
        raise _read_only()
    record: StoredRecord = row[0]
    return record


def _read_only() -> AccessDenied:
    return AccessDenied("the application may read this folder but not change it", remedy="share it with --can-edit")
