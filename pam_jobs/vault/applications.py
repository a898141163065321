"""Secrets Manager applications and the folders that are shared with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Application, ApplicationShare, Client, Gateway
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound, StateError
from pam_jobs.vault import folders
from pam_jobs.vault.models import NewApplication, NewShare

__all__ = ["ApplicationView", "create", "delete", "list_for_user", "require", "share", "unshare"]


@dataclass(frozen=True, kw_only=True)
class ApplicationView:
    """An application with its shares and its devices."""

    row: Application
    shares: list[ApplicationShare] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)


def require(session: Session, user_uid: str, application_uid: str) -> Application:
    """Return the application when the user owns it; nobody else could open its key.

    Raises:
        NotFound: there is no such application of the user's.
    """
    application = session.get(Application, application_uid)
    if application is None or application.owner_uid != user_uid:
        raise NotFound(f"there is no application {application_uid} of yours", remedy="take the UID from `pam app list`")
    return application


def list_for_user(session: Session, user_uid: str) -> list[ApplicationView]:
    """Return the user's applications, oldest first."""
    rows = session.scalars(
        select(Application).where(Application.owner_uid == user_uid).order_by(Application.created_at, Application.uid)
    ).all()
    views = {row.uid: ApplicationView(row=row) for row in rows}
    owned = select(Application.uid).where(Application.owner_uid == user_uid)
    for given in session.scalars(select(ApplicationShare).where(ApplicationShare.application_uid.in_(owned))):
        views[given.application_uid].shares.append(given)
    for client in session.scalars(
        select(Client)
        .where(Client.application_uid.in_(owned), Client.removed_at.is_(None))
        .order_by(Client.created_at, Client.client_id)
    ):
        views[client.application_uid].clients.append(client)
    return list(views.values())


def create(session: Session, clock: Clock, actor: Actor, user_uid: str, new: NewApplication) -> Application:
    """Add an application of the user's.

    Raises:
        AlreadyExists: the UID is taken.
    """
    if session.get(Application, new.uid) is not None:
        raise AlreadyExists(f"the application {new.uid} exists already", remedy="create it with a new UID")
    application = Application(
        uid=new.uid, owner_uid=user_uid, data=new.data, key_by_owner=new.key, created_at=clock.now()
    )
    session.add(application)
    session.flush()
    record_event(session, clock, actor, "app_created", app_uid=new.uid)
    return application


def delete(session: Session, clock: Clock, actor: Actor, user_uid: str, application_uid: str) -> None:
    """Remove an application with its shares and devices.

    Raises:
        StateError: a gateway uses it.
        NotFound: there is no such application of the user's.
    """
    application = require(session, user_uid, application_uid)
    used = select(Gateway).where(Gateway.application_uid == application_uid)
    if any(gateway.removed_at is None for gateway in session.scalars(used)):
        raise StateError("a gateway uses the application", remedy="remove the gateway first")
    if session.scalar(used.limit(1)) is not None:
        raise StateError(
            "a removed gateway still names the application in the log of its jobs",
            remedy="remove the application's shares and devices instead, that ends all its access",
        )
    session.execute(sql_delete(Client).where(Client.application_uid == application_uid))
    session.execute(sql_delete(ApplicationShare).where(ApplicationShare.application_uid == application_uid))
    session.delete(application)
    session.flush()
    record_event(session, clock, actor, "app_removed", app_uid=application_uid)


def share(
    session: Session, clock: Clock, actor: Actor, user_uid: str, application_uid: str, folder_uid: str, given: NewShare
) -> ApplicationShare:
    """Give an application a shared folder, or change what it may do there.

    Raises:
        InvalidInput: the folder is a subfolder.
        NotFound: application or folder is not the user's.
        AccessDenied: the user may not edit the folder.
    """
    require(session, user_uid, application_uid)
    folder = folders.require_member(session, user_uid, folder_uid, can_edit=True)
    if folder.parent_uid is not None:
        raise InvalidInput("only a top folder is shared with an application", remedy=f"share {folder.root_uid}")
    row = session.get(ApplicationShare, (application_uid, folder_uid))
    event = "app_folder_shared" if row is None else "app_folder_share_changed"
    if row is None:
        row = ApplicationShare(application_uid=application_uid, folder_uid=folder_uid, created_at=clock.now())
        session.add(row)
    row.key_by_application = given.key
    row.can_edit = given.can_edit
    session.flush()
    record_event(
        session, clock, actor, event,
        app_uid=application_uid, shared_folder_uid=folder_uid, can_edit=given.can_edit,
    )  # fmt: skip
    return row


def unshare(session: Session, clock: Clock, actor: Actor, user_uid: str, application_uid: str, folder_uid: str) -> None:
    """Take a shared folder from an application.

    Raises:
        NotFound: the application is not the user's, or has no such share.
    """
    require(session, user_uid, application_uid)
    row = session.get(ApplicationShare, (application_uid, folder_uid))
    if row is None:
        raise NotFound("the application has no share of this folder", remedy="look at `pam app list`")
    session.delete(row)
    session.flush()
    record_event(session, clock, actor, "app_folder_removed", app_uid=application_uid, shared_folder_uid=folder_uid)
