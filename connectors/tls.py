"""How a server's certificate is checked, as the custom fields of a resource record say it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from connectors.base import Target
from pam_jobs.errors import Unsupported

__all__ = ["FIELDS", "TlsContexts", "tls_mode"]

_MODES: Final = ("disable", "require", "verify-ca", "verify-full")
FIELDS: Final = ("ssl_ca", "ssl_cert", "ssl_key")
"""Files on the gateway: the CA's certificates, and the certificate and key that the gateway shows."""


def tls_mode(target: Target) -> str:
    """Return the demand of the record: one of disable, require, verify-ca, verify-full; "" where it makes none.

    Raises:
        Unsupported: ``sslmode`` has no known value, or contradicts the record's demand for TLS.
    """
    mode = target.options.get("sslmode", "").strip().casefold()
    if mode not in {"", *_MODES}:
        raise Unsupported(f"sslmode {mode!r} is not known", remedy=f"use one of {', '.join(_MODES)}")
    if mode == "disable" and target.use_ssl:
        raise Unsupported("the record wants TLS and forbids it", remedy="remove the field sslmode, or clear useSSL")
    return mode or ("verify-full" if target.use_ssl else "")


class TlsContexts:
    """Made once for each set of options, since loading certificates takes longer than a login."""

    def __init__(self) -> None:
        """Start with none."""
        self._made: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def of(self, mode: str, options: Mapping[str, str]) -> ssl.SSLContext:
        """Return the context for a mode that wants TLS.

        Args:
            mode: require (any certificate), verify-ca (any host name) or verify-full.
            options: of the target; those of ``FIELDS`` count.

        Raises:
            Unsupported: a file cannot be used.
        """
        files = [options.get(name, "").strip() for name in FIELDS]
        try:
            changed = [str(Path(file).stat().st_mtime_ns) if file else "" for file in files]
            key = (mode, *files, *changed)
            with self._lock:
                if key not in self._made:
                    self._made[key] = _new(mode, *files)
                return self._made[key]
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise Unsupported(
                f"a file for TLS cannot be used: {reason}", remedy=f"correct {', '.join(FIELDS)} in the resource record"
            ) from None


def _new(mode: str, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        context.load_verify_locations(ca)
    else:
        context.load_default_certs()
    if certificate:
        context.load_cert_chain(certificate, key or None)
    return context
