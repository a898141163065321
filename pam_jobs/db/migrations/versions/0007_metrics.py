"""Counters of the metrics, and the age of a gateway's oldest job from an index alone.

Revision ID: 0007
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the counters; the index of gateways and states gets the time as well."""
    op.create_table(
        "event_totals",
        sa.Column("counter", sa.String(64), nullable=False),
        sa.Column("labels", sa.String(255), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("counter", "labels", name="pk_event_totals"),
    )
    op.drop_index("ix_jobs_gateway_state", "jobs")
    op.create_index("ix_jobs_gateway_state", "jobs", ["gateway_uid", "state", "created_at"])


def downgrade() -> None:
    """Take both back."""
    op.drop_index("ix_jobs_gateway_state", "jobs")
    op.create_index("ix_jobs_gateway_state", "jobs", ["gateway_uid", "state"])
    op.drop_table("event_totals")
