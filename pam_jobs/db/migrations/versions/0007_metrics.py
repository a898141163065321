"""Counters of the metrics.

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
    """Add the counters; they begin with the log's first event."""
    op.create_table(
        "event_totals",
        sa.Column("counter", sa.String(64), nullable=False),
        sa.Column("labels", sa.String(255), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("counter", "labels", name="pk_event_totals"),
    )


def downgrade() -> None:
    """Take them back."""
    op.drop_table("event_totals")
