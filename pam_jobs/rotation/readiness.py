"""Whether a credential can be rotated as it is set up, and what keeps it from that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.many import among
from pam_jobs.db.tables import (
    ApplicationShare,
    Folder,
    Gateway,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    StoredRecord,
)
from pam_jobs.jobs.states import LOOKING

__all__ = [
    "OPERATORS_CHOICE",
    "SERVED_PROFILES",
    "Blocker",
    "Facts",
    "Readiness",
    "Served",
    "Setup",
    "assess",
    "blocked_by",
    "facts_for",
    "judge",
]

OPERATORS_CHOICE = frozenset({"disabled", "rotation_off"})
"""Blockers that an operator chose, which are no mistakes: they keep changes away, not looking."""

_SETUPS: Final = (  # made once: they run with every job that is asked for or due
    select(
        RotationSettings.record_uid,
        RotationSettings.configuration_uid,
        RotationSettings.profile,
        RotationSettings.resource_uid,
        RotationSettings.saas_uid,
        RotationSettings.disabled,
        ResourceLink.admin_uid,
    )
    .outerjoin(ResourceLink, ResourceLink.resource_uid == RotationSettings.resource_uid)
    .where(among(RotationSettings.record_uid, "uids"))
)
_CONFIGURATIONS: Final = (
    select(
        PamConfiguration.record_uid,
        PamConfiguration.rotation_enabled,
        Gateway.uid,
        Gateway.name,
        Gateway.application_uid,
        Gateway.removed_at,
    )
    .join(Gateway, Gateway.uid == PamConfiguration.gateway_uid)
    .where(among(PamConfiguration.record_uid, "uids"))
)
_RESOURCES: Final = select(ResourceLink.resource_uid, ResourceLink.configuration_uid).where(
    among(ResourceLink.resource_uid, "uids")
)
_ROOTS: Final = (
    select(StoredRecord.uid, Folder.root_uid)
    .join(Folder, Folder.uid == StoredRecord.folder_uid)
    .where(among(StoredRecord.uid, "uids"))
)
_SHARES: Final = select(ApplicationShare.application_uid, ApplicationShare.folder_uid, ApplicationShare.can_edit).where(
    among(ApplicationShare.application_uid, "uids")
)

SERVED_PROFILES = ("general", "scripts_only", "saas")  # iam_user waits for its connectors


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """One reason why a rotation cannot run, and what to do about it."""

    code: str  # stable, such as admin_missing
    what: str
    remedy: str

    def sentence(self) -> str:
        """Return reason and remedy as one sentence."""
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a user record is, or is about to be, rotated."""

    record_uid: str
    configuration_uid: str
    profile: str
    resource_uid: str | None = None
    saas_uid: str | None = None
    admin_uid: str | None = None
    is_disabled: bool = False


class Served(NamedTuple):
    """A PAM configuration and the gateway that serves it, as far as the verdict depends on them."""

    record_uid: str  # of the configuration
    rotation_enabled: bool
    uid: str  # of the gateway, like what follows
    name: str
    application_uid: str
    removed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the database holds about the parties of some setups, read at once."""

    configurations: dict[str, Served] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)  # resource → its configuration
    roots: dict[str, str] = field(default_factory=dict)  # record → its shared folder
    shares: dict[tuple[str, str], bool] = field(default_factory=dict)  # application, shared folder → can edit


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """The verdict on one record."""

    record_uid: str
    blockers: tuple[Blocker, ...]
    setup: Setup | None = None  # None: no rotation is set up
    gateway_uid: str | None = None


def assess(session: Session, record_uids: Sequence[str]) -> dict[str, Readiness]:
    """Return the verdict on each record, in a handful of queries however many there are."""
    setups = [_setup(row) for row in session.execute(_SETUPS, {"uids": list(record_uids)})]
    facts = facts_for(session, setups)
    verdicts = {uid: Readiness(record_uid=uid, blockers=(_NOT_SET_UP,)) for uid in record_uids}
    for setup in setups:
        served = facts.configurations.get(setup.configuration_uid)
        verdicts[setup.record_uid] = Readiness(
            record_uid=setup.record_uid,
            blockers=tuple(judge(setup, facts)),
            setup=setup,
            gateway_uid=served.uid if served else None,
        )
    return verdicts


def blocked_by(verdict: Readiness, kind: str) -> str | None:
    """Return the code of what keeps a due run of a kind from starting, if anything does: what beat goes by."""
    codes = (blocker.code for blocker in verdict.blockers)
    return next((code for code in codes if kind not in LOOKING or code not in OPERATORS_CHOICE), None)


def facts_for(session: Session, setups: Iterable[Setup]) -> Facts:
    """Read what ``judge`` needs to know about these setups."""
    setups = list(setups)
    configuration_uids = {setup.configuration_uid for setup in setups}
    resource_uids = {setup.resource_uid for setup in setups if setup.resource_uid}
    configurations = {
        row.record_uid: Served(*row) for row in session.execute(_CONFIGURATIONS, {"uids": list(configuration_uids)})
    }
    resources = {
        row.resource_uid: row.configuration_uid for row in session.execute(_RESOURCES, {"uids": list(resource_uids)})
    }
    parties = {setup.record_uid for setup in setups} | configuration_uids | resource_uids
    parties |= {uid for setup in setups for uid in (setup.admin_uid, setup.saas_uid) if uid}
    roots = {row.uid: row.root_uid for row in session.execute(_ROOTS, {"uids": list(parties)})}
    applications = {served.application_uid for served in configurations.values()}
    shares = {
        (row.application_uid, row.folder_uid): row.can_edit
        for row in session.execute(_SHARES, {"uids": list(applications)})
    }
    return Facts(configurations=configurations, resources=resources, roots=roots, shares=shares)


def judge(setup: Setup, facts: Facts) -> Iterator[Blocker]:
    """Yield what keeps the setup from rotating, most basic first."""
    if setup.is_disabled:
        yield Blocker(
            code="disabled",
            what=f"rotation of record {setup.record_uid} is disabled",
            remedy=f"enable it with `pam rotation edit --record {setup.record_uid} --enable`",
        )
    if setup.profile not in SERVED_PROFILES:
        yield Blocker(
            code="profile_not_served",
            what=f"no gateway of this release rotates by the profile {setup.profile!r}",
            remedy="use " + " or ".join(SERVED_PROFILES),
        )
    served = facts.configurations.get(setup.configuration_uid)
    if served is None:
        yield Blocker(
            code="configuration_missing",
            what=f"there is no PAM configuration {setup.configuration_uid}",
            remedy="choose one that `pam config list` shows",
        )
        return
    yield from _of_configuration(served, facts)
    yield from _of_record(setup, served, facts)
    yield from _of_resource(setup, served, facts)
    yield from _of_service(setup, served, facts)


_NOT_SET_UP = Blocker(
    code="not_set_up",
    what="rotation is not set up for this record",
    remedy="set it up with `pam rotation edit --record UID --config UID`",
)


def _setup(row: Any) -> Setup:
    return Setup(
        record_uid=row.record_uid,
        configuration_uid=row.configuration_uid,
        profile=row.profile,
        resource_uid=row.resource_uid,
        saas_uid=row.saas_uid,
        admin_uid=row.admin_uid,
        is_disabled=row.disabled,
    )


def _of_configuration(served: Served, facts: Facts) -> Iterator[Blocker]:
    if not served.rotation_enabled:
        yield Blocker(
            code="rotation_off",
            what=f"rotation is switched off in the PAM configuration {served.record_uid}",
            remedy=f"switch it on with `pam config edit {served.record_uid} --rotation on`",
        )
    if served.removed_at is not None:
        yield Blocker(
            code="gateway_removed",
            what=f"the gateway {served.name!r} of the PAM configuration was removed",
            remedy=f"give it another one with `pam config edit {served.record_uid} --gateway NAME`",
        )
    if _share(served.record_uid, served, facts) is None:
        yield not_bound(served.record_uid, served, facts.roots.get(served.record_uid))


def not_bound(configuration_uid: str, gateway: Gateway | Served, folder_uid: str | None) -> Blocker:
    """Return the blocker of a gateway whose application cannot read the configuration's folder."""
    return Blocker(
        code="gateway_not_bound",
        what=f"the gateway {gateway.name!r} is not bound to the application of the PAM configuration"
        f" {configuration_uid}",
        remedy=f"share its folder with `pam app share {gateway.application_uid} {folder_uid or 'FOLDER'}`",
    )


