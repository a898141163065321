"""Who may sign in."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from pam_jobs.db.base import Base

__all__ = ["ApiToken", "User"]


class User(Base):
    """An operator. The server holds what checks a proof and the wrapped private key, never the passphrase."""

    __tablename__ = "users"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    username: Mapped[str] = mapped_column(String(254), unique=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)  # P-256, 65-byte uncompressed point
    kdf_salt: Mapped[bytes] = mapped_column(LargeBinary)
    kdf_iterations: Mapped[int]  # PBKDF2-SHA256, at least 600 000
    proof_hash: Mapped[bytes] = mapped_column(LargeBinary)  # SHA-256 of the authentication half
    wrapped_private_key: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM by the wrapping half
    role: Mapped[str] = mapped_column(String(32))  # admin, operator, auditor
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    failed_sign_ins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[datetime | None]


class ApiToken(Base):
    """A bearer token for the REST API; only its SHA-256 is kept."""

    __tablename__ = "api_tokens"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    user_uid: Mapped[str] = mapped_column(ForeignKey("users.uid"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[Any]]  # such as jobs:read, jobs:write, audit:read
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
