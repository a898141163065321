"""Passphrases: a new user's keys, and the change of a passphrase; all derived on this side."""

from __future__ import annotations

import hashlib
from typing import Any

from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session, TokenSource, sign_in
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.crypto.passphrase import ITERATIONS, derive, new_salt
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue

__all__ = ["change_passphrase", "new_user"]


def new_user(username: str, passphrase: SecretValue, role: str) -> dict[str, Any]:
    """Return what the router stores of a new user: what checks a proof, and the wrapped private key."""
    key = p256.generate()
    body = {"uid": new_uid(), "username": username, "role": role, "public_key": to_base64(p256.public_point(key))}
    return body | _sealed(passphrase, p256.private_der(key))


def change_passphrase(client: RouterClient, username: str, old: SecretValue, new: SecretValue) -> Session:
    """Wrap the private key anew and return the session.

    Raises:
        AccessDenied: the old passphrase is wrong.
    """
    session = sign_in(client, username, old)
    parameters = client.post("/api/v1/sign-in/parameters", {"username": username})
    proof = derive(old, from_base64(parameters["salt"]), int(parameters["iterations"])).proof
    body = {"proof": to_base64(proof)} | _sealed(new, p256.private_der(session.private_key))
    headers = {"Authorization": f"Bearer {TokenSource(session)()}"}
    client.request("PUT", "/api/v1/me/passphrase", body=body, headers=headers)
    return session


def _sealed(passphrase: SecretValue, der: bytes) -> dict[str, Any]:
    salt = new_salt()
    keys = derive(passphrase, salt, ITERATIONS)
    return {
        "salt": to_base64(salt),
        "iterations": ITERATIONS,
        "proof_hash": to_base64(hashlib.sha256(keys.proof).digest()),
        "wrapped_private_key": to_base64(aes.encrypt(der, keys.wrapping)),
    }
