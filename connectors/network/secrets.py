"""Secrets of IOS XE as it stores them: type 9, scrypt. Made on the gateway, so that no command holds a password.

Source: Cisco, "IOS XE: password types" (type 9); checked with hashcat's published example of its mode 9300.
"""

from __future__ import annotations

import base64
import hashlib
import secrets

from connectors.base import Candidate
from connectors.passwords import password_of
from pam_jobs.errors import PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["check_login", "checked_password", "type9"]

_STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_CISCO = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TO_CISCO = str.maketrans(_STANDARD, _CISCO)
_SALT_CHARACTERS = 14
_LONGEST = 253
_LOGIN_CHARACTERS = 64
_HELP_AND_QUOTE = frozenset('?"')  # a question mark asks the device for help, wherever it stands in a line


def type9(password: SecretValue, salt: str | None = None) -> str:
    """Return ``$9$salt$digest``.

    Args:
        password: printable ASCII.
        salt: 14 characters of ``./0-9A-Za-z``; a random one when absent.
    """
    salt = salt or "".join(secrets.choice(_CISCO) for _ in range(_SALT_CHARACTERS))
    digest = hashlib.scrypt(password.reveal().encode(), salt=salt.encode(), n=16384, r=1, p=1, dklen=32)
    return f"$9${salt}${base64.b64encode(digest).decode().rstrip('=').translate(_TO_CISCO)}"


def check_login(login: str) -> None:
    """Make sure that the name is one word of a command line and nothing else.

    Raises:
        Unsupported: it is not.
    """
    is_word = login.isascii() and login.isprintable() and not set(login) & (_HELP_AND_QUOTE | {" "})
    if not 0 < len(login) <= _LOGIN_CHARACTERS or not is_word:
        raise Unsupported(
            "the login is no name of a user here",
            remedy=f'a user has 1 to {_LOGIN_CHARACTERS} printable ASCII characters, without space, ? and "',
        )


def checked_password(candidate: Candidate) -> SecretValue:
    """Return the password to set, when it can be typed at every login prompt.

    Raises:
        Unsupported: there is none.
        PolicyRefused: it is empty, too long, or not of printable ASCII characters.
    """
    password = password_of(candidate)
    text = password.reveal()
    if not 0 < len(text) <= _LONGEST or not (text.isascii() and text.isprintable()):
        raise PolicyRefused(
            f"a password here has 1 to {_LONGEST} printable ASCII characters", remedy="change the record's complexity"
        )
    return password
