"""Gateways, configurations, resource links and rotation settings, as the operator handles them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pam_jobs.client.applications import Application, new_client
from pam_jobs.client.folders import Folder
from pam_jobs.client.http import RouterClient
from pam_jobs.client.records import Records, VaultRecord
from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import InvalidInput, NotFound, VaultError
from pam_jobs.ids import is_uid, new_uid
from pam_jobs.records.complexity import Complexity
from pam_jobs.records.record import PamResources, Record
from pam_jobs.secret import SecretValue

__all__ = ["Configuration", "Pam", "RotationChange", "open_complexity"]


_TIMING = ("windows", "blackouts", "jitter_seconds", "missed_runs", "missed_grace_seconds", "schedules_paused_at")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A PAM configuration: its settings on the router and its record, open when it is the user's."""

    uid: str
    gateway_uid: str
    environment: str
    default_schedule: list[dict[str, Any]]
    default_verify_schedule: list[dict[str, Any]]
    rotation_enabled: bool
    timing: dict[str, Any]  # windows, blackouts, jitter_seconds, missed_runs, missed_grace_seconds, schedules_paused_at
    limits: dict[str, int | None]  # job_limit, target_limit, and that of each resource that has one by its UID
    resource_uids: tuple[str, ...]
    stored: VaultRecord | None

    @property
    def title(self) -> str:
        """The record's title, its UID when the record is not the user's."""
        return self.stored.title if self.stored else self.uid

    def require_record(self) -> VaultRecord:
        """Return the configuration's record.

        Raises:
            NotFound: its folder is not shared with the user.
        """
        if self.stored is None:
            raise NotFound(
                f"the record of the configuration {self.uid} is not yours", remedy="ask its owner for a share"
            )
        return self.stored


@dataclass(frozen=True, kw_only=True)
class RotationChange:
    """All rotation settings of one user record, as they are to be."""

    configuration_uid: str
    resource_uid: str | None
    admin_uid: str | None
    profile: str
    schedule: list[dict[str, Any]]
    inherits_schedule: bool
    complexity: Complexity | None
    disabled: bool
    revision: int | None  # of the settings as they were read; None: there were none
    verify_schedule: list[dict[str, Any]] | None = None  # None: the configuration's default
    saas_uid: str | None = None

    def body(self, record_key: bytes) -> dict[str, Any]:
        """Return what is sent; the complexity is sealed by the record's key."""
        sealed = aes.encrypt(self.complexity.to_json().encode(), record_key) if self.complexity else None
        body: dict[str, Any] = {
            "configuration_uid": self.configuration_uid,
            "resource_uid": self.resource_uid,
            "profile": self.profile,
            "saas_uid": self.saas_uid,
            "schedule": self.schedule,
            "inherits_schedule": self.inherits_schedule,
            "verify_schedule": self.verify_schedule,
            "complexity": to_base64(sealed) if sealed else None,
            "disabled": self.disabled,
            "revision": self.revision,
        }
        if self.admin_uid is not None:
            body["admin_uid"] = self.admin_uid
        return body


