r"""Names of Windows accounts: ``login``, ``.\login``, ``MACHINE\login``, ``DOMAIN\login``, ``login@domain``. Pure text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pam_jobs.errors import PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["COMPLEX_CLASSES", "PASSWORD_LENGTH", "Name", "check_password", "forbidden_words"]

PASSWORD_LENGTH = 127
"""Characters of a password that Windows takes at a logon, counted as UTF-16 does."""

COMPLEX_CLASSES = 3
"""Of capital letters, small letters, digits and others, in a complex password."""

_BETWEEN_WORDS = re.compile(r"[,.\-\u2013_ #\t]+")
_LEAST_WORD = 3

_LOGIN = re.compile(r'[^"/\\\[\]:;|=,+*?<>@\x00-\x1f\x7f]{1,256}')
_DOMAIN = re.compile(r"[^\"/\\\[\]:;|=,+*?<>@\s\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True, kw_only=True)
class Name:
    """An account's name in its parts."""

    login: str
    domain: str = "."  # "." for an account of the machine; "" for the form login@domain

    @classmethod
    def parse(cls, text: str) -> Name:
        """Return the parts.

        Raises:
            Unsupported: no account of Windows can have that name; nothing was sent.
        """
        domain, slash, login = text.rpartition("\\")
        if not slash and "@" in text:
            login, _, suffix = text.rpartition("@")
            if _LOGIN.fullmatch(login) and _DOMAIN.fullmatch(suffix):
                return cls(login=text, domain="")
        elif _is_login(login) and (not slash or domain == "." or _DOMAIN.fullmatch(domain)):
            return cls(login=login, domain=domain or ".")
        raise Unsupported("the login is no name of a Windows account", remedy="check the login in the user record")

    def is_same(self, other: Name) -> bool:
        """Say whether both are written as the same account; Windows does not tell letters' case apart."""
        return (self.login.casefold(), self.domain.casefold()) == (other.login.casefold(), other.domain.casefold())


def _is_login(login: str) -> bool:
    return bool(_LOGIN.fullmatch(login)) and not login.endswith(".") and bool(login.strip(" ."))


def forbidden_words(login: str, full_name: str) -> tuple[str, ...]:
    """Return the parts of names that complex passwords do not hold, whatever their case.

    Source: Windows security policy "Password must meet complexity requirements".
    """
    words = [login, *_BETWEEN_WORDS.split(full_name)]
    return tuple(dict.fromkeys(word for word in words if len(word) >= _LEAST_WORD))


def check_password(password: SecretValue) -> None:
    """Refuse a password that Windows or its tools would not take as it is.

    Raises:
        PolicyRefused: it is refused; nothing was sent.
    """
    text = password.reveal()
    if not text or any(char in text for char in "\0\n\r"):
        raise PolicyRefused("a password here is not empty and has no NUL and no line break", remedy="generate another")
    try:
        length = len(text.encode("utf-16-le")) // 2
    except UnicodeEncodeError:
        raise PolicyRefused("a password here is made of whole characters", remedy="generate another") from None
    if length > PASSWORD_LENGTH:
        raise PolicyRefused(
            f"a password here has at most {PASSWORD_LENGTH} characters", remedy="generate a shorter one"
        )
