"""The one place where values become Oracle's SQL: its ``ALTER USER`` binds none, and a double quote cannot be escaped.

Source: Oracle Database SQL Language Reference, "Database Object Naming Rules" and "ALTER USER".
"""

from __future__ import annotations

import re

from pam_jobs.errors import PolicyRefused, Unsupported

__all__ = ["FORBIDDEN", "alter_user", "checked_password", "stored_name"]

FORBIDDEN = '"\0'
_NAME_BYTES = 128
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_$#]*")


def stored_name(login: str) -> str:
    """Return the user's name as the database stores it: a plain one in capitals, any other as it is.

    A name in double quotes is taken as it stands between them, as in SQL.

    Raises:
        Unsupported: it is no name of a user.
    """
    quoted = len(login) > 2 and login[0] == login[-1] == '"'
    name = login[1:-1] if quoted else login.upper() if _PLAIN.fullmatch(login) else login
    # the driver takes brackets for another user to act as
    if not name or any(sign in name for sign in '"\0[]') or not _is_text(name) or len(name.encode()) > _NAME_BYTES:
        raise Unsupported(
            "the login is no name of an Oracle user",
            remedy=f"such a name has 1 to {_NAME_BYTES} bytes and no double quote or bracket",
        )
    return name


def checked_password(password: str, longest: int) -> str:
    """Return the password, when the database can hold it.

    Args:
        password: the new one.
        longest: bytes that it may have.

    Raises:
        PolicyRefused: it cannot.
    """
    fits = password and _is_text(password) and len(password.encode()) <= longest
    if not fits or any(sign in password for sign in FORBIDDEN):
        raise PolicyRefused(
            f"a password here has 1 to {longest} bytes and no double quote", remedy="change the record's complexity"
        )
    return password


def alter_user(name: str, password: str, old: str | None = None) -> str:
    """Return the statement that sets a password.

    Args:
        name: as ``stored_name`` returns it.
        password: checked.
        old: the present one, which a user without the right on others has to tell.
    """
    for value in (name, password, old or ""):
        if '"' in value or "\0" in value:  # nothing else could end the quotes
            raise Unsupported("a value holds a double quote", remedy="correct the user record")
    return f'ALTER USER "{name}" IDENTIFIED BY "{password}"' + (f' REPLACE "{old}"' if old is not None else "")


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
