"""``pam action``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli import discover, saas, service
from pam_jobs.cli.common import (
    Format,
    FormatOption,
    ResultFormatOption,
    confirm,
    emit,
    group,
    note,
    print_pairs,
    print_table,
    result_format,
    vault,
    when,
)
from pam_jobs.cli.gateway import default_gateway, status_text
from pam_jobs.cli.job import duration_text, is_ok, print_job
from pam_jobs.errors import InvalidInput, PamJobsError

if TYPE_CHECKING:
    from pam_jobs.client.records import VaultRecord
    from pam_jobs.client.vault import VaultClient

app = group(
    "Do something now: rotate, verify, reconcile, discover, map services, online services.",
    short={
        "r": "rotate",
        "ji": "job-info",
        "jc": "job-cancel",
        "i": "gateway-info",
        "d": "discover",
        "s": "service",
        "sa": "saas",
    },
)
app.add_typer(discover.app, name="discover")
app.add_typer(service.app, name="service")
app.add_typer(saas.app, name="saas")

_WAITS_FOR_ADMIN = {"target_set_aside", "administrator_busy"}

RecordOption = Annotated[str | None, typer.Option("--record-uid", "-r", help="UID or title of a pamUser.")]
FolderOption = Annotated[
    str | None, typer.Option("--folder", "-f", help="All users of this folder that have rotation.")
]
WaitOption = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end; exit code 0 only if it is ok.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", min=1, help="Seconds to wait at most.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="UID of the job.")]
JobGatewayOption = Annotated[
    str | None, typer.Option("--gateway", "-g", help="UID or name; another gateway's job is refused.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do not ask before a folder.")]


@app.command("rotate")
def rotate(
    record: RecordOption = None,
    folder: FolderOption = None,
    wait: WaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check everything and change nothing.")] = False,
    check_old: Annotated[
        bool, typer.Option("--check-old", help="Also try whether the target still accepts the old credential.")
    ] = False,
    timeout: TimeoutOption = None,
    force: ForceOption = False,
    style: ResultFormatOption = None,
) -> None:
    """Rotate a user's credential now, or all of a folder."""
    parameters = {"check_old": True} if check_old and not dry_run else {}
    _run("plan" if dry_run else "rotate", record, folder, result_format(style), wait=wait or dry_run, timeout=timeout,
         force=force or dry_run, parameters=parameters)  # fmt: skip


@app.command("verify")
def verify(
    record: RecordOption = None,
    folder: FolderOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    style: ResultFormatOption = None,
) -> None:
    """Log in with the kept credential and change nothing."""
    _run("verify", record, folder, result_format(style), wait=wait, timeout=timeout, force=True)


@app.command("reconcile")
def reconcile(
    record: RecordOption = None,
    folder: FolderOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    force: ForceOption = False,
    services: Annotated[
        bool, typer.Option("--services", help="Also give the value to what runs as the user; running services restart.")
    ] = False,
    style: ResultFormatOption = None,
) -> None:
    """Bring target and vault together again: the admin sets the value that the vault has."""
    _run("reconcile", record, folder, result_format(style), wait=wait, timeout=timeout, force=force,
         parameters={"update_services": True} if services else {})  # fmt: skip