def _of_record(setup: Setup, gateway: Served, facts: Facts) -> Iterator[Blocker]:
    can_edit = _share(setup.record_uid, gateway, facts)
    if can_edit:
        return
    folder = facts.roots.get(setup.record_uid, "FOLDER")
    yield Blocker(
        code="record_not_shared" if can_edit is None else "record_read_only",
        what=f"the gateway {gateway.name!r} may not {'read' if can_edit is None else 'edit'}"
        f" the record {setup.record_uid}",
        remedy=f"share its folder with `pam app share {gateway.application_uid} {folder} --can-edit`",
    )


def _of_resource(setup: Setup, gateway: Served, facts: Facts) -> Iterator[Blocker]:
    if setup.resource_uid is None:
        if setup.profile == "general":
            yield Blocker(
                code="resource_missing",
                what=f"the profile general needs a resource, and record {setup.record_uid} has none",
                remedy="name the machine, database or directory with --resource, or use the profile scripts_only",
            )
        return
    if facts.resources.get(setup.resource_uid) != setup.configuration_uid:
        yield Blocker(
            code="resource_not_linked",
            what=f"the resource {setup.resource_uid} is not linked to the PAM configuration {setup.configuration_uid}",
            remedy="link it to that configuration first, or choose the configuration that it belongs to",
        )
    yield from _not_readable("resource", setup.resource_uid, gateway, facts)
    if setup.profile != "general":
        return
    if setup.admin_uid is None:
        yield Blocker(
            code="admin_missing",
            what=f"the resource {setup.resource_uid} has no admin",
            remedy="name the user record that administers it with --admin-user",
        )
    elif setup.admin_uid != setup.record_uid:
        yield from _not_readable("admin", setup.admin_uid, gateway, facts)


def _of_service(setup: Setup, gateway: Served, facts: Facts) -> Iterator[Blocker]:
    if setup.profile != "saas":
        return
    if setup.saas_uid is None:
        yield Blocker(
            code="saas_missing",
            what=f"the profile saas needs a SaaS configuration, and record {setup.record_uid} has none",
            remedy="name one with --saas-config-uid; `pam action saas config --create` makes it",
        )
        return
    yield from _not_readable("saas", setup.saas_uid, gateway, facts)


def _not_readable(role: str, record_uid: str, gateway: Served, facts: Facts) -> Iterator[Blocker]:
    if _share(record_uid, gateway, facts) is None:
        yield Blocker(
            code=f"{role}_not_shared",
            what=f"the gateway {gateway.name!r} may not read the {role} record {record_uid}",
            remedy=f"share its folder with `pam app share {gateway.application_uid}"
            f" {facts.roots.get(record_uid, 'FOLDER')}`",
        )


def _share(record_uid: str, gateway: Served, facts: Facts) -> bool | None:
    """Return whether the gateway's application may edit the record; None: not even read."""
    return facts.shares.get((gateway.application_uid, facts.roots.get(record_uid, "")))
