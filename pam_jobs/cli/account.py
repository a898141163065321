"""Signing in and out, and the passphrase."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

import typer

from pam_jobs.cli.common import Format, FormatOption, done, emit, group, is_interactive, print_pairs, router
from pam_jobs.errors import AccessDenied, ConfigurationError, InvalidInput
from pam_jobs.secret import SecretValue

__all__ = ["ask_new_passphrase", "ask_passphrase", "passphrase_app", "register"]

passphrase_app = group("Your passphrase.")

_MINIMUM_CHARACTERS = 12


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the top level."""
    for name, command in (("login", login), ("logout", logout), ("whoami", whoami)):
        app.command(name, rich_help_panel=panel)(command)


def ask_passphrase(question: str, variable: str = "PAM_PASSPHRASE") -> SecretValue:
    """Return the passphrase from the environment, else from the person.

    Raises:
        AccessDenied: it is in neither.
    """
    given = os.environ.get(variable)
    if given:
        return SecretValue(given)
    if not is_interactive():
        raise AccessDenied("a passphrase is needed and nobody can be asked", remedy=f"set {variable}")
    return SecretValue(getpass.getpass(f"{question}: "))


def ask_new_passphrase(question: str, variable: str) -> SecretValue:
    """Return a new passphrase from the environment, else typed twice.

    Raises:
        InvalidInput: it is too short, or the two differ.
    """
    first = ask_passphrase(question, variable)
    if len(first) < _MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the passphrase has fewer than {_MINIMUM_CHARACTERS} characters", remedy="choose a longer one"
        )
    if not os.environ.get(variable) and first != SecretValue(getpass.getpass("The same again: ")):
        raise InvalidInput("the two passphrases differ", remedy="type the same twice")
    return first


def login(
    username: Annotated[str | None, typer.Argument(help="User name; else that of the profile.")] = None,
    router_url: Annotated[str | None, typer.Option("--router", help="https://HOST:PORT of the router.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="CA file of the router's certificate.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Sign in; the passphrase comes from PAM_PASSPHRASE or is asked for, and never leaves this machine."""
    from pam_jobs.client.http import RouterClient
    from pam_jobs.client.profile import Profile
    from pam_jobs.client.session import sign_in

    known = Profile.load()
    moved = router_url is not None and router_url.rstrip("/") != known.router
    profile = Profile(
        folder=known.folder,
        router=router_url.rstrip("/") if router_url else known.router,
        ca=ca.absolute() if ca else (None if moved else known.ca),
        username=username or known.username,
    )
    address = profile.require_router()
    if not profile.username:
        raise ConfigurationError("no user name is known", remedy="give it: `pam login NAME`")
    with RouterClient(address, ca=profile.ca) as client:
        session = sign_in(client, profile.username, ask_passphrase(f"Passphrase of {profile.username}"))
    profile.save()
    session.save(profile)
    done({"username": profile.username, "router": address}, f"{profile.username} is signed in at {address}", style)


def logout(style: FormatOption = Format.TABLE) -> None:
    """Forget the signed-in user's key on this machine."""
    from pam_jobs.client.profile import Profile

    Profile.load().session_file.unlink(missing_ok=True)
    done({}, "signed out", style)


def whoami(style: FormatOption = Format.TABLE) -> None:
    """Show who is signed in, where."""
    client = router()
    me = client.get("/api/v1/me")
    value = {"username": me["username"], "uid": me["uid"], "role": me["role"], "router": client.router}
    emit(style, value, lambda: print_pairs(value))


@passphrase_app.command("change")
def change(style: FormatOption = Format.TABLE) -> None:
    """Change your passphrase: PAM_PASSPHRASE or the prompt gives the present one, PAM_NEW_PASSPHRASE the new one."""
    from pam_jobs.client.http import RouterClient
    from pam_jobs.client.passphrase import change_passphrase
    from pam_jobs.client.profile import Profile

    profile = Profile.load()
    username = profile.username or router().get("/api/v1/me")["username"]
    old = ask_passphrase(f"Present passphrase of {username}")
    new = ask_new_passphrase("New passphrase", "PAM_NEW_PASSPHRASE")
    with RouterClient(profile.require_router(), ca=profile.ca) as client:
        session = change_passphrase(client, username, old, new)
    session.save(profile)
    done({"username": username}, f"the passphrase of {username} is changed", style)
