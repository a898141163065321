"""The router as a server: TLS, graceful stop, no proxy headers, no access log but our own."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from pam_jobs.crypto.tls import TlsFiles

__all__ = ["make_server"]

_STOP_SECONDS = 3  # idle TLS connections whose peer does not answer the goodbye count too
_KEEP_ALIVE_SECONDS = 65  # longer than clients' pools keep idle connections, so that the client closes first


def make_server(app: FastAPI, tls: TlsFiles, *, host: str, port: int) -> uvicorn.Server:
    """Return the server; ``run()`` serves until SIGTERM or SIGINT, then lets running requests end.

    Args:
        app: what it serves.
        tls: certificate and key.
        host: address to listen on.
        port: 0 takes a free one.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            ssl_certfile=tls.certificate,
            ssl_keyfile=tls.key,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # an address that a client names itself would open every IP lock
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )
