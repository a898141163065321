"""TLS towards receivers."""

from __future__ import annotations

import ssl

__all__ = ["check_ca", "client_context"]


def client_context(ca: str | None) -> ssl.SSLContext:
    """Return a context that checks the receiver's certificate and name.

    Args:
        ca: certificates in PEM that are trusted instead of the system's; None trusts the system's.

    Raises:
        ssl.SSLError: the text holds no certificate.
    """
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def check_ca(ca: str | None) -> str | None:
    """Return the text when it is None or holds certificates in PEM.

    Raises:
        ValueError: it holds none.
    """
    if ca is not None:
        try:
            client_context(ca)
        except (ssl.SSLError, ValueError):
            raise ValueError("is no certificate in PEM") from None
    return ca