class Pam:
    """The PAM side of the vault."""

    def __init__(self, router: RouterClient, records: Records) -> None:
        self._router = router
        self._records = records

    # gateways

    def gateways(self) -> list[dict[str, Any]]:
        """Return the gateways as the router tells of them, by name."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/gateways")["gateways"]
        return sorted(rows, key=lambda row: (row["name"].casefold(), row["uid"]))

    def find_gateway(self, text: str) -> dict[str, Any]:
        """Return the gateway with that UID or exact name.

        Raises:
            NotFound: there is none.
            InvalidInput: several have the name.
        """
        known = self.gateways()
        found = [row for row in known if row["uid"] == text] or [row for row in known if row["name"] == text]
        if not found:
            raise NotFound(f"there is no gateway {text!r}", remedy="look at `pam gateway list`")
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} gateways have the name {text!r}", remedy="give the UID instead")
        return found[0]

    def add_gateway(self, app: Application, name: str, *, token_seconds: int) -> tuple[str, SecretValue]:
        """Create a gateway and return its UID and one-time token.

        Args:
            app: the application whose shared folders the gateway reads.
            name: unique among gateways.
            token_seconds: how long the token can be used, 60 to 86400.
        """
        if not name.strip():
            raise InvalidInput("the gateway has no name", remedy="give a name that is not blank")
        uid = new_uid()
        client = new_client(app.key, name, lock_ip=False, first_access_expires_in_seconds=token_seconds)
        body = {"uid": uid, "name": name, "application_uid": app.uid, "client": client.body}
        self._router.post("/api/v1/gateways", body)
        return uid, client.token

    def edit_gateway(self, uid: str, **changes: Any) -> None:
        """Change ``name``, ``max_instances`` or ``job_limit``, of which None takes the limit away."""
        self._router.patch(f"/api/v1/gateways/{uid}", changes)

    def set_gateway_drained(self, uid: str, *, drained: bool) -> dict[str, Any]:
        """Let a gateway begin no more jobs, or begin them again, and return it."""
        answer: dict[str, Any] = self._router.post(f"/api/v1/gateways/{uid}/{'drain' if drained else 'resume'}")
        return answer

    def remove_gateway(self, uid: str) -> None:
        """Delete a gateway that no configuration uses."""
        self._router.delete(f"/api/v1/gateways/{uid}")

    # configurations

    def configurations(self) -> list[Configuration]:
        """Return the configurations, by title."""
        rows = self._router.get("/api/v1/configurations")["configurations"]
        records = {entry.uid: entry for entry in self._records.list()}
        found = [_configuration(row, records.get(row["record_uid"])) for row in rows]
        return sorted(found, key=lambda entry: (entry.title.casefold(), entry.uid))

    def find_configuration(self, text: str | None) -> Configuration:
        """Return the configuration with that UID or exact title; with None, the only one there is.

        Raises:
            NotFound: there is none.
            InvalidInput: several fit.
        """
        known = self.configurations()
        hint = "look at `pam config list`"
        if text is None:
            if len(known) == 1:
                return known[0]
            if not known:
                raise NotFound("there is no configuration", remedy="make one with `pam config new`")
            raise InvalidInput("there are several configurations", remedy="name one by --config")
        found = [entry for entry in known if entry.uid == text] or [entry for entry in known if entry.title == text]
        if not found:
            raise NotFound(f"there is no configuration {text!r}", remedy=hint)
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} configurations have the title {text!r}", remedy="give the UID instead")
        return found[0]

    def add_configuration(
        self,
        record: Record,
        folder: Folder,
        gateway: dict[str, Any],
        *,
        environment: str,
        schedule: list[dict[str, Any]],
        rotation_enabled: bool,
        verify_schedule: Sequence[dict[str, Any]] = (),
    ) -> str:
        """Create a configuration and return its UID.

        Raises:
            InvalidInput: the gateway's application has no share of the folder.
        """
        resources = PamResources(controller_uid=gateway["uid"], folder_uid=folder.uid)
        new = self._records.seal(record.with_resources(resources), folder, version=6)
        self._router.post(
            "/api/v1/configurations",
            {
                "record": new.body,
                "gateway_uid": gateway["uid"],
                "environment": environment,
                "default_schedule": schedule,
                "default_verify_schedule": list(verify_schedule),
                "rotation_enabled": rotation_enabled,
            },
        )
        return new.uid

    def edit_configuration(self, uid: str, **changes: Any) -> None:
        """Change ``gateway_uid``, ``environment``, ``default_schedule``, ``default_verify_schedule``, ``rotation_enabled``."""
        self._router.patch(f"/api/v1/configurations/{uid}", changes)

    def remove_configuration(self, uid: str) -> None:
        """Delete a configuration that nothing uses, with its record."""
        self._router.delete(f"/api/v1/configurations/{uid}")

    # resources and rotation settings

    def resources(self) -> list[dict[str, Any]]:
        """Return the resource links: record, configuration, admin."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/resources")["resources"]
        return rows

    def link_resource(self, uid: str, configuration_uid: str, admin_uid: str | None) -> None:
        """Link a resource record to a configuration, with the user record that administers it."""
        self._router.put(f"/api/v1/resources/{uid}", {"configuration_uid": configuration_uid, "admin_uid": admin_uid})

    def resume_resource(self, uid: str) -> None:
        """Let a target be tried again that was set aside because its administrator was refused."""
        self._router.post(f"/api/v1/resources/{uid}/resume")

    def limit_resource(self, uid: str, job_limit: int | None) -> None:
        """Set how many jobs may be at work on a resource at a time; None: what its configuration says."""
        self._router.patch(f"/api/v1/resources/{uid}", {"job_limit": job_limit})

    def unlink_resource(self, uid: str) -> None:
        """Take a resource out of its configuration."""
        self._router.delete(f"/api/v1/resources/{uid}")

    def rotations(self) -> list[dict[str, Any]]:
        """Return the rotation settings of all users."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/rotation")["rotation"]
        return rows

    def rotation(self, record_uid: str) -> dict[str, Any] | None:
        """Return one user's rotation settings, None when there are none.

        Raises:
            InvalidInput: the UID has not the form of one.
        """
        if not is_uid(record_uid):
            raise InvalidInput(f"{record_uid!r} is not a UID", remedy="give a UID from `pam record list`")
        try:
            settings: dict[str, Any] = self._router.get(f"/api/v1/rotation/{record_uid}")
        except NotFound:
            return None
        return settings

    def set_rotation(self, stored: VaultRecord, change: RotationChange) -> dict[str, Any]:
        """Store the rotation settings of a user record and return them as the router has them."""
        answer: dict[str, Any] = self._router.put(f"/api/v1/rotation/{stored.uid}", change.body(stored.key))
        return answer

    def remove_rotation(self, record_uid: str) -> None:
        """Delete a user's rotation settings."""
        self._router.delete(f"/api/v1/rotation/{record_uid}")

    def schedules(self) -> list[dict[str, Any]]:
        """Return the schedules with their next runs."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/schedules")["schedules"]
        return rows

    # calendars

    def calendars(self) -> list[dict[str, Any]]:
        """Return the calendars, by name."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/calendars")["calendars"]
        return rows

    def find_calendar(self, text: str) -> dict[str, Any]:
        """Return the calendar with that UID or exact name.

        Raises:
            NotFound: there is none.
        """
        known = self.calendars()
        found = [row for row in known if row["uid"] == text] or [row for row in known if row["name"] == text]
        if not found:
            raise NotFound(f"there is no calendar {text!r}", remedy="look at `pam calendar list`")
        return found[0]

    def add_calendar(self, name: str, tz: str, periods: list[dict[str, Any]]) -> dict[str, Any]:
        """Create a calendar and return it."""
        answer: dict[str, Any] = self._router.post("/api/v1/calendars", {"name": name, "tz": tz, "periods": periods})
        return answer

    def edit_calendar(self, uid: str, **changes: Any) -> None:
        """Change ``name``, ``tz`` or ``periods``."""
        self._router.patch(f"/api/v1/calendars/{uid}", changes)

    def remove_calendar(self, uid: str) -> None:
        """Delete a calendar that no configuration uses."""
        self._router.delete(f"/api/v1/calendars/{uid}")

    # schedules

    def set_schedule_paused(self, uid: str, *, paused: bool) -> dict[str, Any]:
        """Pause one schedule, or resume it, and return it."""
        answer: dict[str, Any] = self._router.post(f"/api/v1/schedules/{uid}/{'pause' if paused else 'resume'}")
        return answer

    def set_configuration_paused(self, uid: str, *, paused: bool) -> None:
        """Pause every schedule of a configuration, or resume them."""
        self._router.post(f"/api/v1/configurations/{uid}/{'pause' if paused else 'resume'}")

    def preview(self, days: float, *, max_age_days: float | None = None) -> dict[str, Any]:
        """Return the runs of the coming days and what they mean."""
        policy = {} if max_age_days is None else {"max_age_days": max_age_days}
        answer: dict[str, Any] = self._router.get("/api/v1/schedules/preview", days=days, report="true", **policy)
        return answer


def open_complexity(sealed: str | None, record_key: bytes) -> Complexity | None:
    """Return the complexity that the settings hold, None when there is none or another key sealed it."""
    if not sealed:
        return None
    try:
        return Complexity.parse(json.loads(aes.decrypt(from_base64(sealed), record_key)))
    except (VaultError, InvalidInput, ValueError):
        return None


def _configuration(row: dict[str, Any], stored: VaultRecord | None) -> Configuration:
    resources: Sequence[Any] = row.get("resources") or ()
    return Configuration(
        uid=row["record_uid"],
        gateway_uid=row["gateway_uid"],
        environment=row["environment"],
        default_schedule=row.get("default_schedule") or [],
        default_verify_schedule=row.get("default_verify_schedule") or [],
        rotation_enabled=bool(row.get("rotation_enabled", True)),
        timing={name: row.get(name) for name in _TIMING},
        limits={name: row.get(name) for name in ("job_limit", "target_limit")}
        | {entry["record_uid"]: entry["job_limit"] for entry in resources if entry.get("job_limit")},
        resource_uids=tuple(entry if isinstance(entry, str) else entry["record_uid"] for entry in resources),
        stored=stored,
    )
