"""``pam job``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    Format,
    FormatOption,
    age,
    done,
    emit,
    group,
    note,
    print_json,
    print_pairs,
    print_table,
    vault,
)
from pam_jobs.errors import NotFound, PamJobsError
from pam_jobs.ids import is_uid

if TYPE_CHECKING:
    from pam_jobs.client.vault import VaultClient

app = group("Jobs.")

_STEPS = {"script": "Script", "rerun": "Script after the roll-back", "rollback": "Roll-back",
          "dependant": "Service", "restore": "Service after the roll-back"}  # fmt: skip
_SHOWN = ("name", "type", "machine", "outcome", "detail", "stdout", "stderr")
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="UID of the job.")]


def titles(client: VaultClient) -> dict[str, str]:
    """Return titles by record UID; empty for a user who may see jobs but no records."""
    try:
        return {entry.uid: entry.title for entry in client.records.list()}
    except PamJobsError:
        return {}


@app.command("list")
def list_(
    record: Annotated[str | None, typer.Option("--record-uid", "-r", help="Only of this record.")] = None,
    state: Annotated[str | None, typer.Option("--state", "-s", help="Only in this state.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", "-k", help="rotate, verify, reconcile, plan, discover.")] = None,
    gateway: Annotated[str | None, typer.Option("--gateway", "-g", help="Only of this gateway.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, newest first.")] = 50,
    style: FormatOption = Format.TABLE,
) -> None:
    """List jobs, newest first."""
    with vault() as client:
        rows = client.jobs.list(
            record_uid=client.records.find(record).uid if record else None,
            state=state,
            kind=kind,
            gateway_uid=client.pam.find_gateway(gateway)["uid"] if gateway else None,
            limit=limit,
        )
        names = titles(client)
    emit(style, {"jobs": rows}, lambda: _print(rows, names))


def _print(rows: list[dict[str, Any]], names: dict[str, str]) -> None:
    print_table(
        ["Job UID", "Kind", "Of", "State", "Status", "Scripts", "Cause", "Trigger", "Age"],
        [
            (
                row["uid"],
                row["kind"],
                names.get(row.get("record_uid") or row.get("configuration_uid") or "", row.get("record_uid")),
                row["state"],
                row.get("status"),
                row.get("post_rotation_status"),
                row.get("cause"),
                row["trigger"],
                age(row["created_at"]),
            )
            for row in rows
        ],
        empty="there are no such jobs",
    )


@app.command("watch")
def watch(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="UID of a job; else all new ones.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Follow a job to its end, or all jobs until Ctrl-C; JSON is one document a line."""
    with vault() as client:
        if job is None:
            _watch_all(client, style)
        else:
            final = client.jobs.wait(job, progress=lambda now: _line(now, {}, style))
            if not is_ok(final):
                raise typer.Exit(1)


def _watch_all(client: VaultClient, style: Format) -> None:
    import time

    seen: dict[str, str] = {row["uid"]: row["state"] for row in client.jobs.list(limit=100)}
    names = titles(client)
    note("watching jobs; Ctrl-C ends it")
    while True:
        for row in reversed(client.jobs.list(limit=100)):
            if seen.get(row["uid"]) != row["state"]:
                seen[row["uid"]] = row["state"]
                _line(row, names, style)
        time.sleep(0.5)


def _line(row: dict[str, Any], names: dict[str, str], style: Format) -> None:
    if style is Format.JSON:
        import json

        sys.stdout.write(json.dumps(row) + "\n")
    else:
        parts = [row["uid"], row["kind"], names.get(row.get("record_uid") or "", ""), row["state"]]
        parts += [row.get("status") or "", row.get("cause") or ""]
        sys.stdout.write("  ".join(part for part in parts if part) + "\n")
    sys.stdout.flush()


