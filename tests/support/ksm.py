"""A KSM client that can do wrong what the SDKs do right."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import to_base64
from pam_jobs.ids import unb64url
from pam_jobs.vault.clients import client_id_of
from tests.support.router import RunningRouter


@dataclass
class RawDevice:
    """One device, with its own key; every part of a request can be replaced."""

    router: RunningRouter
    config: dict[str, str]
    key: p256.PrivateKey = field(default_factory=p256.generate)
    key_id: str | None = None
    version: str = "mp17.3.0"

    @property
    def client_id(self) -> str:
        return client_id_of(unb64url(self.config["clientKey"]))

    def ask(
        self,
        endpoint: str = "get_secret",
        *,
        bind: bool = True,
        signer: p256.PrivateKey | None = None,
        cut: int = 0,
        headers: dict[str, str | None] | None = None,
        **payload: Any,
    ) -> httpx.Response:
        """Send a request and return the bare answer; what was sealed in it is in ``answer.extensions["opened"]``."""
        content = {"clientVersion": self.version, "clientId": self.client_id, **payload}
        if bind:
            content["publicKey"] = to_base64(p256.public_point(self.key))
        transmission = aes.new_key()
        wrapped = p256.ecies_encrypt(transmission, unb64url(self.config["serverPublicKey"]))
        body = aes.encrypt(json.dumps(content).encode(), transmission)
        signature = p256.sign(signer or self.key, wrapped + body)
        sent = {
            "Content-Type": "application/octet-stream",
            "PublicKeyId": self.key_id or self.config["serverPublicKeyId"],
            "TransmissionKey": to_base64(wrapped),
            "Authorization": f"Signature {to_base64(signature)}",
            **(headers or {}),
        }
        with self.router.http() as http:
            answer = http.post(
                f"/api/rest/sm/v1/{endpoint}",
                content=body[: len(body) - cut],
                headers={name: value for name, value in sent.items() if value is not None},
            )
        if answer.status_code == httpx.codes.OK and answer.content:
            answer.extensions["opened"] = json.loads(aes.decrypt(answer.content, transmission))
        return answer
