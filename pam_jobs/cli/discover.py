"""``pam action discover``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    Format,
    FormatOption,
    ResultFormatOption,
    done,
    emit,
    group,
    is_interactive,
    note,
    print_pairs,
    print_table,
    result_format,
    vault,
    when,
)
from pam_jobs.cli.gateway import default_gateway
from pam_jobs.cli.job import duration_text
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.discovery import Answer, Processed, Proposal
    from pam_jobs.client.pam import Configuration
    from pam_jobs.client.vault import VaultClient

app = group(
    "Discovery: find machines, databases and users, and turn them into records.",
    short={"s": "start", "st": "status", "p": "process", "r": "remove"},
    alone="status",
)

ConfigurationOption = Annotated[
    str | None, typer.Option("--configuration-uid", "-c", help="UID or title of the configuration.")
]
GatewayOption = Annotated[str | None, typer.Option("--gateway", "-g", help="UID or name of the gateway.")]
JobOption = Annotated[str, typer.Option("--job-id", "-j", help="UID of the discovery job.")]


def _configuration(client: VaultClient, text: str | None, gateway: str | None) -> Configuration:
    if text is not None:
        return client.pam.find_configuration(text)
    uid = default_gateway(client, gateway)["uid"]
    found = [entry for entry in client.pam.configurations() if entry.gateway_uid == uid]
    if len(found) != 1:
        raise InvalidInput(f"the gateway serves {len(found)} configurations", remedy="name one by --configuration-uid")
    return found[0]


@app.command("start")
def start(
    configuration: ConfigurationOption = None,
    gateway: GatewayOption = None,
    resource: Annotated[
        str | None, typer.Option("--resource", "-r", help="Only users of this machine or database.")
    ] = None,
    credential: Annotated[
        list[str] | None,
        typer.Option(
            "--credential",
            "-cr",
            help="User record to log in with, on every host of the range that speaks; repeat. None: known admins.",
        ),
    ] = None,
    skip_machines: Annotated[bool, typer.Option("--skip-machines", help="Leave machines out.")] = False,
    skip_databases: Annotated[bool, typer.Option("--skip-databases", help="Leave databases out.")] = False,
    machine_users: Annotated[
        bool,
        typer.Option("--include-machine-dir-users/--no-machine-dir-users", help="Directory users found on machines."),
    ] = True,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end; exit code 0 only if it is ok.")] = False,
    style: ResultFormatOption = None,
) -> None:
    """Start a discovery; one runs at a time for each configuration."""
    with vault() as client:
        found = _configuration(client, configuration, gateway)
        if resource is None and not found.require_record().record.field("text", "networkCIDR"):
            raise InvalidInput(
                f"the configuration {found.title} names no network to look at",
                remedy=f"run `pam config edit {found.uid} --network-cidr 192.0.2.0/24`, or give --resource",
            )
        parameters: dict[str, Any] = {
            "skip_machines": skip_machines,
            "skip_databases": skip_databases,
            "include_machine_dir_users": machine_users,
            "credential_uids": [_credential(client, text) for text in credential or []] or _known_admins(client, found),
        }
        job = client.discovery.start(found.uid, client.records.find(resource).uid if resource else None, parameters)
        if wait:
            job = client.jobs.wait(job["uid"], progress=lambda now: note(f"discovery: {now['state']}"))
        counts: dict[str, int] = {}
        if wait and job.get("status") == "ok":
            counts = client.discovery.result(job["uid"])[2].get("counts") or {}
    value = {"job": job["uid"], "state": job["state"], "status": job.get("status"), "cause": job.get("cause"),
             "configuration_uid": found.uid, "counts": counts}  # fmt: skip
    emit(result_format(style), value, lambda: print_pairs({**value, "counts": _counts(counts)}))
    if wait and value["status"] != "ok":
        raise typer.Exit(1)
    note(f"next: `pam action discover {'process' if wait else 'status'} -j {job['uid']}`")


def _known_admins(client: VaultClient, configuration: Configuration) -> list[str]:
    """Return the admins of the configuration's resources: what a discovery may log in with when nothing is named."""
    links = (link for link in client.pam.resources() if link["configuration_uid"] == configuration.uid)
    return sorted({link["admin_uid"] for link in links if link["admin_uid"]})


def _credential(client: VaultClient, text: str) -> str:
    stored = client.records.find(text)
    if stored.type != "pamUser" or not stored.record.login:
        raise InvalidInput(
            f"{stored.title} is a {stored.type} and cannot log in", remedy="name the record of a user with --credential"
        )
    return stored.uid


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


