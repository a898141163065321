"""The audit log and where it is sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from pam_jobs.db.base import Base, BigIntKey

__all__ = ["AuditEvent", "EventTotal", "SiemSink"]


class AuditEvent(Base):
    """One event, written in the transaction of the change it tells of.

    ``position`` is given afterwards by the sealer, so that it follows commits and has no gaps: what reads the log in
    order reads by position.
    """

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigIntKey, primary_key=True)
    uid: Mapped[str] = mapped_column(String(22), unique=True)
    position: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    event: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    username: Mapped[str] = mapped_column(String(254))
    remote_address: Mapped[str | None] = mapped_column(String(64))
    client_version: Mapped[str | None] = mapped_column(String(64))
    fields: Mapped[dict[str, Any]]  # record_uid, gateway_uid, result_code …: identifiers and codes


class EventTotal(Base):
    """A counter of the metrics: how many events of the log there were, up to the one that was counted last."""

    __tablename__ = "event_totals"

    counter: Mapped[str] = mapped_column(String(64), primary_key=True)  # name of the metric
    labels: Mapped[str] = mapped_column(String(255), primary_key=True)  # JSON list of the labels' values
    value: Mapped[int] = mapped_column(BigInteger)


class SiemSink(Base):
    """A receiver of the audit log and how far it has come."""

    __tablename__ = "siem_sinks"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    kind: Mapped[str] = mapped_column(String(32))  # json, syslog, splunk
    settings: Mapped[dict[str, Any]]  # address, framing …; no secret
    secret: Mapped[bytes | None] = mapped_column(LargeBinary)  # receiver's token by the control plane's sealing key
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)  # last position delivered
    paused: Mapped[bool] = mapped_column(default=False)
    failures: Mapped[int] = mapped_column(default=0)  # since the last success
    next_try_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    last_delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
