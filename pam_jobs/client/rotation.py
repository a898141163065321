"""Rotation settings put together and checked on the operator's side, where the records can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pam_jobs.client.pam import Configuration, RotationChange, open_complexity
from pam_jobs.client.records import VaultRecord
from pam_jobs.client.vault import VaultClient
from pam_jobs.errors import InvalidInput, PamJobsError
from pam_jobs.records.complexity import Complexity
from pam_jobs.records.portmap import PortMapping, protocol_for
from pam_jobs.records.record import Record
from pam_jobs.records.schedule import parse_schedule
from pam_jobs.records.types import is_configuration, is_resource

__all__ = ["Edit", "Planned", "Planner", "Wishes"]

_PROFILES = ("general", "scripts_only", "saas")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the person asked for; None leaves what is there."""

    configuration: str | None = None
    resource: str | None = None
    admin: str | None = None
    profile: str | None = None
    service: str | None = None  # the saasConfiguration record
    schedule: list[dict[str, Any]] | None = None  # [] is on demand
    inherits_schedule: bool = False
    verify_schedule: list[dict[str, Any]] | None = None  # [] is on demand
    inherits_verify_schedule: bool = False
    complexity: Complexity | None = None
    disabled: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A checked change of one record's settings."""

    stored: VaultRecord
    change: RotationChange
    configuration: Configuration
    resource: VaultRecord | None
    admin: VaultRecord | None
    link: dict[str, Any] | None  # as it stands
    needs_link: bool  # the resource is not linked to that configuration yet


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What will be changed, and what will not and why."""

    planned: list[Planned]
    skipped: list[tuple[VaultRecord, PamJobsError]]


class Planner:
    """Checks wishes against the vault; writes only in ``apply``."""

    def __init__(self, client: VaultClient) -> None:
        self._client = client
        self._links: dict[str, dict[str, Any]] | None = None
        self._gateways: dict[str, dict[str, Any]] | None = None

    def plan(self, records: list[VaultRecord], wishes: Wishes) -> Edit:
        """Return what can be changed; nothing is written.

        Args:
            records: whose settings are to change.
            wishes: the same for all.
        """
        if wishes.schedule:
            parse_schedule(wishes.schedule, now=datetime.now(UTC))
        planned, skipped = [], []
        for stored in records:
            try:
                planned.append(self._plan_one(stored, wishes))
            except PamJobsError as error:
                skipped.append((stored, error))
        return Edit(planned=planned, skipped=skipped)

    def apply(self, planned: Planned) -> dict[str, Any]:
        """Write the link and the settings; when the settings are refused, the link is put back."""
        pam, change = self._client.pam, planned.change
        if planned.needs_link and planned.resource is not None:
            pam.link_resource(planned.resource.uid, planned.configuration.uid, change.admin_uid)
        try:
            return pam.set_rotation(planned.stored, change)
        except PamJobsError:
            if planned.needs_link and planned.resource is not None:
                if planned.link is None:
                    pam.unlink_resource(planned.resource.uid)
                else:
                    old = planned.link
                    pam.link_resource(planned.resource.uid, old["configuration_uid"], old["admin_uid"])
            raise
        finally:
            self._links = None

    def _plan_one(self, stored: VaultRecord, wishes: Wishes) -> Planned:
        if stored.type != "pamUser":
            raise InvalidInput(
                f"{stored.title} is a {stored.type}, and only a pamUser is rotated",
                remedy="name the record of a user; a resource is named with --resource",
            )
        if not stored.record.login:
            raise InvalidInput(
                f"{stored.title} has no login", remedy=f"run `pam record update {stored.uid} login=NAME`"
            )
        now = self._client.pam.rotation(stored.uid)
        profile = self._profile(stored, wishes, now)
        resource = self._resource(wishes, now, profile)
        link = self._all_links().get(resource.uid) if resource else None
        service = self._service(wishes, now, profile)
        configuration = self._configuration(wishes, now, link)
        admin = self._admin(stored, wishes, link, resource, profile)
        if not wishes.disabled:  # rotation can be switched off whatever is wrong with the target meanwhile
            if resource is not None:
                _check_target(resource, configuration)
            self._check_shares(stored, configuration, resource, admin, service)
        change = replace(
            self._change(stored, wishes, now, profile, configuration, resource, admin),
            saas_uid=service.uid if service else None,
        )
        moved = resource is not None and (link is None or link["configuration_uid"] != configuration.uid)
        return Planned(
            stored=stored, change=change, configuration=configuration, resource=resource, admin=admin, link=link,
            needs_link=moved,
        )  # fmt: skip

    def _profile(self, stored: VaultRecord, wishes: Wishes, now: dict[str, Any] | None) -> str:
        noop = stored.record.flag("NOOP", default=False)
        kept = str(now["profile"]) if now else "general"
        profile = wishes.profile or ("saas" if wishes.service else "scripts_only" if noop and kept != "saas" else kept)
        if profile not in _PROFILES:
            raise InvalidInput(
                f"the profile {profile} is not served by this release", remedy="use " + " or ".join(_PROFILES)
            )
        return profile

    def _resource(self, wishes: Wishes, now: dict[str, Any] | None, profile: str) -> VaultRecord | None:
        text = wishes.resource or (now or {}).get("resource_uid")
        if profile == "saas":
            if wishes.resource:
                raise InvalidInput(
                    "the profile saas rotates by its plugin, not on a resource", remedy="leave --resource out"
                )
            return None
        if not text:
            if profile == "general":
                raise InvalidInput(
                    "the profile general needs a resource",
                    remedy="name the machine, database or directory with --resource, or use --rotation-profile scripts_only",
                )
            return None
        found = self._client.records.find(text)
        if not is_resource(found.type):
            raise InvalidInput(
                f"{found.title} is a {found.type} and no resource",
                remedy="name a pamMachine, pamDatabase or pamDirectory with --resource",
            )
        return found

    def _service(self, wishes: Wishes, now: dict[str, Any] | None, profile: str) -> VaultRecord | None:
        if profile != "saas":
            if wishes.service:
                raise InvalidInput("a SaaS configuration goes with the profile saas alone", remedy="use -rp saas")
            return None
        text = wishes.service or (now or {}).get("saas_uid")
        if not text:
            raise InvalidInput(
                "the profile saas needs a SaaS configuration",
                remedy="name its record with --saas-config-uid; `pam action saas config --create` makes one",
            )
        found = self._client.records.find(text)
        if found.type not in {"saasConfiguration", "login"} or not found.record.custom("SaaS Type"):
            raise InvalidInput(
                f"{found.title} is no SaaS configuration", remedy="make one with `pam action saas config --create`"
            )
        return found

    def _configuration(self, wishes: Wishes, now: dict[str, Any] | None, link: dict[str, Any] | None) -> Configuration:
        text = wishes.configuration or (now or {}).get("configuration_uid") or (link or {}).get("configuration_uid")
        if text:
            found = self._client.records.find(text)
            if not is_configuration(found.type):
                raise InvalidInput(
                    f"{found.title} is a {found.type} and no configuration", remedy="name one from `pam config list`"
                )
            text = found.uid
        return self._client.pam.find_configuration(text)

    def _admin(
        self,
        stored: VaultRecord,
        wishes: Wishes,
        link: dict[str, Any] | None,
        resource: VaultRecord | None,
        profile: str,
    ) -> VaultRecord | None:
        if wishes.admin and resource is None:
            raise InvalidInput("an admin was named without a resource", remedy="name the resource with --resource")
        text = wishes.admin or (link or {}).get("admin_uid")
        if not text or resource is None:
            if profile == "general" and resource is not None:
                raise InvalidInput(
                    f"the resource {resource.title} has no admin",
                    remedy="name the user record that administers it with --admin-user",
                )
            return None
        found = stored if text == stored.uid else self._client.records.find(text)
        if found.type != "pamUser":
            raise InvalidInput(
                f"{found.title} is a {found.type}, and an admin is a pamUser", remedy="name the record of a user"
            )
        for what, present in (
            ("login", found.record.login),
            ("password or privatePEMKey", found.record.password or found.record.private_key),
        ):
            if not present:
                raise InvalidInput(
                    f"the admin {found.title} has no {what}",
                    remedy=f"set it with `pam record update {found.uid} {what.split(' ', maxsplit=1)[0]}=…`",
                )
        return found

    def _check_shares(self, stored: VaultRecord, configuration: Configuration, *others: VaultRecord | None) -> None:
        """Refuse records that the gateway could not read; what is not ours to see, the router checks."""
        if self._gateways is None:
            self._gateways = {row["uid"]: row for row in self._client.pam.gateways()}
        gateway = self._gateways.get(configuration.gateway_uid)
        app_uid = gateway["application_uid"] if gateway else None
        app = next((entry for entry in self._client.applications.list() if entry.uid == app_uid), None)
        if app is None or gateway is None:
            return
        wanted = [(configuration.stored, False), *((other, False) for other in others), (stored, True)]
        for entry, needs_edit in wanted:
            if entry is None:
                continue
            access = app.can_edit(entry.root_uid)
            if access is None or (needs_edit and not access):
                raise InvalidInput(
                    f"the gateway {gateway['name']} may not {'edit' if needs_edit else 'read'} {entry.title}:"
                    f" its folder is not shared {'for editing ' if access is not None else ''}with {app.title}",
                    remedy=f"run `pam app share {app.uid} {entry.root_uid} --can-edit`",
                )

    def _change(
        self,
        stored: VaultRecord,
        wishes: Wishes,
        now: dict[str, Any] | None,
        profile: str,
        configuration: Configuration,
        resource: VaultRecord | None,
        admin: VaultRecord | None,
    ) -> RotationChange:
        known = now or {}
        inherits, schedule = bool(known.get("inherits_schedule")), list(known.get("schedule") or [])
        if wishes.inherits_schedule:
            inherits, schedule = True, []
        elif wishes.schedule is not None:
            inherits, schedule = False, wishes.schedule
        verify = wishes.verify_schedule
        if verify is None and not wishes.inherits_verify_schedule:
            verify = known.get("verify_schedule")
        return RotationChange(
            configuration_uid=configuration.uid,
            resource_uid=resource.uid if resource else None,
            admin_uid=admin.uid if admin else None,
            profile=profile,
            schedule=schedule,
            inherits_schedule=inherits,
            verify_schedule=verify,
            complexity=wishes.complexity or open_complexity(known.get("complexity"), stored.key),
            disabled=bool(known.get("disabled")) if wishes.disabled is None else wishes.disabled,
            revision=known.get("revision"),
        )

    def _all_links(self) -> dict[str, dict[str, Any]]:
        if self._links is None:
            self._links = {row["record_uid"]: row for row in self._client.pam.resources()}
        return self._links


def _check_target(resource: VaultRecord, configuration: Configuration) -> None:
    """Refuse a resource without an address, or whose port speaks nothing that rotates."""
    if not resource.record.host:
        raise InvalidInput(
            f"{resource.title} has no host name", remedy=f"run `pam record update {resource.uid} host=NAME port=NUMBER`"
        )
    mapping = mapping_of(configuration.require_record().record)
    protocol_for(resource.record.port, mapping, resource.type, resource.record.field("databaseType"))


def mapping_of(configuration: Record) -> PortMapping:
    """Return the port mapping of a configuration."""
    return PortMapping.parse(configuration.field("multiline", "portMapping"))


def check_still_served(old: Record, before: PortMapping, new: Record, after: PortMapping) -> None:
    """Refuse a change of a resource or of its configuration that takes the resource's protocol away.

    Raises:
        InvalidInput: it was served before and would not be any more.
    """
    try:
        protocol_for(old.port, before, old.type, old.field("databaseType"))
    except InvalidInput:
        return  # it was not served before either
    try:
        protocol_for(new.port, after, new.type, new.field("databaseType"))
    except InvalidInput as error:
        raise InvalidInput(f"{new.title} could not be rotated any more: {error.message}", remedy=error.remedy) from None
