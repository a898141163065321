"""``pam gateway``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.broker_access import Account, BrokerKind, account
from pam_jobs.cli.apps import ConfigInit, print_config
from pam_jobs.cli.common import (
    Format,
    FormatOption,
    age,
    confirm,
    created,
    done,
    emit,
    group,
    note,
    print_table,
    vault,
    when,
)
from pam_jobs.cli.limits import parse_limit
from pam_jobs.errors import InvalidInput
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from pam_jobs.client.vault import VaultClient

app = group(
    "Gateways: they reach the targets.",
    short={"l": "list", "n": "new", "e": "edit", "rm": "remove", "smi": "set-max-instances"},
    alone="list",
)

GatewayOption = Annotated[str, typer.Option("--gateway", "-g", help="UID or exact name.")]
_SECONDS_A_MINUTE = 60
_ANY_HOST = "BROKER"


def status_text(row: dict[str, Any]) -> str:
    """Return a gateway's status as Keeper shows it: ONLINE, ONLINE (N instances) or OFFLINE; and whether it is drained."""
    online = [entry for entry in row.get("instances") or [] if entry["status"] == "ONLINE"]
    status = f"{row['status']} ({len(online)} instances)" if len(online) > 1 else str(row["status"])
    return f"{status}, drained" if row.get("drained_at") else status


def _running(row: dict[str, Any]) -> str:
    limit = row.get("job_limit")
    return f"{row.get('running', 0)} of {limit}" if limit else str(row.get("running", 0))


def _version(row: dict[str, Any]) -> str:
    versions = [str(entry["version"]).split(";")[0] for entry in row.get("instances") or []]
    return ", ".join(dict.fromkeys(versions))


@app.command("list")
def list_(
    online: Annotated[bool, typer.Option("--online", "-o", help="Only those that are online.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show every instance.")] = False,
    _force: Annotated[
        bool, typer.Option("--force", "-f", help="For scripts of the vendor's CLI; the list is always read anew.")
    ] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """List gateways and whether they are online."""
    with vault() as client:
        titles = {entry.uid: entry.title for entry in client.applications.list()}
        rows = [row for row in client.pam.gateways() if not online or row["status"] == "ONLINE"]
    value = [_json(row, titles, verbose=verbose) for row in rows]

    def table() -> None:
        print_table(
            ["Application", "Gateway", "Gateway UID", "Status", "Version", "Queued", "Running"],
            [
                (titles.get(row["application_uid"]), row["name"], row["uid"], status_text(row), _version(row),
                 row.get("queued", 0), _running(row))
                for row in rows
            ],
            empty="there are no gateways; make one with `pam gateway new`",
        )  # fmt: skip
        if verbose:
            _print_instances(rows)

    emit(style, {"gateways": value}, table)


def _json(row: dict[str, Any], titles: dict[str, str], *, verbose: bool) -> dict[str, Any]:
    value = {
        "ksm_app_name": titles.get(row["application_uid"]),
        "ksm_app_uid": row["application_uid"],
        "ksm_app_accessible": row["application_uid"] in titles,
        "gateway_name": row["name"],
        "gateway_uid": row["uid"],
        "status": status_text(row),
        "gateway_version": _version(row),
        "queued": row.get("queued", 0),
        "max_instances": row.get("max_instances"),
        "running": row.get("running", 0),
        "job_limit": row.get("job_limit"),
        "drained_at": row.get("drained_at"),
    }
    return value | ({"instances": row.get("instances") or [], "created_at": row.get("created_at")} if verbose else {})


def _print_instances(rows: list[dict[str, Any]]) -> None:
    print_table(
        ["Gateway", "Instance", "Status", "Started", "Last seen", "Running", "System"],
        [
            (row["name"], entry["instance"], entry["status"], when(entry.get("started_at")),
             age(entry.get("last_seen_at")), entry.get("running", 0),
             " ".join(str(entry["version"]).split(";")[1:4]))
            for row in rows
            for entry in row.get("instances") or []
        ],
        empty="no instance has connected yet",
    )  # fmt: skip


@app.command("new")
def new(
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the gateway.")],
    application: Annotated[str, typer.Option("--application", "-a", help="UID or title of its application.")],
    expires: Annotated[
        int, typer.Option("--token-expires-in-min", "-e", min=1, max=1440, help="Minutes until its first connection.")
    ] = 60,
    config_init: Annotated[
        ConfigInit | None,
        typer.Option("--config-init", "-c", help="Print a configuration for `pam gateway start` and nothing else."),
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Create a gateway; prints its one-time token, or its configuration."""
    with vault() as client:
        entry = client.applications.find(application)
        uid, token = client.pam.add_gateway(entry, name, token_seconds=expires * _SECONDS_A_MINUTE)
        if config_init is not None:
            print_config(client.applications.client_config(token), config_init)
            note(f"created the gateway {name}; start it with `pam gateway start --config FILE`")
            return
    created({"uid": uid, "token": token.reveal()}, f"created the gateway {name}; its token works once", style)


@app.command("edit")
def edit(
    gateway: GatewayOption,
    name: Annotated[str | None, typer.Option("--name", "-n", help="New name.")] = None,
    job_limit: Annotated[
        str | None, typer.Option("--job-limit", "-jl", help="Jobs at a time over all its instances; none: no limit.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Rename a gateway, or limit how many jobs it works on at a time."""
    changes: dict[str, Any] = ({} if name is None else {"name": name}) | parse_limit(job_limit)
    if not changes:
        raise InvalidInput("nothing is to be changed", remedy="give --name or --job-limit")
    with vault() as client:
        row = client.pam.find_gateway(gateway)
        client.pam.edit_gateway(row["uid"], **changes)
    told = [f"renamed {row['name']} to {name}"] if name is not None else []
    if "job_limit" in changes:
        limit = changes["job_limit"]
        told.append(f"{name or row['name']} works on {f'at most {limit}' if limit else 'any number of'} jobs at a time")
    done({"uid": row["uid"], **changes}, "; ".join(told), style)


@app.command("drain")
def drain(gateway: GatewayOption, style: FormatOption = Format.TABLE) -> None:
    """Let a gateway begin no more jobs: what it works on, it ends, what waits for it waits on."""
    _set_drained(gateway, style, drained=True)


@app.command("resume")
def resume(gateway: GatewayOption, style: FormatOption = Format.TABLE) -> None:
    """Let a drained gateway begin jobs again."""
    _set_drained(gateway, style, drained=False)


def _set_drained(gateway: str, style: Format, *, drained: bool) -> None:
    with vault() as client:
        row = client.pam.set_gateway_drained(client.pam.find_gateway(gateway)["uid"], drained=drained)
    value = {name: row[name] for name in ("uid", "drained_at", "running", "queued")}
    name, running, queued = row["name"], row["running"], row["queued"]
    if drained:
        told = f"{name} begins no more jobs: {running} at work, {queued} waiting; resume it with `pam gateway resume`"
    else:
        told = f"{name} begins jobs again: {queued} waiting"
    done(value, told, style)


@app.command("remove")
def remove(
    gateway: GatewayOption,
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Remove a gateway that no configuration uses."""
    with vault() as client:
        row = client.pam.find_gateway(gateway)
        confirm(f"Remove the gateway {row['name']}?", force=force)
        client.pam.remove_gateway(row["uid"])
    done({"uid": row["uid"]}, f"removed the gateway {row['name']}", style)


@app.command("set-max-instances")
def set_max_instances(
    gateway: GatewayOption,
    count: Annotated[int, typer.Option("--max-instances", "-m", min=1, help="How many may be online at once.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Set how many instances of a gateway may run."""
    with vault() as client:
        row = client.pam.find_gateway(gateway)
        client.pam.edit_gateway(row["uid"], max_instances=count)
    done(
        {"uid": row["uid"], "max_instances": count},
        f"{row['name']} may have {count} {'instance' if count == 1 else 'instances'}",
        style,
    )


@app.command("broker-acl")
def broker_acl(
    gateway: GatewayOption,
    broker: Annotated[BrokerKind, typer.Option("--broker", "-b", help="Which broker it is.")] = BrokerKind.REDIS,
    host: Annotated[str, typer.Option("--host", help="The broker's name, for the URL.")] = _ANY_HOST,
    vhost: Annotated[str, typer.Option("--vhost", help="RabbitMQ's virtual host.")] = "/",
    dotenv: Annotated[
        bool, typer.Option("--dotenv", help="Print lines for the .env of docker-compose.yml, and nothing else.")
    ] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Print how to make a gateway's own broker account, which reaches its own queue alone; changes nothing.

    Every call has a new password. It takes effect when the commands have been run at the broker.
    """
    with vault() as client:
        row = client.pam.find_gateway(gateway)
    made = account(broker, row["uid"], SecretValue(secrets.token_urlsafe(32)), vhost=vhost)
    if dotenv:
        sys.stdout.write("\n".join(made.dotenv("redis" if host == _ANY_HOST else host)) + "\n")
        return
    value = {
        "gateway": row["uid"],
        "broker": made.broker,
        "user": made.user,
        "password": made.password.reveal(),
        "queue": made.queue,
        "commands": list(made.commands),
        "configuration_line": made.lasting,
        "broker_url": made.url(host),
    }
    emit(style, value, lambda: _print_account(row["name"], made, host))


def _print_account(name: str, made: Account, host: str) -> None:
    lines = [f"# at the broker, for the gateway {name}", *made.commands]
    if made.lasting is not None:
        lines += ["# and, to outlive the broker's restart, this line in its redis.conf or users.acl", made.lasting]
    else:
        lines += ["# add_user asks for the password", made.password.reveal()]
    lines += ["# in the environment file of the gateway, mode 0600", f"PAM_BROKER_URL={made.url(host)}"]
    sys.stdout.write("\n".join(lines) + "\n")


@app.command("start")
def start(
    config: Annotated[
        Path | None, typer.Option("--config", help="Its gateway-config.json; else GATEWAY_CONFIG or the usual places.")
    ] = None,
) -> None:
    """Run a gateway in the foreground; needs PAM_BROKER_URL, and PAM_CA_FILE for a private CA."""
    from pam_jobs.cli.processes import exec_module

    if config is not None and not config.is_file():
        raise InvalidInput(f"there is no file {config}", remedy="name the gateway's gateway-config.json")
    exec_module("workers", *(["--config", str(config)] if config is not None else []))


def default_gateway(client: VaultClient, text: str | None) -> dict[str, Any]:
    """Return the named gateway, or the only one there is.

    Raises:
        InvalidInput: none is named and there is not exactly one.
    """
    if text is not None:
        return client.pam.find_gateway(text)
    rows = client.pam.gateways()
    if len(rows) == 1:
        return rows[0]
    raise InvalidInput(
        "there are several gateways" if rows else "there is no gateway",
        remedy="name one by --gateway" if rows else "make one with `pam gateway new`",
    )
