"""``pam action service``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, confirm, done, emit, group, note, print_table, vault
from pam_jobs.errors import InvalidInput, PamJobsError, Unsupported
from pam_jobs.records.services import ServiceKind, ServiceNames

if TYPE_CHECKING:
    from pam_jobs.client.records import VaultRecord
    from pam_jobs.client.services import Mapping
    from pam_jobs.client.vault import VaultClient

app = group(
    "Windows services, scheduled tasks, application pools that run as a user and follow its rotation.",
    short={"l": "list", "a": "add", "r": "remove", "e": "enable", "d": "disable", "m": "map"},
)

_TYPES = [kind.value for kind in ServiceKind]
GatewayOption = Annotated[
    str | None, typer.Option("--gateway", "-g", help="UID or name; a machine of another gateway is refused.")
]
ConfigurationOption = Annotated[
    str | None, typer.Option("--configuration-uid", "-c", help="UID or title; a machine of another one is refused.")
]
MachineOption = Annotated[str, typer.Option("--machine-uid", "-m", help="UID or title of the machine.")]
UserOption = Annotated[str, typer.Option("--user-uid", "-u", help="UID or title of the user.")]


@app.command("list")
def list_services(
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    by_machine: Annotated[bool, typer.Option("--by-machine", "-m", help="Machines first, then their users.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show what runs on which machine as which user."""
    with vault() as client:
        wanted = _configurations(client, gateway, configuration)
        titles = {entry.uid: entry.title for entry in client.records.list()}
        found = [each for each in client.services.list() if wanted is None or each.configuration_uid in wanted]
    rows = [row for each in found for row in _rows(each, titles)]
    rows.sort(key=lambda row: (row["machine"], row["user"]) if by_machine else (row["user"], row["machine"]))
    first = ["machine", "user"] if by_machine else ["user", "machine"]
    emit(
        style,
        {"services": rows},
        lambda: print_table(
            [*(name.capitalize() for name in first), "Type", "Name", "Origin", "State"],
            [(*(row[name] for name in first), row["type"], row["name"], row["origin"], row["state"]) for row in rows],
            empty="nothing is mapped; see `pam action service add` and `pam action service map`",
        ),
    )


def _rows(mapping: Mapping, titles: dict[str, str]) -> list[dict[str, Any]]:
    switches = (("user", mapping.user_enabled), ("machine", mapping.machine_enabled))
    off = [what for what, is_on in switches if not is_on]
    base = {
        "user": titles.get(mapping.user_uid, mapping.user_uid), "user_uid": mapping.user_uid,
        "machine": titles.get(mapping.machine_uid, mapping.machine_uid), "machine_uid": mapping.machine_uid,
        "state": f"disabled ({', '.join(off)})" if off else "enabled",
    }  # fmt: skip
    if mapping.names is None:
        return [{**base, "type": None, "name": "(not yours to read)", "origin": None}]
    return [
        {**base, "type": entry.kind.value, "name": entry.name,
         "origin": "discovery" if entry.via_discovery else "manually set"}
        for entry in mapping.names.entries
    ]  # fmt: skip


