"""The router's application in this process, with users who sign their own tokens."""

from __future__ import annotations

import asyncio
import base64
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import update

from pam_jobs.access import sign_in_token
from pam_jobs.api.app import create_app
from pam_jobs.api.context import AppContext
from pam_jobs.crypto import p256
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.tables import User
from pam_jobs.ids import new_uid
from pam_jobs.settings import ControlSettings
from tests.support.fleet import Fleet, add_user


def blob(size: int = 60) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()


def new_client(name: str = "office") -> dict[str, Any]:
    """Return what a client sends of a device whose token it made."""
    return {
        "client_id": blob(64),
        "name": name,
        "encrypted_app_key": blob(),
        "lock_ip": False,
        "first_access_expires_in_seconds": 3600,
    }


def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """Return the application's answer; no socket is opened."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="https://router") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@dataclass
class PamApi:
    """Requests as one user, and the fleet they act on."""

    fleet: Fleet
    app: FastAPI
    key: p256.PrivateKey
    username: str = "ada"

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        token = sign_in_token.issue(self.key, self.username, self.fleet.clock.now())
        headers = {"Authorization": f"Bearer {token}"}
        return call(self.app, method, f"/api/v1{path}", json=body, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        answer = self.request("GET", path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def done(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of a request that succeeds."""
        answer = self.request(method, path, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, body: Any = None, *, status: int) -> dict[str, Any]:
        """Return the problem that a request is answered with."""
        answer = self.request(method, path, body)
        assert answer.status_code == status, answer.text
        problem: dict[str, Any] = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["detail"]
        assert "remedy" in problem, problem
        return problem

    def new_record(self, *, version: int = 3, folder_uid: str | None = None) -> dict[str, Any]:
        """Return what a client sends to create a record."""
        return {
            "uid": new_uid(),
            "folder_uid": folder_uid or self.fleet.folder_uid,
            "version": version,
            "key": blob(),
            "owner_key": blob(125),
            "data": blob(200),
        }

    def as_other(self, username: str, role: str = "operator") -> PamApi:
        """Return the API as another user, who is a member of no folder."""
        key = p256.generate()
        with self.fleet.database.transaction() as session:
            uid = add_user(session, self.fleet.clock, username)
            session.execute(update(User).where(User.uid == uid).values(public_key=p256.public_point(key), role=role))
        return PamApi(fleet=self.fleet, app=self.app, key=key, username=username)


def new_api(fleet: Fleet, folder: Path, **settings: Any) -> PamApi:
    """Serve the fleet's database to its user."""
    key = p256.generate()
    with fleet.database.transaction() as session:
        session.execute(update(User).where(User.uid == fleet.user_uid).values(public_key=p256.public_point(key)))
    keys = KeyStore(folder / "keys")
    keys.ensure()
    context = AppContext(
        settings=ControlSettings(
            database_url="sqlite://", broker_url="redis://localhost", keys_dir=keys.folder, **settings
        ),
        database=fleet.database,
        keys=keys,
        clock=fleet.clock,
    )
    return PamApi(fleet=fleet, app=create_app(context), key=key)
