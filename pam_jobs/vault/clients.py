"""Devices of applications: added with a one-time token's hash, bound at their first contact."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Application, Client
from pam_jobs.errors import AlreadyExists, NotFound
from pam_jobs.vault import applications
from pam_jobs.vault.models import NewClient

__all__ = ["add", "client_id_of", "list_for_user", "remove", "remove_of_gateway"]

_CLIENT_ID_TEXT = b"KEEPER_SECRETS_MANAGER_CLIENT_ID"


def client_id_of(token: bytes) -> str:
    """Return the id that clients derive from their one-time token; done by whoever makes the token, not by the router."""
    return base64.b64encode(hmac.new(token, _CLIENT_ID_TEXT, hashlib.sha512).digest()).decode()


def add(
    session: Session,
    clock: Clock,
    actor: Actor,
    user_uid: str,
    application_uid: str,
    new: NewClient,
    *,
    gateway_uid: str | None = None,
) -> Client:
    """Add a device to an application of the user's; its one-time token serves until the first access expires.

    Args:
        session: the caller's transaction.
        clock: gives creation and expiry.
        actor: who does it.
        user_uid: the application's owner.
        application_uid: which application.
        new: id, name and wrapped application key.
        gateway_uid: the gateway that the device is, if it is one.

    Raises:
        AlreadyExists: the id is taken; also that of a removed device, whose token must not live again.
        NotFound: there is no such application of the user's.
    """
    applications.require(session, user_uid, application_uid)
    if session.get(Client, new.client_id) is not None:
        raise AlreadyExists("a device with this token exists already", remedy="make a new token")
    now = clock.now()
    expires = new.access_expires_in_seconds
    client = Client(
        client_id=new.client_id,
        application_uid=application_uid,
        gateway_uid=gateway_uid,
        name=new.name,
        encrypted_app_key=new.encrypted_app_key,
        lock_ip=new.lock_ip,
        first_access_expires_at=now + timedelta(seconds=new.first_access_expires_in_seconds),
        access_expires_at=now + timedelta(seconds=expires) if expires is not None else None,
        created_at=now,
    )
    session.add(client)
    session.flush()
    record_event(
        session, clock, actor, "app_client_added",
        app_uid=application_uid, device_name=new.name, gateway_uid=gateway_uid,
    )  # fmt: skip
    return client


def list_for_user(session: Session, user_uid: str, application_uid: str) -> list[Client]:
    """Return the devices of an application of the user's that were not removed, oldest first.

    Raises:
        NotFound: there is no such application of the user's.
    """
    applications.require(session, user_uid, application_uid)
    rows = session.scalars(
        select(Client)
        .where(Client.application_uid == application_uid, Client.removed_at.is_(None))
        .order_by(Client.created_at, Client.client_id)
    )
    return list(rows)


def remove(session: Session, clock: Clock, actor: Actor, user_uid: str, client_id: str) -> None:
    """End the access of a device; its row stays, so that its token never works again.

    Raises:
        NotFound: there is no such device in an application of the user's.
    """
    client = session.scalar(
        select(Client)
        .join(Application, Application.uid == Client.application_uid)
        .where(Client.client_id == client_id, Application.owner_uid == user_uid, Client.removed_at.is_(None))
        .with_for_update(of=Client)
    )
    if client is None:
        raise NotFound("there is no such device of yours", remedy="take its id from `pam app client list`")
    _end(session, clock, actor, client)


def remove_of_gateway(session: Session, clock: Clock, actor: Actor, gateway_uid: str) -> None:
    """End the access of every device of a gateway, as its removal does."""
    for client in session.scalars(
        select(Client).where(Client.gateway_uid == gateway_uid, Client.removed_at.is_(None)).with_for_update()
    ):
        _end(session, clock, actor, client)


def _end(session: Session, clock: Clock, actor: Actor, client: Client) -> None:
    client.removed_at = clock.now()
    record_event(
        session, clock, actor, "app_client_removed",
        app_uid=client.application_uid, device_name=client.name, gateway_uid=client.gateway_uid,
    )  # fmt: skip
