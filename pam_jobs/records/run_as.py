"""How a Windows machine may show an account that something on it runs as."""

from __future__ import annotations

from typing import Final

from pam_jobs.errors import InvalidInput, Unsupported
from pam_jobs.records.record import Record

__all__ = ["names_on"]

_ALTERNATIVE: Final = "Alternative Login"


def names_on(machine: Record, user: Record, place: Record | None, *, is_here: bool) -> tuple[str, ...]:
    """Return the spellings that mean the user's account; Windows compares them without regard to case.

    A bare name on another machine would be that machine's own account, whose password is another one: it does not count.

    Args:
        machine: where something runs.
        user: the account's record.
        place: the machine or directory that the account belongs to, where it is rotated.
        is_here: the machine is that place itself.

    Raises:
        InvalidInput: the user's record has no login.
        Unsupported: it is a local account of another machine.
    """
    login = user.login
    if login is None:
        raise InvalidInput("the user record has no login", remedy="set the login of the record")
    names: list[str] = []
    if "\\" in login or "@" in login:
        names += _spellings(login)
    elif place is not None and place.type == "pamDirectory":
        if domain := _domain(place):
            names += [f"{login}@{domain}", f"{domain}\\{login}", f"{domain.partition('.')[0]}\\{login}"]
    elif is_here:
        names += [f".\\{login}", login, f"{(machine.host or '').partition('.')[0]}\\{login}"]
    if (alternative := user.custom(_ALTERNATIVE)) is not None:
        names += _spellings(alternative)
    if not names:
        raise Unsupported(
            "the account belongs to another machine, and nothing on this one can run as it",
            remedy="write the login as DOMAIN\\user or user@domain, or remove the mapping",
        )
    return tuple(dict.fromkeys(names))


def _domain(directory: Record) -> str | None:
    domain = directory.field("text", "domainName")
    return domain.strip() or None if isinstance(domain, str) else None


def _spellings(login: str) -> list[str]:
    """Return a login with its domain, and the other way to write it."""
    if "\\" in login:
        domain, _, user = login.partition("\\")
        return [login] + ([f"{user}@{domain}"] if domain not in {"", "."} else [])
    user, _, domain = login.partition("@")
    return [login, f"{domain}\\{user}", f"{domain.partition('.')[0]}\\{user}"] if domain else [login]
