"""Who a gateway's process is: the device key's signature, and whether the device still has access."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.crypto import p256
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Client, Gateway
from pam_jobs.errors import AccessDenied, ClockDiffers, VaultError
from pam_jobs.jobs.trail import gateway_actor
from pam_jobs.jobs.turns import Place
from pam_jobs.jobs.wire import AUDIENCE

__all__ = ["SCHEME", "Caller", "Device", "DeviceKeys", "NotProven", "admit", "record_refusal"]

SCHEME: Final = "KeeperDevice"
_LIFETIME_SECONDS = 300
_LEEWAY_SECONDS = 60
_KEPT_KEYS = 4096
_REBIND = "bind the gateway again with a new one-time token"
_CLIENTS: Final = table_of(Client)
_GATEWAYS: Final = table_of(Gateway)
_ACCESS: Final = (  # made once: it runs with every call of every gateway
    select(
        _CLIENTS.c.removed_at,
        _CLIENTS.c.access_expires_at,
        _CLIENTS.c.lock_ip,
        _CLIENTS.c.locked_ip,
        _CLIENTS.c.gateway_uid,
        _GATEWAYS.c.name,
        _GATEWAYS.c.max_instances,
        _GATEWAYS.c.job_limit,
        _GATEWAYS.c.drained_at,
        _GATEWAYS.c.removed_at.label("gateway_removed_at"),
    )
    .select_from(_CLIENTS)
    .outerjoin(_GATEWAYS, _GATEWAYS.c.uid == _CLIENTS.c.gateway_uid)
    .where(_CLIENTS.c.client_id == bindparam("client_id"))
)


class NotProven(AccessDenied):
    """The call does not prove which device makes it."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A device that signed its call; what it may do is another question."""

    client_id: str
    remote_address: str | None
    user_agent: str | None


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device with access, and the gateway it is."""

    client_id: str
    gateway_uid: str
    gateway_name: str
    max_instances: int
    remote_address: str | None
    user_agent: str | None
    job_limit: int | None = None
    drained_at: datetime | None = None

    @property
    def place(self) -> Place:
        """The gateway, and whether it may begin jobs."""
        return Place(
            gateway_uid=self.gateway_uid, name=self.gateway_name, job_limit=self.job_limit, drained_at=self.drained_at
        )

    def actor(self) -> Actor:
        """Return whom the audit log names."""
        return gateway_actor(self.gateway_uid, self.remote_address, self.user_agent)


class DeviceKeys:
    """The public keys of devices and their tokens, kept once read or checked: a bound device's key never changes.

    Only the signature is remembered; whether the device still has access is asked in every transaction.
    """

    def __init__(self) -> None:
        self._keys: dict[str, EllipticCurvePublicKey] = {}
        self._seen: dict[str, tuple[str, float, float]] = {}  # token → client id, valid from, valid until
        self._lock = threading.Lock()

    def seen(self, token: str, now: datetime) -> str | None:
        """Return the client id of a token that was checked before and is valid still; None: check it."""
        known = self._seen.get(token)
        return known[0] if known is not None and known[1] <= now.timestamp() <= known[2] else None

    def check(self, database: Database, token: str, now: datetime) -> str:
        """Return the client id of a token that its device signed, for us and for now.

        Raises:
            NotProven: it did not.
            ClockDiffers: it did, for another time than now.
        """
        try:
            unproven: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
            client_id = unproven.get("iss")
            if not isinstance(client_id, str):
                raise NotProven("the device's token names no device", remedy=_REBIND)
            claims = jwt.decode(
                token,
                self._key(database, client_id),
                algorithms=["ES256"],
                audience=AUDIENCE,
                options={"require": ["iss", "aud", "iat", "exp"], "verify_exp": False, "verify_iat": False},
            )
            issued, expires = int(claims["iat"]), int(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise NotProven("the call is not signed by this device", remedy=_REBIND) from error
        if expires - issued > _LIFETIME_SECONDS:
            raise NotProven("the device's token is valid for too long", remedy="update the gateway")
        at = now.timestamp()
        if at > expires + _LEEWAY_SECONDS or at < issued - _LEEWAY_SECONDS:
            raise ClockDiffers(
                "the device's token is not valid at this time", remedy="set the clocks of both machines right"
            )
        with self._lock:
            if len(self._seen) >= _KEPT_KEYS:
                self._seen.clear()
            self._seen[token] = (client_id, issued - _LEEWAY_SECONDS, expires + _LEEWAY_SECONDS)
        return client_id

    def _key(self, database: Database, client_id: str) -> EllipticCurvePublicKey:
        with self._lock:
            if (kept := self._keys.get(client_id)) is not None:
                return kept
        with database.transaction(read_only=True) as session:
            point = session.scalar(select(Client.public_key).where(Client.client_id == client_id))
        if point is None:
            raise NotProven("the device is not known here", remedy=_REBIND)
        try:
            key = p256.load_public(point)
        except VaultError as error:
            raise NotProven("the device's key cannot be read", remedy=_REBIND) from error
        with self._lock:
            if len(self._keys) >= _KEPT_KEYS:
                self._keys.clear()
            self._keys[client_id] = key
        return key


def admit(session: Session, clock: Clock, caller: Caller) -> Device:
    """Return the device when it still has access and is a gateway; asked anew in each transaction.

    Raises:
        AccessDenied: it was removed or has expired, comes from another address than it is locked to, or is no gateway.
    """
    row = prepared.row(session, _ACCESS, {"client_id": caller.client_id})
    if row is None or row.removed_at is not None:
        raise AccessDenied("the device was removed", remedy=_REBIND)
    if row.access_expires_at is not None and row.access_expires_at <= clock.now():
        raise AccessDenied("the device's access has expired", remedy=_REBIND)
    if row.lock_ip and row.locked_ip is not None and row.locked_ip != caller.remote_address:
        raise AccessDenied(
            "the device is locked to another address", remedy="call from that address, or bind again without the lock"
        )
    if row.gateway_uid is None or row.name is None:
        raise AccessDenied("the device is no gateway", remedy="create a gateway and bind with its token")
    if row.gateway_removed_at is not None:
        raise AccessDenied("the gateway was removed", remedy="create a gateway and bind with its token")
    return Device(
        client_id=caller.client_id,
        gateway_uid=row.gateway_uid,
        gateway_name=row.name,
        max_instances=row.max_instances,
        remote_address=caller.remote_address,
        user_agent=caller.user_agent,
        job_limit=row.job_limit,
        drained_at=row.drained_at,
    )


def record_refusal(session: Session, clock: Clock, caller: Caller, code: str) -> None:
    """Tell the audit log of a device that was refused at its start."""
    client = session.get(Client, caller.client_id)
    if client is None:
        return
    actor = Actor(
        username=f"client:{client.name}", remote_address=caller.remote_address, client_version=caller.user_agent
    )
    record_event(
        session,
        clock,
        actor,
        "app_client_access_denied",
        app_uid=client.application_uid,
        device_name=client.name,
        gateway_uid=client.gateway_uid,
        result_code=code,
    )