@app.command("explain")
def explain(
    job: Annotated[str, typer.Argument(metavar="JOB|RECORD", help="UID of a job; or UID or title of a record.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Say why a job waits, failed, or was not done; of a record, why it is rotated when it is, or not."""
    with vault() as client:
        answer = _explained(client, job)

    def table() -> None:
        print_pairs({"State": answer["state"]})
        for sentence in answer["reasons"]:
            sys.stdout.write(f"- {sentence}\n")

    emit(style, answer, table)


def _explained(client: VaultClient, text: str) -> dict[str, Any]:
    if is_uid(text):
        try:
            job = client.jobs.get(text)
        except NotFound:
            return client.jobs.explain_record(text)
        answer = client.jobs.explain(text)
        detail = client.jobs.opened(job).get("detail")
        message = detail.get("message") if isinstance(detail, dict) else detail
        if message:  # sealed: the router that gives the other reasons cannot read it
            answer = {**answer, "reasons": [*answer["reasons"], f"the gateway says: {message}"]}
        return answer
    return client.jobs.explain_record(client.records.find(text).uid)


@app.command("resume")
def resume(job: JobArgument, style: FormatOption = Format.TABLE) -> None:
    """Do again a job that was set aside because gateways went down with it; its schedule goes on as well."""
    with vault() as client:
        row = client.jobs.resume(job)
    done({"uid": row["uid"], "resumes": job}, f"job {row['uid']} does it again", style)


def print_job(job: dict[str, Any], title: str | None, style: Format) -> None:
    """Print a job with what could be decrypted of it."""
    if style is Format.JSON:
        print_json(job)
        return
    pairs: dict[str, object] = {
        "Job UID": job["uid"],
        "Kind": job["kind"],
        "Record": f"{title} ({job['record_uid']})" if title else job.get("record_uid"),
        "State": job["state"],
        "Status": job.get("status"),
        "Scripts": job.get("post_rotation_status"),
        "Services": job.get("services_status"),
        "Effect": job.get("effect"),
        "Cause": job.get("cause"),
        "Attempts": job.get("attempts"),
        "Duration": duration_text(job),
    }
    detail = job.get("detail")
    if isinstance(detail, dict):
        pairs |= {
            str(name).replace("_", " ").capitalize(): _flat(value)
            for name, value in detail.items()
            if value and name not in {"script", "services"}
        }
    elif detail:
        pairs["Message"] = detail
    print_pairs(pairs)
    for step in job.get("steps") or []:
        _print_step(step)


def _flat(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def is_ok(job: Mapping[str, Any]) -> bool:
    """Say whether a job did all it was for: the rotation and every script; with NOOP the rotation is ``skipped``, without a cause."""
    skipped = job.get("status") == "skipped" and job.get("cause") is None
    return job.get("state") == "succeeded" and (job.get("status") == "ok" or skipped)


def duration_text(job: dict[str, Any]) -> str | None:
    """Return how long the job worked."""
    from datetime import datetime

    if not job.get("started_at") or not job.get("finished_at"):
        return None
    span = datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])
    return f"{span.total_seconds():.2f} s"


def _print_step(step: dict[str, Any]) -> None:
    if step["kind"] == "rollback" and step["state"] == "pending":
        return  # declared in case a script fails
    name = _STEPS.get(step["kind"], step["kind"].capitalize())
    cause = f" ({step['cause']})" if step.get("cause") else ""
    runs = f", run {step['attempts']} times" if step["kind"] != "rollback" and step.get("attempts", 0) > 1 else ""
    sys.stdout.write(f"\n{name} {step['position']} ({step['place']}): {step['state']}{cause}{runs}")
    sys.stdout.write(f", exit code {step['exit_code']}\n" if step.get("exit_code") is not None else "\n")
    output = step.get("output")
    parts = {name: output.get(name) for name in _SHOWN if output.get(name)} if isinstance(output, dict) else {}
    for name, text in (parts or {"output": output}).items():
        for line in str(text or "").splitlines():
            sys.stdout.write(f"  {name}: {line}\n")
