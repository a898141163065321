"""``pam token``."""

from __future__ import annotations

from typing import Annotated

import typer

from pam_jobs.cli.common import Format, FormatOption, created, done, emit, group, print_table, router, when

app = group("API tokens: for programs that submit and watch jobs over REST.")

_DAY_SECONDS = 86_400


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help="jobs:read, jobs:write, audit:read or metrics:read; repeat."),
    ] = None,
    days: Annotated[float, typer.Option("--expires-in-days", min=0.001, max=366, help="Life of the token.")] = 30.0,
    style: FormatOption = Format.TABLE,
) -> None:
    """Create a token; it is shown once."""
    body = {"name": name, "scopes": scope or ["jobs:read"], "expires_in_seconds": int(days * _DAY_SECONDS)}
    answer = router().post("/api/v1/tokens", body)
    created({"uid": answer["uid"], "token": answer["token"]}, "keep the token now; it is not shown again", style)


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List the tokens; never their values."""
    rows = router().get("/api/v1/tokens")["tokens"]
    emit(
        style,
        {"tokens": rows},
        lambda: print_table(
            ["Token UID", "Name", "Scopes", "Expires", "Last used"],
            [
                (
                    row["uid"],
                    row["name"],
                    " ".join(row["scopes"]),
                    "revoked" if row.get("revoked_at") else when(row["expires_at"]),
                    when(row.get("last_used_at")),
                )
                for row in rows
            ],
            empty="there are no tokens",
        ),
    )


@app.command("remove")
def remove(uid: Annotated[str, typer.Argument(help="UID of the token.")], style: FormatOption = Format.TABLE) -> None:
    """Revoke a token at once."""
    router().delete(f"/api/v1/tokens/{uid}")
    done({"uid": uid}, "the token is revoked", style)
