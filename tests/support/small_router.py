"""Some of the router's interfaces over HTTPS in this process, with signed-in users of every role."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI

from deploy.lab.processes import free_port, port_is_open
from pam_jobs.access import sign_in_token
from pam_jobs.api import problems
from pam_jobs.api.context import AppContext
from pam_jobs.client.http import RouterClient
from pam_jobs.client.profile import Profile
from pam_jobs.client.session import Session
from pam_jobs.clock import SystemClock
from pam_jobs.crypto import p256
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import User
from pam_jobs.ids import new_uid
from pam_jobs.settings import ControlSettings

__all__ = ["SmallRouter", "small_router"]


@dataclass(frozen=True, kw_only=True)
class SmallRouter:
    """A running router."""

    url: str
    ca: Path
    keys: KeyStore
    database: Database
    users: dict[str, p256.PrivateKey]  # one a role, named like it

    def client(self, role: str | None, *, token: str | None = None) -> RouterClient:
        """Return a connection signed in as the user of that role, or with an API token, or as nobody."""
        if token is not None:
            return RouterClient(self.url, ca=self.ca, token=lambda: token)
        if role is None:
            return RouterClient(self.url, ca=self.ca)
        key = self.users[role]
        return RouterClient(self.url, ca=self.ca, token=lambda: sign_in_token.issue(key, role, SystemClock().now()))

    def sign_in(self, role: str, folder: Path) -> dict[str, str]:
        """Leave a signed-in profile in a data folder and return the environment of a ``pam`` there."""
        profile = Profile(folder=folder, router=self.url, ca=self.ca, username=role)
        profile.save()
        Session(username=role, private_key=self.users[role]).save(profile)
        return {"PAM_DATA_DIR": str(folder)}


@contextmanager
def small_router(database: Database, folder: Path, *routers: APIRouter) -> Iterator[SmallRouter]:
    """Serve these routes over HTTPS until the block ends."""
    port = free_port()
    keys = KeyStore(folder / "keys")
    keys.ensure()
    files = ensure_tls(folder / "keys" / "tls", ["127.0.0.1"], SystemClock())
    settings = ControlSettings(database_url="sqlite://", broker_url="memory://", keys_dir=folder / "keys")
    app = FastAPI()
    app.state.context = AppContext(settings=settings, database=database, keys=keys, clock=SystemClock())
    problems.install(app)
    for router in routers:
        app.include_router(router)
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="error", lifespan="off",
            ssl_certfile=files.certificate, ssl_keyfile=files.key,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 15
    while not port_is_open("127.0.0.1", port) and time.monotonic() < end:
        time.sleep(0.02)
    users = {role: _add_user(database, role) for role in ("admin", "operator", "auditor")}
    try:
        yield SmallRouter(url=f"https://127.0.0.1:{port}", ca=files.ca, keys=keys, database=database, users=users)
    finally:
        server.should_exit = server.force_exit = True  # clients keep their connections; nobody waits for them
        thread.join(timeout=10)


def _add_user(database: Database, role: str) -> p256.PrivateKey:
    key = p256.generate()
    with database.transaction() as session:
        session.add(
            User(
                uid=new_uid(), username=role, public_key=p256.public_point(key), kdf_salt=b"", kdf_iterations=600_000,
                proof_hash=b"", wrapped_private_key=b"", role=role, created_at=SystemClock().now(),
            )
        )  # fmt: skip
    return key
