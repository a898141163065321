"""The one place where values become Transact-SQL: its ``ALTER LOGIN`` and ``ALTER USER`` bind none.

Source: Microsoft documentation, "Database identifiers" and "Constants (Transact-SQL)".
"""

from __future__ import annotations

from pam_jobs.errors import PolicyRefused, Unsupported

__all__ = [
    "LONGEST",
    "alter_login",
    "alter_user",
    "checked_database",
    "checked_name",
    "checked_password",
    "identifier",
    "literal",
]

LONGEST = 128  # UTF-16 units of a name (sysname) and of a password


def literal(text: str) -> str:
    """Return the text as a constant of type nvarchar, in which only the quote has a meaning."""
    return "N'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name in brackets, in which only the closing one has a meaning."""
    return "[" + name.replace("]", "]]") + "]"


def checked_name(login: str) -> str:
    """Return the login, when it can be the name of a SQL login or of a contained user with a password.

    Raises:
        Unsupported: it cannot.
    """
    if "\\" in login:
        raise Unsupported(
            "a login with a backslash is a Windows account, whose password this server does not keep",
            remedy="rotate it where the domain or the machine keeps it",
        )
    if not login or _units(login) > LONGEST or not _is_text(login):
        raise Unsupported("the login is no name of a SQL login", remedy=f"such a name has 1 to {LONGEST} characters")
    return login


def checked_database(name: str) -> str:
    """Return the name, when a database can have it.

    Raises:
        Unsupported: none can.
    """
    if not name or _units(name) > LONGEST or not _is_text(name):
        raise Unsupported("connectDatabase is no name of a database", remedy="correct the user or the resource record")
    return name


def checked_password(password: str) -> str:
    """Return the password, when the server and its driver hold it exactly.

    Raises:
        PolicyRefused: they do not.
    """
    if not password or _units(password) > LONGEST or not _is_text(password):
        raise PolicyRefused(
            f"a password here has 1 to {LONGEST} characters and no NUL", remedy="change the record's complexity"
        )
    return password


def alter_login(login: str, password: str, *, old: str | None = None, unlocks: bool = False) -> str:
    """Return the statement that sets a login's password.

    Args:
        login: checked, as is the password.
        password: the new one.
        old: the present one, which a login without rights on others has to tell.
        unlocks: end a lock-out too.
    """
    return f"ALTER LOGIN {identifier(login)} WITH {_password(password, old)}{' UNLOCK' if unlocks else ''}"


def alter_user(user: str, password: str, *, old: str | None = None) -> str:
    """Return the statement that sets the password of a user contained in the present database; see ``alter_login``."""
    return f"ALTER USER {identifier(user)} WITH {_password(password, old)}"


def _password(password: str, old: str | None) -> str:
    return f"PASSWORD = {literal(password)}" + (f" OLD_PASSWORD = {literal(old)}" if old is not None else "")


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def _is_text(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
