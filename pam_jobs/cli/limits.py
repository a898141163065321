"""Limits of jobs at a time, as they are typed and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.pam import Configuration
    from pam_jobs.client.vault import VaultClient

__all__ = [
    "JobLimitOption",
    "ResourceLimitOption",
    "TargetLimitOption",
    "limits_text",
    "parse_limit",
    "resource_limits",
]

JobLimitOption = Annotated[
    str | None, typer.Option("--job-limit", "-jl", help="Its jobs at a time; none: no limit of its own.")
]
TargetLimitOption = Annotated[
    str | None, typer.Option("--target-limit", "-tl", help="Jobs at a time on each of its targets; none: no limit.")
]
ResourceLimitOption = Annotated[
    list[str] | None,
    typer.Option("--resource-limit", "-rl", help="RESOURCE=N, UID or title: another limit for this one; repeat."),
]


def parse_limit(text: str | None, name: str = "job_limit") -> dict[str, int | None]:
    """Return the change of a limit: none when none is given, to None for ``none``.

    Raises:
        InvalidInput: it is no whole number.
    """
    if text is None:
        return {}
    if text.strip().lower() == "none":
        return {name: None}
    try:
        return {name: int(text)}
    except ValueError:
        raise InvalidInput(f"{text!r} is not a limit", remedy="give a whole number, or none for no limit") from None


def resource_limits(
    client: VaultClient, found: Configuration, texts: Sequence[str] | None
) -> Iterator[tuple[str, int | None]]:
    """Yield the resources of a configuration with the limits that are given for them.

    Raises:
        InvalidInput: one has not the form RESOURCE=N, is no resource of the configuration, or its limit is not valid.
    """
    from pam_jobs.rotation.limits import checked_limit

    for text in texts or ():
        name, given, limit = text.rpartition("=")
        if not given or not name:
            raise InvalidInput(f"{text!r} names no limit", remedy="write it as RESOURCE=N, such as db1=2")
        uid = client.records.find(name).uid
        if uid not in found.resource_uids:
            raise InvalidInput(
                f"{name!r} is no resource of the configuration {found.title}", remedy="look at `pam config list`"
            )
        instead = "to let nothing run on it, disable the rotation of its users"
        yield uid, checked_limit(parse_limit(limit)["job_limit"], "resource", instead)


def limits_text(limits: Mapping[str, int | None]) -> str:
    """Return a configuration's limits for a table."""
    parts = [f"{limits['job_limit']} jobs"] if limits.get("job_limit") else []
    if limits.get("target_limit"):
        parts.append(f"{limits['target_limit']} a target")
    own = len(limits.keys() - {"job_limit", "target_limit"})
    return ", ".join(parts + ([f"{own} targets with their own"] if own else []))
