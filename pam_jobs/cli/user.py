"""``pam user``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pam_jobs.cli.account import ask_new_passphrase
from pam_jobs.cli.common import Format, FormatOption, created, emit, group, print_table, router, when

app = group("Users.")


class Role(StrEnum):
    """What a user may do."""

    ADMIN = "admin"  # all
    OPERATOR = "operator"  # all but users and SIEM settings
    AUDITOR = "auditor"  # read, and the audit log


@app.command("add")
def add(
    username: Annotated[str, typer.Argument(help="Name to sign in with.")],
    role: Annotated[Role, typer.Option("--role", help="What the user may do.")] = Role.OPERATOR,
    style: FormatOption = Format.TABLE,
) -> None:
    """Add a user; the first passphrase comes from PAM_NEW_PASSPHRASE or is asked for."""
    from pam_jobs.client.passphrase import new_user

    client = router()
    body = new_user(username, ask_new_passphrase(f"Passphrase of {username}", "PAM_NEW_PASSPHRASE"), role.value)
    client.post("/api/v1/users", body)
    created({"uid": body["uid"]}, f"added the {role.value} {username}", style)


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List the users."""
    rows = router().get("/api/v1/users")["users"]
    emit(
        style,
        {"users": rows},
        lambda: print_table(
            ["User UID", "Name", "Role", "Created"],
            [(row["uid"], row["username"], row["role"], when(row.get("created_at"))) for row in rows],
        ),
    )
