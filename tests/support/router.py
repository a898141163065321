"""A real router: uvicorn with TLS on a loopback port, over SQLite or PostgreSQL, with a user who is signed in."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from pam_jobs.access import users
from pam_jobs.access.roles import Role
from pam_jobs.api.app import create_app
from pam_jobs.api.context import AppContext
from pam_jobs.api.server import make_server
from pam_jobs.audit.log import Actor
from pam_jobs.client.applications import new_client
from pam_jobs.client.folders import Folder
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session, TokenSource
from pam_jobs.client.vault import VaultClient
from pam_jobs.clock import Clock, SystemClock
from pam_jobs.crypto import p256
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.crypto.tls import TlsFiles, ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent
from pam_jobs.ids import new_uid
from pam_jobs.records.record import Record
from pam_jobs.settings import ControlSettings
from tests.support.database import dump, new_database_url, open_database

HOST = "localhost"


def plain_user(username: str, role: str = "admin") -> tuple[users.NewUser, p256.PrivateKey]:
    """A user without the cost of stretching a passphrase; signs in with the key alone."""
    key = p256.generate()
    new = users.NewUser(
        uid=new_uid(),
        username=username,
        role=Role(role),
        public_key=p256.public_point(key),
        salt=bytes(16),
        iterations=600_000,
        proof_hash=bytes(32),
        wrapped_private_key=bytes(60),
    )
    return new, key


@dataclass
class Operator:
    """A signed-in user: the client's own library, and short ways to what tests need again and again."""

    vault: VaultClient
    router: RunningRouter

    def folder(self, name: str = "folder", parent: Folder | None = None) -> Folder:
        return self.vault.folders.find(self.vault.folders.add(name, parent))

    def record(self, folder: Folder, title: str = "title", **fields: str) -> str:
        """Add a login record and return its UID."""
        content = {
            "type": "login",
            "title": title,
            "notes": "",
            "fields": [{"type": name, "value": [value]} for name, value in fields.items()],
            "custom": [],
        }
        return self.vault.records.add(Record.parse(content), folder)

    def application(self, *folders: Folder, can_edit: bool = True, title: str = "application") -> str:
        """Add an application with shares of the folders and return its UID."""
        application = self.vault.applications.find(self.vault.applications.add(title))
        for folder in folders:
            self.vault.applications.share(application, folder, can_edit=can_edit)
        return application.uid

    def device(self, application_uid: str, name: str = "device", **options: Any) -> dict[str, str]:
        """Add a device and return the configuration that the SDKs take."""
        settings = {"lock_ip": False, "first_access_expires_in_seconds": 3600, **options}
        applications = self.vault.applications
        client = new_client(applications.find(application_uid).key, name, **settings)
        applications.add_client(applications.find(application_uid), client)
        return applications.client_config(client.token)


@dataclass
class RunningRouter:
    """A router that serves."""

    url: str
    tls: TlsFiles
    context: AppContext
    database_url: str
    operator: Operator = field(init=False)

    @property
    def database(self) -> Database:
        return self.context.database

    def sign_in(self, username: str, role: str = "admin") -> Operator:
        """Register a user and return the signed-in operator."""
        new, key = plain_user(username, role)
        with self.database.transaction() as session:
            users.register(session, self.context.clock, Actor(username="tests"), new)
        user_session = Session(username=username, private_key=key)
        client = RouterClient(self.url, ca=self.tls.ca, token=TokenSource(user_session))
        return Operator(VaultClient(client, user_session), self)

    def http(self) -> httpx.Client:
        """A bare HTTPS client that trusts the router."""
        return httpx.Client(
            base_url=self.url, verify=ssl.create_default_context(cafile=str(self.tls.ca)), trust_env=False
        )

    def events(self, *names: str) -> list[AuditEvent]:
        """The audit log's events of these names, or all, oldest first."""
        query = select(AuditEvent).order_by(AuditEvent.id)
        if names:
            query = query.where(AuditEvent.event.in_(names))
        with self.database.transaction(read_only=True) as session:
            return list(session.scalars(query))

    def dump(self) -> bytes:
        """Everything the database holds."""
        return dump(self.database_url)


def free_socket() -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    return bound


@contextmanager
def run_router(
    folder: Path, database_url: str, *, clock: Clock | None = None, **settings: Any
) -> Iterator[RunningRouter]:
    """Serve a router from a thread.

    Args:
        folder: for its keys.
        database_url: of a database with the schema.
        clock: the router's; the machine's when None.
        settings: of ``ControlSettings`` beside the usual ones of tests.
    """
    time_source = clock or SystemClock()
    listener = free_socket()
    port = listener.getsockname()[1]
    options = {"events": False, "minimum_interval_seconds": 0, **settings}
    control = ControlSettings(
        database_url=database_url,
        broker_url="memory://",
        keys_dir=folder / "keys",
        public_host=f"{HOST}:{port}",
        **options,
    )
    keys = KeyStore(control.keys_dir)
    keys.ensure()
    tls = ensure_tls(control.keys_dir / "tls", control.tls_name_list, SystemClock())
    context = AppContext(settings=control, database=open_database(database_url), keys=keys, clock=time_source)
    server = make_server(create_app(context), tls, host="127.0.0.1", port=port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="router", daemon=True)
    thread.start()
    _wait(lambda: server.started or not thread.is_alive())
    router = RunningRouter(f"https://{HOST}:{port}", tls, context, database_url)
    try:
        router.operator = router.sign_in("operator@example.test")
        yield router
        router.operator.vault.router.close()
    finally:
        server.should_exit = server.force_exit = True  # idle connections of the test are not waited for
        thread.join(10)
        listener.close()
        context.database.dispose()


def _wait(is_done: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise TimeoutError("the router did not start")
        time.sleep(0.01)


@pytest.fixture
def router(database_url: str, tmp_path: Path) -> Iterator[RunningRouter]:
    """A running router, once over SQLite and once over PostgreSQL."""
    with run_router(tmp_path, database_url) as running:
        yield running


@pytest.fixture
def sqlite_router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningRouter]:
    """A running router over SQLite, for tests that are about something else than the database."""
    with new_database_url(request, tmp_path, "sqlite") as url, run_router(tmp_path, url) as running:
        yield running
