"""``pam config``."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    Format,
    FormatOption,
    confirm,
    created,
    done,
    emit,
    group,
    print_table,
    vault,
)
from pam_jobs.cli.gateway import default_gateway
from pam_jobs.cli.limits import (
    JobLimitOption,
    ResourceLimitOption,
    TargetLimitOption,
    limits_text,
    parse_limit,
    resource_limits,
)
from pam_jobs.cli.schedule import from_texts
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.folders import Folder
    from pam_jobs.client.vault import VaultClient
    from pam_jobs.records.record import Record

app = group(
    "PAM configurations: which gateway serves which folder, and how.",
    short={"l": "list", "n": "new", "e": "edit", "rm": "remove"},
    alone="list",
)


class Environment(StrEnum):
    """Where the targets are."""

    LOCAL = "local"
    AWS = "aws"
    AZURE = "azure"
    GCP = "gcp"
    DOMAIN = "domain"
    OCI = "oci"
    GITHUB = "github"
    HASHICORP = "hashicorp"


class MissedRuns(StrEnum):
    """What becomes of a run that comes late."""

    CATCH_UP = "catch_up"
    SKIP = "skip"


class Switch(StrEnum):
    """A feature of a configuration."""

    ON = "on"
    OFF = "off"
    DEFAULT = "default"


TitleOption = Annotated[str | None, typer.Option("--title", "-t", help="Title of the configuration.")]
GatewayOption = Annotated[str | None, typer.Option("--gateway", "-g", help="UID or name of the gateway.")]
FolderOption = Annotated[str | None, typer.Option("--shared-folder", "-sf", help="UID or name of the folder.")]
ScheduleOption = Annotated[
    str | None, typer.Option("--schedule", "-sc", help="Default cron, five fields or Quartz; empty for on demand.")
]
VerifyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--default-verify-schedule",
        "-dvs",
        help="When users without a schedule of their own for it are checked for drift: a cron, or JSON; repeat;"
        " empty for on demand.",
    ),
]
ZoneOption = Annotated[str, typer.Option("--timezone", help="IANA time zone of the cron.")]
PortOption = Annotated[
    list[str] | None, typer.Option("--port-mapping", "-pm", help="PORT=LABEL such as 2222=ssh; repeat.")
]
NetworkIdOption = Annotated[str | None, typer.Option("--network-id", help="Name of the network.")]
CidrOption = Annotated[str | None, typer.Option("--network-cidr", help="Range that discovery scans.")]
RotationOption = Annotated[Switch, typer.Option("--rotation", "-r", help="Whether its users are rotated.")]


WindowOption = Annotated[
    list[str] | None,
    typer.Option("--window", "-wi", help="Calendar inside which scheduled runs begin; repeat; replaces those it has."),
]
BlackoutOption = Annotated[
    list[str] | None,
    typer.Option("--blackout", "-bl", help="Calendar inside which none begins; repeat; replaces those it has."),
]
JitterOption = Annotated[
    int | None, typer.Option("--jitter", min=0, max=86_400, help="Spread scheduled runs over so many seconds.")
]
MissedOption = Annotated[
    MissedRuns | None, typer.Option("--missed-runs", help="What becomes of runs while no beat was there.")
]
GraceOption = Annotated[
    int | None,
    typer.Option("--missed-grace", min=60, max=604_800, help="Seconds that a run may be late before it is skipped."),
]


@app.command("new")
def new(
    title: Annotated[str, typer.Option("--title", "-t", help="Title of the configuration.")],
    folder: Annotated[str, typer.Option("--shared-folder", "-sf", help="UID or name of the folder it lies in.")],
    environment: Annotated[Environment, typer.Option("--environment", "-env", help="Where the targets are.")] = (
        Environment.LOCAL
    ),
    gateway: GatewayOption = None,
    schedule: ScheduleOption = None,
    verify: VerifyOption = None,
    timezone: ZoneOption = "Etc/UTC",
    port_mapping: PortOption = None,
    network_id: NetworkIdOption = None,
    network_cidr: CidrOption = None,
    rotation: RotationOption = Switch.DEFAULT,
    style: FormatOption = Format.TABLE,
) -> None:
    """Create a configuration; the gateway may be left out where there is one only."""
    from pam_jobs.records.types import new_record

    if environment is not Environment.LOCAL:
        raise InvalidInput(
            f"the environment {environment.value} is not served by this release",
            remedy="use --environment local; machines and databases in any cloud are reached over the network",
        )
    _check_title(title)
    record = new_record("pamNetworkConfiguration", title, complete=False)
    record = _with_fields(record, port_mapping, network_id, network_cidr)
    plan = from_texts([schedule or ""], timezone)
    looking = from_texts(verify or [], timezone)
    if plan:
        record = record.set_field("schedule", plan, "defaultRotationSchedule")
    with vault() as client:
        place = client.folders.find(folder)
        row = default_gateway(client, gateway)
        _check_bound(client, row, place)
        uid = client.pam.add_configuration(
            record,
            place,
            row,
            environment=environment.value,
            schedule=plan,
            verify_schedule=looking,
            rotation_enabled=rotation is not Switch.OFF,
        )
    created({"uid": uid}, f"created the configuration {title}, served by the gateway {row['name']}", style)


def _gateway(client: VaultClient, gateway: str | None, folder_uid: str) -> dict[str, str]:
    """Return the change to another gateway, checked; none when none is given."""
    if gateway is None:
        return {}
    row = client.pam.find_gateway(gateway)
    _check_bound(client, row, client.folders.find(folder_uid))
    return {"gateway_uid": row["uid"]}


def _calendars(
    client: VaultClient, window: list[str] | None, blackout: list[str] | None, *, no_calendars: bool
) -> dict[str, list[str]]:
    """Return what changes of the calendars that a configuration uses."""
    given = {"windows": window, "blackouts": blackout}
    return {
        name: [client.pam.find_calendar(text)["uid"] for text in texts or []]
        for name, texts in given.items()
        if texts is not None or no_calendars
    }


def _check_title(title: str | None) -> None:
    if title is not None and not title.strip():
        raise InvalidInput("the configuration has no title", remedy="give a title that is not blank")


def _check_ports(client: VaultClient, old: Record, new: Record, resource_uids: Iterable[str]) -> None:
    """Refuse a port mapping that takes away the protocol of a resource that is rotated through it."""
    from pam_jobs.client.rotation import check_still_served, mapping_of

    before, after = mapping_of(old), mapping_of(new)
    if before.to_text() == after.to_text():
        return
    records = {entry.uid: entry for entry in client.records.list()}
    for stored in (records[uid] for uid in resource_uids if uid in records):
        check_still_served(stored.record, before, stored.record, after)


def _check_bound(client: VaultClient, gateway: dict[str, Any], folder: Folder) -> None:
    """Refuse a gateway that could not read the configuration."""
    app_uid = gateway["application_uid"]
    owned = next((entry for entry in client.applications.list() if entry.uid == app_uid), None)
    if owned is not None and owned.can_edit(folder.root_uid) is None:
        raise InvalidInput(
            f"the gateway {gateway['name']} is not bound to the configuration's application: {owned.title} has no"
            f" share of the folder {folder.name}",
            remedy=f"run `pam app share {app_uid} {folder.root_uid} --can-edit`",
        )


def _with_fields(
    record: Record, port_mapping: list[str] | None, network_id: str | None, network_cidr: str | None
) -> Record:
    """Return the record with what was given, checked."""
    import ipaddress

    from pam_jobs.records.portmap import PortMapping

    if port_mapping is not None:
        lines = "\n".join(line.replace(",", "\n") for line in port_mapping)
        record = record.set_field("multiline", PortMapping.parse(lines).to_text(), "portMapping")
    if network_id is not None:
        record = record.set_field("text", network_id, "networkId")
    if network_cidr is not None:
        try:
            for part in network_cidr.replace(",", " ").split():
                ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise InvalidInput(f"{network_cidr!r} is not a network", remedy="write it as 192.168.1.0/24") from None
        record = record.set_field("text", network_cidr, "networkCIDR")
    return record


@app.command("list")
def list_(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Only this one, by UID or title.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show the fields.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """List configurations."""
    with vault() as client:
        found = [client.pam.find_configuration(config)] if config else client.pam.configurations()
        gateways = {row["uid"]: row["name"] for row in client.pam.gateways()}
        paths = {entry.uid: client.folders.path(entry) for entry in client.folders.list()}
    rows = []
    for entry in found:
        stored = entry.stored
        row: dict[str, Any] = {
            "uid": entry.uid,
            "config_name": entry.title,
            "config_type": stored.type if stored else None,
            "environment": entry.environment,
            "shared_folder": {"uid": stored.folder_uid, "name": paths.get(stored.folder_uid)} if stored else None,
            "gateway_uid": entry.gateway_uid,
            "gateway_name": gateways.get(entry.gateway_uid),
            "resource_record_uids": list(entry.resource_uids),
            "default_schedule": entry.default_schedule,
            "default_verify_schedule": entry.default_verify_schedule,
            "rotation": "on" if entry.rotation_enabled else "off",
            **entry.timing,
            "limits": entry.limits,
        }
        if verbose and stored:
            row["fields"] = _fields(stored.record)
        rows.append(row)
    emit(style, {"configurations": rows}, lambda: _print(rows))


def _fields(record: Record) -> dict[str, Any]:
    names = (("multiline", "portMapping"), ("text", "networkId"), ("text", "networkCIDR"))
    return {label: value for kind, label in names if (value := record.field(kind, label))}


def _print(rows: list[dict[str, Any]]) -> None:
    print_table(
        ["Configuration UID", "Configuration", "Folder", "Gateway", "Resources", "Rotation", "Limits", "Fields"],
        [
            (
                row["uid"],
                row["config_name"],
                (row["shared_folder"] or {}).get("name"),
                row["gateway_name"] or row["gateway_uid"],
                len(row["resource_record_uids"]),
                row["rotation"],
                limits_text(row["limits"]),
                "; ".join(
                    f"{name}: {str(value).replace(chr(10), ' ')}" for name, value in row.get("fields", {}).items()
                ),
            )
            for row in rows
        ],
        empty="there are no configurations; make one with `pam config new`",
    )


@app.command("edit")
def edit(
    config: Annotated[str, typer.Argument(help="UID or title.")],
    title: TitleOption = None,
    gateway: GatewayOption = None,
    schedule: ScheduleOption = None,
    verify: VerifyOption = None,
    timezone: ZoneOption = "Etc/UTC",
    port_mapping: PortOption = None,
    network_id: NetworkIdOption = None,
    network_cidr: CidrOption = None,
    rotation: Annotated[Switch | None, typer.Option("--rotation", "-r", help="Whether its users are rotated.")] = None,
    remove_resource: Annotated[
        list[str] | None, typer.Option("--remove-resource-record", "-rrr", help="UID or title of a resource; repeat.")
    ] = None,
    window: WindowOption = None,
    blackout: BlackoutOption = None,
    no_calendars: Annotated[bool, typer.Option("--no-calendars", help="Use no calendar but those given here.")] = False,
    jitter: JitterOption = None,
    missed: MissedOption = None,
    grace: GraceOption = None,
    job_limit: JobLimitOption = None,
    target_limit: TargetLimitOption = None,
    resource_limit: ResourceLimitOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Change a configuration; what is not given stays."""
    from dataclasses import replace

    with vault() as client:
        found = client.pam.find_configuration(config)
        stored = found.require_record()
        plan = None if schedule is None else from_texts([schedule], timezone)
        looking = None if verify is None else from_texts(verify, timezone)
        given: dict[str, Any] = {
            "default_schedule": plan,
            "default_verify_schedule": looking,
            "rotation_enabled": None if rotation is None else rotation is not Switch.OFF,
            "jitter_seconds": jitter,
            "missed_runs": None if missed is None else missed.value,
            "missed_grace_seconds": grace,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        changes |= _gateway(client, gateway, stored.folder_uid)
        changes |= _calendars(client, window, blackout, no_calendars=no_calendars)
        changes |= parse_limit(job_limit) | parse_limit(target_limit, "target_limit")
        limits = dict(resource_limits(client, found, resource_limit))
        removed = [client.records.find(text).uid for text in remove_resource or []]

        def change(record: Record) -> Record:
            edited = _with_fields(record, port_mapping, network_id, network_cidr)
            edited = edited.with_title(title) if title else edited
            if plan is not None:
                edited = edited.set_field("schedule", plan or [{"type": "ON_DEMAND"}], "defaultRotationSchedule")
            if "gateway_uid" in changes:
                edited = edited.with_resources(replace(edited.resources(), controller_uid=changes["gateway_uid"]))
            return edited

        _check_title(title)
        edited = change(stored.record)  # refuses what is wrong before anything is written
        _check_ports(client, stored.record, edited, set(found.resource_uids) - set(removed))
        if changes:
            client.pam.edit_configuration(found.uid, **changes)
        client.records.update(found.uid, change)
        for uid, limit in limits.items():
            client.pam.limit_resource(uid, limit)
        for uid in removed:
            client.pam.unlink_resource(uid)
    done({"uid": found.uid}, f"changed the configuration {title or found.title}", style)


@app.command("remove")
def remove(
    config: Annotated[str, typer.Argument(help="UID or title.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Remove a configuration that no resource and no user uses."""
    with vault() as client:
        found = client.pam.find_configuration(config)
        confirm(f"Remove the configuration {found.title}?", force=force)
        client.pam.remove_configuration(found.uid)
    done({"uid": found.uid}, f"removed the configuration {found.title}", style)
