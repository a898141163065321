"""Drift of each credential, and schedules of verifications.

Revision: 0002, after 0004
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON: sa.types.TypeEngine[Any] = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_VERDICTS = {"accepted": "healthy", "refused": "out_of_sync", "partial": "out_of_sync"}


def upgrade() -> None:
    op.add_column(
        "pam_configurations", sa.Column("default_verify_schedule", sa.Text(), nullable=False, server_default="[]")
    )
    for column in (
        sa.Column("verify_schedule", sa.Text()),
        sa.Column("last_verdict", _JSON),
        sa.Column("drift", sa.String(16), nullable=False, server_default="unchecked"),
        sa.Column("drift_before", sa.String(16)),
        sa.Column("drift_since", _TIME),
        sa.Column("drift_checked_at", _TIME),
        sa.Column("drift_cause", sa.String(64)),
    ):
        op.add_column("rotation_settings", column)
    for verdict, drift in _VERDICTS.items():  # what the last login told is kept
        told = sa.text(
            "UPDATE rotation_settings SET last_verdict = last_probe, drift = :drift"
            " WHERE CAST(last_probe AS TEXT) LIKE :verdict"
        )
        op.get_bind().execute(told, {"drift": drift, "verdict": f'%"verdict": "{verdict}"%'})


def downgrade() -> None:
    names = (
        "drift_cause",
        "drift_checked_at",
        "drift_since",
        "drift_before",
        "drift",
        "last_verdict",
        "verify_schedule",
    )
    for name in names:
        op.drop_column("rotation_settings", name)
    op.drop_column("pam_configurations", "default_verify_schedule")
