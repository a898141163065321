"""An operator's client against the router's application in this process; no socket is opened."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from pam_jobs.access import users
from pam_jobs.api.app import create_app
from pam_jobs.api.context import AppContext
from pam_jobs.audit.log import Actor
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session, TokenSource
from pam_jobs.client.vault import VaultClient
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.secret import SecretValue
from pam_jobs.settings import ControlSettings

PASSPHRASE = SecretValue("correct horse battery staple")


class InProcess(httpx.BaseTransport):
    """Hands requests to the application, each in an event loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.seen: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.seen.append(body)
        headers = request.headers

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self._app), base_url="https://router"
            ) as line:
                answer = await line.request(request.method, request.url, content=body, headers=headers)
                content = await answer.aread()
            kept = {"content-type": answer.headers.get("content-type", "application/json")}
            return httpx.Response(answer.status_code, headers=kept, content=content, request=request)

        return asyncio.run(ask())


@dataclass
class Office:
    """A router and its first user."""

    database: Database
    transport: InProcess
    session: Session

    def client(self, session: Session | None = None) -> VaultClient:
        """Return a new signed-in client with nothing cached."""
        who = session or self.session
        return VaultClient(RouterClient("https://router", token=TokenSource(who), transport=self.transport), who)

    def anonymous(self) -> RouterClient:
        return RouterClient("https://router", transport=self.transport)


def open_office(database: Database, folder: Path, username: str = "owner") -> Office:
    """Serve the database, and register its first user with ``PASSPHRASE``."""
    keys = KeyStore(folder / "keys")
    keys.ensure()
    settings = ControlSettings(
        database_url="sqlite://", broker_url="redis://localhost", keys_dir=keys.folder, minimum_interval_seconds=0
    )
    context = AppContext(settings=settings, database=database, keys=keys, clock=SystemClock())
    new, private_key = users.make_user(username, PASSPHRASE, "admin")
    with database.transaction() as session:
        users.register(session, SystemClock(), Actor(username=username), new)
    return Office(
        database=database,
        transport=InProcess(create_app(context)),
        session=Session(username=username, private_key=private_key),
    )