@app.command("status")
def status(
    job: Annotated[str | None, typer.Option("--job-id", "-j", help="One job, with what it found.")] = None,
    configuration: ConfigurationOption = None,
    gateway: GatewayOption = None,
    history: Annotated[bool, typer.Option("--history", help="Also those that are finished and processed.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show discoveries, or one with what it found and what it could not see."""
    with vault() as client:
        if job is not None:
            _one(client, job, style)
            return
        uid = client.pam.find_configuration(configuration).uid if configuration else None
        gateways = {row["uid"]: row["name"] for row in client.pam.gateways()}
        only = client.pam.find_gateway(gateway)["uid"] if gateway else None
        rows = [
            row
            for row in client.discovery.jobs(uid)
            if (only is None or row.get("gateway_uid") == only) and (history or not row.get("processed_at"))
        ]
    emit(
        style,
        {"jobs": rows},
        lambda: print_table(
            ["Job UID", "Gateway", "Configuration UID", "State", "Resource UID", "Started", "Duration"],
            [
                (row["uid"], gateways.get(row.get("gateway_uid")), row["configuration_uid"], row["state"],
                 (row.get("parameters") or {}).get("resource_uid"), when(row.get("started_at")), duration_text(row))
                for row in rows
            ],
            empty="there are no discoveries to show; start one with `pam action discover start`",
        ),
    )  # fmt: skip


def _one(client: VaultClient, uid: str, style: Format) -> None:
    job = client.jobs.opened(client.jobs.get(uid))
    value: dict[str, Any] = {"job": uid, "state": job["state"], "status": job.get("status"), "cause": job.get("cause"),
                             "detail": job.get("detail")}  # fmt: skip
    if job.get("status") == "ok":
        _, content, row = client.discovery.result(uid)
        value |= {
            "counts": row.get("counts"),
            "processed_at": row.get("processed_at"),
            "objects": [
                {"uid": entry["uid"], "type": entry["object_type_value"], "title": entry.get("title") or entry["name"],
                 "parent_uid": entry.get("parent_uid")}
                for entry in content["objects"]
            ],
            "coverage": content.get("coverage") or [],
            "scope": content.get("scope"),
        }  # fmt: skip

    def table() -> None:
        print_pairs({"Job UID": uid, "State": value["state"], "Status": value["status"], "Cause": value["cause"]})
        if "objects" in value:
            print_table(
                ["Type", "Title", "Object UID"], [(o["type"], o["title"], o["uid"]) for o in value["objects"]],
                empty="nothing was found",
            )  # fmt: skip
            print_coverage(value["coverage"])

    emit(style, value, table)


def print_coverage(coverage: list[dict[str, Any]]) -> None:
    """Say what could not be looked at, and why."""
    if not coverage:
        note("everything in scope was looked at")
        return
    note(f"{len(coverage)} things could not be looked at:")
    print_table(["What", "Cause", "Detail"], [(row["what"], row["cause"], row.get("detail")) for row in coverage])


@app.command("process")
def process(
    job: JobOption,
    add_all: Annotated[bool, typer.Option("--add-all", help="Add everything that is new.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be added and write nothing.")] = False,
    folder: Annotated[
        str | None, typer.Option("--folder", help="Folder of new records; else the configuration's.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Turn what was found into linked records."""
    from pam_jobs.client.discovery import Answer, Choice

    if not add_all and not preview and not is_interactive():
        raise InvalidInput("nobody can be asked what to add", remedy="give --add-all or --preview")
    with vault() as client:
        place = client.folders.find(folder) if folder else None

        def decide(proposal: Proposal) -> Answer:
            return Answer(choice=Choice.ADD) if add_all or preview else _ask(client, proposal)

        processed = client.discovery.process(job, decide, folder=place, preview=preview)
    emit(style, _processed(processed), lambda: _print_processed(processed))
    if processed.warnings:
        raise typer.Exit(1)


def _ask(client: VaultClient, proposal: Proposal) -> Answer:
    from pam_jobs.client.discovery import Answer, Choice

    on = f" on {proposal.parent.record.title}" if proposal.parent else ""
    title: str | None = None
    while True:
        name = title or proposal.record.title
        sys.stderr.write(f"{proposal.kind}: {name}{on} — (A)dd, (E)dit title, add to (F)older, (S)kip, (Q)uit? ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().casefold()[:1]
        if answer == "a":
            return Answer(choice=Choice.ADD, title=title)
        if answer == "s":
            return Answer(choice=Choice.SKIP)
        if answer == "q":
            return Answer(choice=Choice.QUIT)
        if answer == "e":
            sys.stderr.write("Title: ")
            sys.stderr.flush()
            title = sys.stdin.readline().strip() or None
        if answer == "f":
            sys.stderr.write("Folder: ")
            sys.stderr.flush()
            return Answer(choice=Choice.ADD, title=title, folder=client.folders.find(sys.stdin.readline().strip()))


def _processed(done: Processed) -> dict[str, Any]:
    return {
        "preview": done.is_preview,
        "added": done.added,
        "existing": done.existing,
        "skipped": done.skipped,
        "warnings": done.warnings,
        "coverage": done.coverage,
    }


def _print_processed(done: Processed) -> None:
    print_table(
        ["Type", "Title", "On", "Record UID"],
        [(row["record_type"], row["title"], row["parent"], row.get("record_uid")) for row in done.added],
        empty="nothing new was added",
    )
    note(
        f"{'would add' if done.is_preview else 'added'} {len(done.added)}, in the vault already {len(done.existing)},"
        f" skipped {len(done.skipped)}"
    )
    for row in done.skipped:
        note(f"  skipped {row['title']}: {row['reason']}")
    for warning in done.warnings:
        note(f"  {warning}")
    print_coverage(done.coverage)


@app.command("remove")
def remove(job: JobOption, style: FormatOption = Format.TABLE) -> None:
    """Cancel a running discovery, or forget a finished one with its result."""
    with vault() as client:
        client.discovery.remove(job)
    done({"job": job}, "the discovery is removed", style)
