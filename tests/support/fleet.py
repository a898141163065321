"""A small fleet in the database: a user, a shared folder, an application with a gateway, records to rotate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock, VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import (
    Application,
    ApplicationShare,
    AuditEvent,
    Folder,
    FolderMember,
    Job,
    Schedule,
    StoredRecord,
    User,
)
from pam_jobs.ids import new_uid
from pam_jobs.rotation import configurations, gateways, resources, settings
from pam_jobs.rotation.settings import Wanted

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OPERATOR = Actor(username="ada")
EVERY_HOUR = [{"type": "HOURLY", "minute": 0, "second": 0, "intervalCount": 1}]


def cron(expression: str, tz: str = "Etc/UTC") -> list[dict[str, Any]]:
    return [{"type": "CRON", "cron": expression, "tz": tz}]


def add_folder(session: Session, clock: Clock, user_uid: str, *, can_edit: bool = True) -> str:
    uid = new_uid()
    session.add(Folder(uid=uid, root_uid=uid, data=b"", created_at=clock.now()))
    session.flush()
    session.add(FolderMember(folder_uid=uid, user_uid=user_uid, key_by_user=b"", can_edit=can_edit))
    session.flush()
    return uid


def add_record(session: Session, clock: Clock, folder_uid: str, user_uid: str, *, version: int = 3) -> str:
    uid = new_uid()
    now = clock.now()
    session.add(
        StoredRecord(
            uid=uid, folder_uid=folder_uid, version=version, key_by_folder=b"", key_by_owner=b"", owner_uid=user_uid,
            data=b"", revision=1, created_at=now, updated_at=now,
        )
    )  # fmt: skip
    session.flush()
    return uid


def add_user(session: Session, clock: Clock, username: str = "ada") -> str:
    uid = new_uid()
    session.add(
        User(
            uid=uid, username=username, public_key=b"", kdf_salt=b"", kdf_iterations=600_000, proof_hash=b"",
            wrapped_private_key=b"", role="admin", created_at=clock.now(),
        )
    )  # fmt: skip
    session.flush()
    return uid


def share(session: Session, clock: Clock, application_uid: str, folder_uid: str, *, can_edit: bool = True) -> None:
    session.add(
        ApplicationShare(
            application_uid=application_uid, folder_uid=folder_uid, key_by_application=b"", can_edit=can_edit,
            created_at=clock.now(),
        )
    )  # fmt: skip
    session.flush()


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Where everything lies, and short ways to set rotation."""

    database: Database
    clock: VirtualClock
    user_uid: str
    folder_uid: str
    application_uid: str
    gateway_uid: str
    configuration_uid: str
    resource_uid: str
    admin_uid: str

    def add_record(self, *, folder_uid: str | None = None, version: int = 3) -> str:
        with self.database.transaction() as session:
            return add_record(session, self.clock, folder_uid or self.folder_uid, self.user_uid, version=version)

    def add_folder(self) -> str:
        with self.database.transaction() as session:
            return add_folder(session, self.clock, self.user_uid)

    def put(self, record_uid: str, *, minimum_seconds: int = 3600, **changes: Any) -> int:
        """Set rotation and return the settings' revision."""
        members: dict[str, Any] = {
            "configuration_uid": self.configuration_uid,
            "profile": "general",
            "resource_uid": self.resource_uid,
            **changes,
        }
        with self.database.transaction() as session:
            put = settings.put(
                session, self.clock, OPERATOR, record_uid, Wanted(**members), minimum_seconds=minimum_seconds
            )
            return put.revision

    def scheduled(self, schedule: Sequence[Mapping[str, Any]] = (), **changes: Any) -> str:
        """Add a user record that rotates by the schedule, every hour when none is given; any interval is allowed."""
        uid = self.add_record()
        self.put(uid, schedule=schedule or EVERY_HOUR, minimum_seconds=0, **changes)
        return uid

    def row(self, record_uid: str) -> Schedule | None:
        with self.database.transaction(read_only=True) as session:
            return session.scalar(select(Schedule).where(Schedule.subject_uid == record_uid))

    def jobs(self, record_uid: str | None = None) -> list[Job]:
        query = select(Job).order_by(Job.due_at, Job.created_at)
        if record_uid is not None:
            query = query.where(Job.record_uid == record_uid)
        with self.database.transaction(read_only=True) as session:
            return list(session.scalars(query))

    def events(self, name: str) -> list[AuditEvent]:
        with self.database.transaction(read_only=True) as session:
            return list(session.scalars(select(AuditEvent).where(AuditEvent.event == name).order_by(AuditEvent.id)))


def new_fleet(database: Database, clock: VirtualClock | None = None) -> Fleet:
    """Make a fleet whose one configuration can rotate what lies in its folder."""
    clock = clock or VirtualClock(NOON)
    with database.transaction() as session:
        user_uid = add_user(session, clock)
        folder_uid = add_folder(session, clock, user_uid)
        application_uid = new_uid()
        session.add(
            Application(uid=application_uid, owner_uid=user_uid, data=b"", key_by_owner=b"", created_at=clock.now())
        )
        session.flush()
        share(session, clock, application_uid, folder_uid)
        gateway = gateways.create(
            session, clock, OPERATOR, uid=new_uid(), name="office", application_uid=application_uid
        )
        configuration_uid = add_record(session, clock, folder_uid, user_uid, version=6)
        configurations.create(
            session,
            clock,
            OPERATOR,
            configurations.NewConfiguration(
                record_uid=configuration_uid, gateway_uid=gateway.uid, environment="local", default_schedule=EVERY_HOUR
            ),
            minimum_seconds=3600,
        )
        resource_uid = add_record(session, clock, folder_uid, user_uid)
        admin_uid = add_record(session, clock, folder_uid, user_uid)
        resources.put(session, clock, OPERATOR, resource_uid, configuration_uid=configuration_uid, admin_uid=admin_uid)
        gateway_uid = gateway.uid
    return Fleet(
        database=database, clock=clock, user_uid=user_uid, folder_uid=folder_uid, application_uid=application_uid,
        gateway_uid=gateway_uid, configuration_uid=configuration_uid, resource_uid=resource_uid, admin_uid=admin_uid,
    )  # fmt: skip
