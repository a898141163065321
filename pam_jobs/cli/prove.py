"""``pam prove``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    ResultFormatOption,
    emit,
    note,
    print_pairs,
    print_table,
    result_format,
    vault,
    when,
)
from pam_jobs.cli.job import titles
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.vault import VaultClient


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to the top level."""
    app.command("prove", rich_help_panel=panel)(prove)


def prove(
    record: Annotated[str | None, typer.Argument(metavar="[RECORD]", help="UID or exact title.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every user that is rotated on a target; for a nightly check.")
    ] = False,
    max_age: Annotated[
        float | None,
        typer.Option("--max-age", metavar="DAYS", min=0.001, max=36_500, help="A login longer ago does not count."),
    ] = None,
    style: ResultFormatOption = None,
) -> None:
    """Show the evidence that a kept credential logs in; exit code 0 only if it is proven, of all of them with --all."""
    if (record is None) != every:
        raise InvalidInput("name one record or all of them", remedy="give RECORD or --all")
    form = result_format(style)
    with vault() as client:
        if every:
            names = titles(client)
            proofs = [_titled(entry, names) for entry in client.jobs.proofs(max_age_days=max_age)]
            summary = _summary(proofs)
            value = {"proofs": proofs, "proven": 0 < summary["proven"] == len(proofs), "summary": summary}
            emit(form, value, lambda: _print_all(proofs, summary))
        else:
            proofs = [_one(client, str(record), max_age)]
            emit(form, proofs[0], lambda: _print_one(proofs[0]))
    if not proofs or not all(entry["proven"] for entry in proofs):  # a check of nothing proves nothing
        raise typer.Exit(1)


def _one(client: VaultClient, record: str, max_age: float | None) -> dict[str, Any]:
    stored = client.records.find(record)
    return _titled(client.jobs.proof(stored.uid, max_age_days=max_age), {stored.uid: stored.title})


def _titled(proof: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return proof | {"title": names.get(proof["record"], proof["record"])}


def _summary(proofs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "records": len(proofs),
        "proven": sum(1 for entry in proofs if entry["proven"]),
        "not_proven": dict(Counter(entry["status"] for entry in proofs if not entry["proven"])),
        "drift": dict(Counter(entry["drift"] for entry in proofs)),
    }


def _print_all(proofs: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    print_table(
        ["Record UID", "Title", "Proven", "Drift", "Version", "Last login", "Reason"],
        [
            (
                entry["record"],
                entry["title"],
                "yes" if entry["proven"] else "no",
                entry["drift"],
                (entry["current"] or {}).get("seq"),
                when(entry["proven_at"]),
                entry["reason"],
            )
            for entry in proofs
        ],
        empty="no user is rotated on a target",
    )
    reasons = [f"{count} {status}" for status, count in sorted(summary["not_proven"].items())]
    note(f"{summary['proven']} of {summary['records']} are proven" + (f"; {', '.join(reasons)}" if reasons else ""))


def _print_one(proof: dict[str, Any]) -> None:
    current, last = proof["current"] or {}, proof["last_probe"] or {}
    evidence = {name: when(value) if name == "at" else value for name, value in (current.get("evidence") or {}).items()}
    drift = proof["drift"] or "not rotated"
    pairs: dict[str, object] = {
        "Record": f"{proof['title']} ({proof['record']})",
        "Proven": "yes" if proof["proven"] else "no",
        "Reason": proof["reason"],
        "Current": f"version {current['seq']} since {when(current['decided_at'])}" if current else None,
        "Evidence": ", ".join(f"{name}: {value}" for name, value in evidence.items()),
        "Last login": _login(last) if last else None,
        "Drift": f"{drift}{_because(proof)}" + (f" since {when(proof['drift_since'])}" if proof["drift_since"] else ""),
        "Checked": when(proof["drift_checked_at"]),
        "Unresolved": len(proof["unresolved"]),
    }
    for row in proof["unresolved"]:
        begun = row["applying_at"] or row["staged_at"]
        pairs[f"Version {row['seq']}"] = f"{row['state']} since {when(begun)} ({row['kind']}, attempt {row['epoch']})"
    print_pairs(pairs)


def _login(last: dict[str, Any]) -> str:
    seq = last.get("version_seq")
    version = f"version {seq}" if seq is not None else "a value that is no version"
    return f"{last.get('verdict')} at {when(last.get('at'))}, {version}, from gateway {last.get('gateway')}"


def _because(proof: dict[str, Any]) -> str:
    return f" ({proof['drift_cause']})" if proof["drift_cause"] else ""