@app.command("resume-target")
def resume_target(
    resource: Annotated[
        str | None, typer.Option("--resource-uid", "-r", help="UID or title; without it the list is shown.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Try a target again that was set aside because its administrator was refused; or list such targets."""
    with vault() as client:
        if resource is None:
            rows = [row for row in client.pam.resources() if row.get("set_aside")]
            emit(style, {"targets": rows}, lambda: _print_set_aside(rows))
            return
        stored = client.records.find(resource)
        client.pam.resume_resource(stored.uid)
    emit(style, {"resource": stored.uid}, lambda: note(f"{stored.title} is tried again; its waiting jobs go on"))


def _print_set_aside(rows: list[dict[str, Any]]) -> None:
    print_table(
        ["Resource", "Administrator", "Since", "Cause", "Job UID"],
        [
            (row["record_uid"], aside["admin_uid"], when(aside["since"]), aside["cause"], aside["job_uid"])
            for row in rows
            for aside in [row["set_aside"]]
        ],
        empty="no target is set aside",
    )


def _run(
    kind: str,
    record: str | None,
    folder: str | None,
    style: Format,
    *,
    wait: bool,
    timeout: float | None,
    force: bool,
    parameters: dict[str, Any] | None = None,
) -> None:
    if (record is None) == (folder is None):
        raise InvalidInput("name one record or one folder", remedy="give --record-uid or --folder")
    with vault() as client:
        if folder is None:
            stored = client.records.find(str(record))
            _check(stored)
            results = [_submit(client, kind, stored, parameters)]
        else:
            records = _of_folder(client, folder)
            note(f"Selected: {len(records)} records")
            confirm(f"{kind} {len(records)} records?", force=force)
            results = _submit_all(client, kind, records, parameters)
        if wait:
            end = None if timeout is None else time.monotonic() + timeout
            results = [_wait(client, result, end) for result in results]
    if folder is None:
        emit(style, results[0], lambda: _print_one(results[0], waited=wait))
    else:
        emit(style, {"results": results}, lambda: _print_many(results))
    if any(result.get("error") for result in results) or (wait and not all(is_ok(entry) for entry in results)):
        raise typer.Exit(1)


def _check(stored: VaultRecord) -> None:
    if stored.type != "pamUser":
        raise InvalidInput(
            f"{stored.title} is a {stored.type}, and only the credential of a pamUser is rotated",
            remedy="name the record of a user, see `pam rotation list`",
        )


def _of_folder(client: VaultClient, folder: str) -> list[VaultRecord]:
    place = client.folders.find(folder)
    rotated = {row["record_uid"] for row in client.pam.rotations()}
    records = [entry for entry in client.records.list(place) if entry.uid in rotated]
    if not records:
        raise InvalidInput(f"no user in {place.name} is rotated", remedy="set it up with `pam rotation edit --folder`")
    return records


def _submit(
    client: VaultClient, kind: str, stored: VaultRecord, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {**_result(client.jobs.submit(kind, stored.uid, parameters)), "title": stored.title}


def _submit_all(
    client: VaultClient, kind: str, records: list[VaultRecord], parameters: dict[str, Any] | None
) -> list[dict[str, Any]]:
    answers = client.jobs.submit_all(kind, [stored.uid for stored in records], parameters)
    return [_submitted(stored, answer) for stored, answer in zip(records, answers, strict=True)]


def _submitted(stored: VaultRecord, answer: dict[str, Any]) -> dict[str, Any]:
    if answer["job"] is not None:
        return {**_result(answer["job"]), "title": stored.title}
    problem = answer["problem"]
    sentence = PamJobsError(problem["detail"], remedy=problem["remedy"]).sentence()
    note(f"{stored.title}: {sentence}")
    return {"job": None, "record": stored.uid, "title": stored.title, "status": None, "error": sentence}


def _wait(client: VaultClient, result: dict[str, Any], end: float | None) -> dict[str, Any]:
    if result["job"] is None:
        return result
    left = None if end is None else max(0.0, end - time.monotonic())

    def tell(now: dict[str, Any]) -> None:
        note(f"{result['title']}: {now['state']}")
        if now.get("cause") in _WAITS_FOR_ADMIN and now["state"] in {"created", "queued"}:
            note(f"{result['title']} waits: {client.jobs.explain(now['uid'])['reasons'][0]}")

    job = client.jobs.wait(result["job"], seconds=left, progress=tell)
    final = _result(job) | {"title": result["title"], "detail": client.jobs.opened(job).get("detail")}
    if final["status"] is None:
        reasons = client.jobs.explain(job["uid"])["reasons"]
        note(f"{result['title']} is still {job['state']}: " + "; ".join(reasons))
    return final


def _result(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": job["uid"],
        "kind": job["kind"],
        "record": job.get("record_uid"),
        "state": job["state"],
        "status": job.get("status"),
        "post_rotation_status": job.get("post_rotation_status"),
        "services_status": job.get("services_status"),
        "effect": job.get("effect"),
        "cause": job.get("cause"),
        "attempts": job.get("attempts"),
        "timings": job.get("timings") or {},
        "duration": duration_text(job),
    }


def _print_one(result: dict[str, Any], *, waited: bool) -> None:
    pairs: dict[str, object] = {"Record": f"{result['title']} ({result['record']})", "Job UID": result["job"]}
    if not waited:
        pairs["State"] = result["state"]
        print_pairs(pairs)
        note(f"scheduled; follow it with `pam action job-info {result['job']}`")
        return
    pairs |= {
        "Status": result["status"] or result["state"],
        "Scripts": result["post_rotation_status"],
        "Services": result["services_status"],
        "Effect": result["effect"],
        "Cause": result["cause"],
        "Duration": result["duration"],
    }
    detail = result.get("detail")
    if isinstance(detail, dict):
        pairs |= {
            str(name).replace("_", " ").capitalize(): str(value)
            for name, value in detail.items()
            if value and name != "services"
        }
    elif detail:
        pairs["Message"] = detail
    print_pairs(pairs)


def _print_many(results: list[dict[str, Any]]) -> None:
    print_table(
        ["Title", "Job UID", "Status", "Scripts", "Cause"],
        [
            (row["title"], row["job"], row["status"] or row.get("state") or "failed", row.get("post_rotation_status"),
             row.get("cause") or row.get("error"))
            for row in results
        ],
    )  # fmt: skip


@app.command("job-info")
def job_info(job: JobArgument, gateway: JobGatewayOption = None, style: FormatOption = Format.TABLE) -> None:
    """Show a job, its scripts and their output."""
    with vault() as client:
        _check_gateway(client, job, gateway)
        shown = client.jobs.opened(client.jobs.get(job))
        title = None
        if shown.get("record_uid"):
            title = next((e.title for e in client.records.list() if e.uid == shown["record_uid"]), None)
    print_job(shown, title, style)


@app.command("job-cancel")
def job_cancel(job: JobArgument, gateway: JobGatewayOption = None, style: FormatOption = Format.TABLE) -> None:
    """Cancel a job that has not begun to change its target."""
    with vault() as client:
        _check_gateway(client, job, gateway)
        answer = client.jobs.cancel(job)
    emit(style, answer, lambda: note(f"the job is {answer['state']}"))


def _check_gateway(client: VaultClient, job: str, gateway: str | None) -> None:
    if gateway is None:
        return
    wanted, found = client.pam.find_gateway(gateway), client.jobs.get(job)["gateway_uid"]
    if wanted["uid"] != found:
        raise InvalidInput(
            f"job {job} belongs to the gateway {found}, not to {wanted['name']}", remedy="leave out --gateway"
        )


@app.command("gateway-info")
def gateway_info(
    gateway: Annotated[str | None, typer.Option("--gateway", "-g", help="UID or name; else the only one.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show a gateway: its instances, application, configurations and waiting jobs."""
    with vault() as client:
        row = default_gateway(client, gateway)
        app_row = next((entry for entry in client.applications.list() if entry.uid == row["application_uid"]), None)
        used = [entry for entry in client.pam.configurations() if entry.gateway_uid == row["uid"]]
        address = client.router.router
    value = {
        "gateway": row,
        "ksm": {"app": {"title": app_row.title, "folders_count": len(app_row.shares)} if app_row else None},
        "router": {"url": address, "status": "reachable"},
        "pam_configurations": [{"uid": entry.uid, "title": entry.title} for entry in used],
    }
    emit(style, value, lambda: _print_gateway(row, value))


def _print_gateway(row: dict[str, Any], value: dict[str, Any]) -> None:
    application = value["ksm"]["app"]
    print_pairs(
        {
            "Gateway": f"{row['name']} ({row['uid']})",
            "Status": status_text(row),
            "Instances": f"{len(row.get('instances') or [])} of {row.get('max_instances') or 'any number'}",
            "Waiting jobs": row.get("queued", 0),
            "Application": f"{application['title']}, {application['folders_count']} folders" if application else None,
            "Router": value["router"]["url"],
            "Configurations": ", ".join(entry["title"] for entry in value["pam_configurations"]),
        }
    )
    for entry in row.get("instances") or []:
        parts = (str(entry["version"]).split(";") + [""] * 5)[:5]
        print_pairs(
            {
                "Instance": entry["instance"],
                "  Status": entry["status"],
                "  Version": parts[0],
                "  System": " ".join(part for part in parts[1:] if part),
                "  Started": when(entry.get("started_at")),
                "  Last seen": when(entry.get("last_seen_at")),
                "  Running jobs": entry.get("running", 0),
            }
        )