@app.command("add")
def add(
    machine: MachineOption,
    user: UserOption,
    kind: Annotated[str, typer.Option("--type", "-t", help=", ".join(_TYPES))],
    name: Annotated[str, typer.Option("--name", "-n", help="As the machine has it; a task with its path.")],
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Say that something on a machine runs as a user: it gets each new password."""
    wanted = _kind(kind)
    with vault() as client:
        place, person = _machine(client, machine, gateway, configuration), _user(client, user)
        client.services.change(person, place.uid, lambda now: now.with_manual(wanted, name))
    value = {"machine_uid": place.uid, "user_uid": person.uid, "type": wanted.value, "name": name}
    done(value, f"{wanted.value} {name} on {place.title} follows {person.title}", style)


@app.command("remove")
def remove(
    machine: MachineOption,
    user: UserOption,
    kind: Annotated[str, typer.Option("--type", "-t", help=", ".join([*_TYPES, "all"]))],
    name: Annotated[str | None, typer.Option("--name", "-n", help="None: all of the type.")] = None,
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask before a whole type.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Forget that something runs as a user; nothing on the machine changes."""
    wanted = None if kind == "all" else _kind(kind)
    with vault() as client:
        place, person = _machine(client, machine, gateway, configuration), _user(client, user)
        if name is None:
            confirm(f"forget every {kind if wanted else 'object'} on {place.title} of {person.title}?", force=force)
        gone: list[str] = []

        def change(now: ServiceNames) -> ServiceNames:
            left = now.without(wanted, name)
            gone[:] = [entry.name for entry in now.entries if entry not in left.entries]
            return left

        client.services.change(person, place.uid, change)
    if not gone:
        raise InvalidInput(f"no such thing on {place.title} is mapped to {person.title}", remedy="see `list`")
    done({"machine_uid": place.uid, "user_uid": person.uid, "removed": gone}, f"forgotten: {', '.join(gone)}", style)


@app.command("enable")
def enable(
    machine: Annotated[str | None, typer.Option("--machine-uid", "-m", help="UID or title of the machine.")] = None,
    user: Annotated[str | None, typer.Option("--user-uid", "-u", help="UID or title of the user.")] = None,
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Let rotations update what runs on a machine, or as a user, again."""
    _switch(machine, user, gateway, configuration, style, enabled=True)


@app.command("disable")
def disable(
    machine: Annotated[str | None, typer.Option("--machine-uid", "-m", help="UID or title of the machine.")] = None,
    user: Annotated[str | None, typer.Option("--user-uid", "-u", help="UID or title of the user.")] = None,
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Keep rotations from touching what runs on a machine, or as a user."""
    _switch(machine, user, gateway, configuration, style, enabled=False)


def _switch(
    machine: str | None, user: str | None, gateway: str | None, configuration: str | None, style: Format, *,
    enabled: bool,
) -> None:  # fmt: skip
    if (machine is None) == (user is None):
        raise InvalidInput("name one machine or one user", remedy="give --machine-uid or --user-uid")
    with vault() as client:
        if machine is not None:
            found = _machine(client, machine, gateway, configuration)
            client.services.enable_machine(found.uid, enabled=enabled)
        else:
            found = _user(client, str(user))
            client.services.enable_user(found.uid, enabled=enabled)
    what = "on" if machine is not None else "as"
    told = "are updated by rotations" if enabled else "are left alone by rotations"
    done({"uid": found.uid, "enabled": enabled}, f"services {what} {found.title} {told}", style)


@app.command("map")
def map_services(
    machine: Annotated[
        str | None, typer.Option("--machine-uid", "-m", help="UID or title; without it, every machine.")
    ] = None,
    gateway: GatewayOption = None,
    configuration: ConfigurationOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Ask the gateway what runs as whom, and map it; what was added by hand stays."""
    results: list[dict[str, Any]] = []
    with vault() as client:
        places = (
            [_machine(client, machine, gateway, configuration)]
            if machine is not None
            else _all_machines(client, _configurations(client, gateway, configuration))
        )
        for place in places:
            try:
                results.append(_map(client, place))
            except Unsupported as error:
                if machine is not None:
                    raise
                note(f"{place.title} is left out: {error.sentence()}")
            except PamJobsError as error:
                note(f"{place.title}: {error.sentence()}")
                results.append({"machine_uid": place.uid, "machine": place.title, "error": error.sentence()})
    emit(style, {"machines": results}, lambda: _print_map(results))
    if any("error" in result for result in results):
        raise typer.Exit(1)


def _map(client: VaultClient, place: VaultRecord) -> dict[str, Any]:
    configuration = client.pam.find_configuration(client.services.configuration_of(place)).require_record()
    job = client.services.look(place, configuration.uid)
    job = client.jobs.wait(job["uid"], progress=lambda now: note(f"{place.title}: {now['state']}"))
    if job.get("status") != "ok":
        detail = client.jobs.opened(job).get("detail")
        told = detail.get("message") if isinstance(detail, dict) else job.get("cause")
        kind = Unsupported if job.get("cause") == Unsupported.code else PamJobsError
        raise kind(f"the gateway could not look: {told}", remedy=f"see the job with `pam action job-info {job['uid']}`")
    return {"machine_uid": place.uid, "machine": place.title} | client.services.take(job["uid"], place, configuration)


def _print_map(results: list[dict[str, Any]]) -> None:
    print_table(
        ["Machine", "User", "Type", "Name"],
        [
            (result["machine"], row["user"], row["type"], row["name"])
            for result in results
            for row in result.get("mapped", [])
        ],
        empty="nothing there runs as a user that is rotated",
    )
    for result in results:
        for row in result.get("unknown", []):
            note(f"  {result['machine']}: {row['type']} {row['name']} runs as {row['user']}, who is not rotated here")
        for row in result.get("coverage", []):
            note(f"  {result['machine']}: {row['what']} was not seen ({row['cause']}) {row.get('detail') or ''}")


def _kind(text: str) -> ServiceKind:
    if text not in _TYPES:
        raise InvalidInput(f"{text!r} is not a type", remedy="use one of " + ", ".join(_TYPES))
    return ServiceKind(text)


def _user(client: VaultClient, text: str) -> VaultRecord:
    found = client.records.find(text, ("pamUser",))
    if found.type != "pamUser":
        raise InvalidInput(f"{found.title} is a {found.type} and no user", remedy="name a pamUser with --user-uid")
    return found


def _machine(client: VaultClient, text: str, gateway: str | None, configuration: str | None) -> VaultRecord:
    found = client.records.find(text, ("pamMachine",))
    if found.type != "pamMachine":
        raise InvalidInput(
            f"{found.title} is a {found.type} and no machine", remedy="name a pamMachine with --machine-uid"
        )
    wanted = _configurations(client, gateway, configuration)
    if wanted is not None and client.services.configuration_of(found) not in wanted:
        raise InvalidInput(
            f"{found.title} belongs to another configuration", remedy="leave out --gateway and --configuration-uid"
        )
    return found


def _configurations(client: VaultClient, gateway: str | None, configuration: str | None) -> set[str] | None:
    """Return the configurations that are meant; None: all."""
    if configuration is not None:
        return {client.pam.find_configuration(configuration).uid}
    if gateway is None:
        return None
    uid = client.pam.find_gateway(gateway)["uid"]
    return {entry.uid for entry in client.pam.configurations() if entry.gateway_uid == uid}


def _all_machines(client: VaultClient, wanted: set[str] | None) -> list[VaultRecord]:
    linked = {row["record_uid"]: row["configuration_uid"] for row in client.pam.resources()}
    return [
        entry
        for entry in client.records.list()
        if entry.type == "pamMachine" and entry.uid in linked and (wanted is None or linked[entry.uid] in wanted)
    ]
