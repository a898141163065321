"""A gateway's calls to the router's application in this process, signed by its device key."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import jwt

from pam_jobs.crypto import p256
from pam_jobs.crypto.blob import to_base64
from pam_jobs.db.tables import Client
from tests.support.pam_api import PamApi, call


@dataclass
class DeviceCaller:
    """One device of the fleet's gateway."""

    api: PamApi
    client_id: str
    key: p256.PrivateKey
    instance: str = "i1"
    agent: str = "pam-gateway/test"
    claims: dict[str, Any] = field(default_factory=dict)  # in place of the usual ones

    def request(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        now = int(self.api.fleet.clock.now().timestamp())
        claims = {"iss": self.client_id, "aud": "pam-jobs", "iat": now, "exp": now + 290, **self.claims}
        token = jwt.encode(claims, self.key, algorithm="ES256")
        sent = {"Authorization": f"KeeperDevice {token}", "User-Agent": self.agent, **headers}
        return call(self.api.app, "POST", f"/api/device{path}", json=body, headers=sent)

    def done(self, path: str, /, **body: Any) -> Any:
        answer = self.request(path, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def refused(self, path: str, status: int, code: str | None = None, /, **body: Any) -> dict[str, Any]:
        answer = self.request(path, body)
        assert answer.status_code == status, answer.text
        problem: dict[str, Any] = answer.json()
        if code is not None:
            assert problem["code"] == code, problem
        return problem

    def hello(self, **details: Any) -> Any:
        return self.done("/hello", instance=self.instance, version="1;linux;6;x86_64;12", details=details)

    def claim(self, job_uid: str) -> Any:
        return self.done(f"/jobs/{job_uid}/claim", instance=self.instance)

    def on(self, job_uid: str, what: str, epoch: int, /, **body: Any) -> Any:
        return self.done(f"/jobs/{job_uid}/{what}", instance=self.instance, epoch=epoch, **body)


def add_device(api: PamApi, *, gateway: bool = True, lock_ip: bool = False, **columns: Any) -> DeviceCaller:
    """Add a bound device of the fleet's gateway."""
    key = p256.generate()
    client_id = base64.b64encode(secrets.token_bytes(64)).decode()
    now = api.fleet.clock.now()
    members = {
        "first_access_expires_at": now + timedelta(hours=1),
        "first_access_at": now,
        "created_at": now,
        **columns,
    }
    with api.fleet.database.transaction() as session:
        session.add(
            Client(
                client_id=client_id, application_uid=api.fleet.application_uid, name="device", encrypted_app_key=b"",
                gateway_uid=api.fleet.gateway_uid if gateway else None, public_key=p256.public_point(key),
                lock_ip=lock_ip, **members,
            )
        )  # fmt: skip
    return DeviceCaller(api=api, client_id=client_id, key=key)


SEALED = to_base64(b"ciphertext-of-the-candidate-and-its-tag")
