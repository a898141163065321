"""``pam action saas``: online services whose passwords plugins of a gateway change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, created, done, emit, group, note, print_table, vault
from pam_jobs.cli.gateway import default_gateway
from pam_jobs.client.values import read_assignments
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.records import VaultRecord
    from pam_jobs.client.vault import VaultClient

__all__ = ["app"]

app = group("Online services (SaaS), whose passwords plugins of a gateway change.")

_Gateway = Annotated[str | None, typer.Option("--gateway", "-g", help="UID or name of the gateway; else the only one.")]
_User = Annotated[str, typer.Option("--user-uid", "-u", help="UID or title of the user's record.")]


@app.command("config")
def config(
    gateway: _Gateway = None,
    is_list: Annotated[bool, typer.Option("--list", "-l", help="Show the plugins that the gateway has.")] = False,
    plugin: Annotated[str | None, typer.Option("--plugin", "-p", help="Name of a plugin.")] = None,
    info: Annotated[bool, typer.Option("--info", help="Show the plugin's fields.")] = False,
    create: Annotated[bool, typer.Option("--create", "-c", help="Make a configuration record for the plugin.")] = False,
    update: Annotated[
        str | None, typer.Option("--update-config-uid", "-u", help="Change the fields of this configuration record.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--shared-folder-uid", "-s", help="Folder of the new record, that the gateway reads.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", "-t", help="Title of the new record.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", help="LABEL=VALUE of a field; - reads standard input, @FILE a file, ? asks; repeat."),
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show a gateway's plugins, and make or change their configuration records."""
    if is_list + info + create + (update is not None) != 1:
        raise InvalidInput("one thing at a time", remedy="give one of --list, --info, --create, --update-config-uid")
    with vault() as client:
        if update is not None:
            _update(client, gateway, update, fields or [], style)
            return
        plugins = _plugins(client, gateway)
        if is_list:
            rows = [(each["name"], each.get("summary", "")) for each in plugins]
            emit(style, {"plugins": plugins}, lambda: print_table(["Plugin", "What it changes"], rows))
            return
        found = _plugin(plugins, plugin)
        if info:
            emit(style, found, lambda: _print_fields(found))
            return
        uid = _create(client, found, folder, title, fields or [])
    created({"uid": uid}, f"made; attach it with `pam action saas set -u USER --config-record-uid {uid}`")


