"""``pam prove``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    ResultFormatOption,
    emit,
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
    every: Annotated[bool, typer.Option("--all", help="Every user that is rotated.")] = False,
    style: ResultFormatOption = None,
) -> None:
    """Show the evidence that a kept credential logs in; exit code 0 only if it is proven."""
    if (record is None) != every:
        raise InvalidInput("name one record or all of them", remedy="give RECORD or --all")
    form = result_format(style)
    with vault() as client:
        names = titles(client)
        if every:
            proofs = [_proof(client, settings["record_uid"], names) for settings in client.pam.rotations()]
            emit(
                form, {"proofs": proofs, "proven": all(entry["proven"] for entry in proofs)}, lambda: _print_all(proofs)
            )
        else:
            proofs = [_proof(client, client.records.find(str(record)).uid, names)]
            emit(form, proofs[0], lambda: _print_one(proofs[0]))
    if not proofs or not all(entry["proven"] for entry in proofs):
        raise typer.Exit(1)


def _proof(client: VaultClient, uid: str, names: dict[str, str]) -> dict[str, Any]:
    return client.jobs.proof(uid) | {"title": names.get(uid, uid)}


def _last(proof: dict[str, Any]) -> dict[str, Any]:
    return proof.get("last_probe") or {}


def _print_all(proofs: list[dict[str, Any]]) -> None:
    print_table(
        ["Record UID", "Title", "Proven", "Version", "Last login", "Verdict", "Reason"],
        [
            (
                entry["record"],
                entry["title"],
                "yes" if entry["proven"] else "no",
                (entry.get("current") or {}).get("seq"),
                when(_last(entry).get("at")),
                _last(entry).get("verdict"),
                entry.get("reason"),
            )
            for entry in proofs
        ],
        empty="no user is rotated",
    )


def _print_one(proof: dict[str, Any]) -> None:
    current = proof.get("current") or {}
    evidence = current.get("evidence") or {}
    print_pairs(
        {
            "Record": f"{proof['title']} ({proof['record']})",
            "Proven": "yes" if proof["proven"] else "no",
            "Reason": proof.get("reason"),
            "Current": f"version {current['seq']} since {when(current.get('decided_at'))}" if current else None,
            "Evidence": ", ".join(f"{name}: {value}" for name, value in evidence.items()),
            "Last login": f"{_last(proof).get('verdict')} at {when(_last(proof).get('at'))}" if _last(proof) else None,
            "Unresolved": len(proof.get("unresolved") or []),
        }
    )