@app.command("set")
def attach(
    user: _User,
    config_record: Annotated[
        str, typer.Option("--config-record-uid", "-sc", help="UID or title of the SaaS configuration.")
    ],
    configuration: Annotated[
        str | None, typer.Option("--configuration-uid", "-c", help="PAM configuration; else the one that it has.")
    ] = None,
    gateway: Annotated[str | None, typer.Option("--gateway", "-g", hidden=True)] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Have the user's password rotated by a plugin."""
    from pam_jobs.client.rotation import Wishes

    _apply(user, Wishes(configuration=configuration, profile="saas", service=config_record), gateway, style)


@app.command("remove")
def detach(
    user: _User,
    gateway: Annotated[str | None, typer.Option("--gateway", "-g", hidden=True)] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Take the plugin away from a user: only its scripts are left to run."""
    from pam_jobs.client.rotation import Wishes

    _apply(user, Wishes(profile="scripts_only"), gateway, style)


@app.command("user")
def user_info(
    user: Annotated[str, typer.Option("--user-record-uid", "-u", help="UID or title of the user's record.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Show by which plugin a user is rotated."""
    with vault() as client:
        stored = client.records.find(user)
        settings = client.pam.rotation(stored.uid) or {}
        uid = settings.get("saas_uid")
        service = client.records.get(uid) if uid else None
    value = {
        "user": stored.uid,
        "saas_config_uid": uid,
        "title": service.title if service else None,
        "plugin": service.record.custom("SaaS Type") if service else None,
        "active": service.record.flag("Active", default=True) if service else None,
        "last_rotated_at": settings.get("last_rotated_at"),
    }
    rows = [(value["plugin"], value["title"], uid, value["active"])] if uid else []
    emit(style, value, lambda: print_table(["Plugin", "Configuration", "UID", "Active"], rows))


def _apply(user: str, wishes: Any, gateway: str | None, style: Format) -> None:
    from pam_jobs.client.rotation import Planner

    with vault() as client:
        planner = Planner(client)
        stored = client.records.find(user)
        plan = planner.plan([stored], wishes)
        if plan.skipped:
            raise plan.skipped[0][1]
        [planned] = plan.planned
        if gateway is not None and client.pam.find_gateway(gateway)["uid"] != planned.configuration.gateway_uid:
            raise InvalidInput(
                f"{planned.configuration.title} is not of that gateway", remedy="name its own, or leave --gateway out"
            )
        planner.apply(planned)
    told = "is rotated by its plugin" if wishes.profile == "saas" else "is no longer rotated by a plugin"
    done({"uid": stored.uid}, f"{stored.title} {told}", style)


def _plugins(client: VaultClient, gateway: str | None) -> list[dict[str, Any]]:
    row = default_gateway(client, gateway)
    told = [instance.get("details") or {} for instance in row.get("instances") or []]
    found = {each["name"]: each for details in told for each in details.get("saas") or []}
    if not found:
        raise InvalidInput(
            f"the gateway {row['name']} has not told yet which plugins it has", remedy="start it, then ask again"
        )
    return [found[name] for name in sorted(found)]


def _plugin(plugins: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    wanted = (name or "").casefold()
    found = next((each for each in plugins if each["name"].casefold() == wanted), None)
    if found is None:
        raise InvalidInput(
            f"the gateway has no plugin {name!r}" if name else "no plugin was named",
            remedy="name one with --plugin: " + ", ".join(each["name"] for each in plugins),
        )
    return found


def _print_fields(plugin: dict[str, Any]) -> None:
    note(f"{plugin['name']}: {plugin.get('summary', '')}")
    rows = [
        (each["label"], _kind(each), "yes" if each["required"] else "", str(each.get("default", "")), each.get("desc"))
        for each in plugin["fields"]
    ]
    print_table(["Field", "Type", "Required", "Default", "What it is"], rows)


def _kind(item: dict[str, Any]) -> str:
    return " or ".join(item["values"]) if item.get("values") else str(item["type"])


def _create(
    client: VaultClient, plugin: dict[str, Any], folder: str | None, title: str | None, given: list[str]
) -> str:
    from pam_jobs.records.record import Record

    if folder is None:
        raise InvalidInput("a folder is missing", remedy="name one that the gateway reads with --shared-folder-uid")
    place = client.folders.find(folder)
    values = _values(plugin, given)
    missing = [
        each["label"]
        for each in plugin["fields"]
        if each["required"] and each.get("default") is None and each["label"] not in values
    ]
    if missing:
        raise InvalidInput(
            f"the plugin {plugin['name']} needs {', '.join(missing)}",
            remedy=f"give them as --set {missing[0]!r}=VALUE, a secret one as --set {missing[0]!r}=-",
        )
    record = Record.parse({"type": "saasConfiguration", "title": title or plugin["name"], "fields": []})
    record = record.set_field("text", plugin["name"], "SaaS Type", custom=True)
    record = record.set_field("text", "TRUE", "Active", custom=True)
    return client.records.add(_filled(record, plugin, values), place)


def _update(client: VaultClient, gateway: str | None, text: str, given: list[str], style: Format) -> None:
    stored: VaultRecord = client.records.find(text)
    plugin = _plugin(_plugins(client, gateway), stored.record.custom("SaaS Type"))
    values = _values(plugin, given)
    if not values:
        raise InvalidInput("nothing is to be changed", remedy="give --set LABEL=VALUE")
    client.records.update(stored.uid, lambda record: _filled(record, plugin, values))
    done({"uid": stored.uid}, f"{stored.title} was changed", style)


def _values(plugin: dict[str, Any], given: list[str]) -> dict[str, str]:
    labels = {each["label"].casefold(): each["label"] for each in plugin["fields"]}
    labels |= {label.casefold(): label for label in ("Active", "CA File", "Lockout Limit", "Lockout Window Minutes")}
    secret = {each["label"] for each in plugin["fields"] if each.get("is_secret")}
    exact: list[str] = []
    for text in given:
        label, separator, value = text.partition("=")
        known = labels.get(label.strip().casefold())
        if not separator or known is None:
            raise InvalidInput(
                f"the plugin {plugin['name']} has no field {label.strip()!r}",
                remedy="write LABEL=VALUE with one of " + ", ".join(each["label"] for each in plugin["fields"]),
            )
        if known in secret and value and value[0] not in "-@?":
            note(f"{known} stood on the command line, where others on this machine can see it; '{known}=-' reads it")
        exact.append(f"{known}={value}")
    return dict(read_assignments(exact))


def _filled(record: Any, plugin: dict[str, Any], values: dict[str, str]) -> Any:
    secret = {each["label"] for each in plugin["fields"] if each.get("is_secret")}
    for label, value in values.items():
        record = record.set_field("secret" if label in secret else "text", value, label, custom=True)
    return record
