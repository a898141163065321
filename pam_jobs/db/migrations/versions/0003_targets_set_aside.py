"""Targets that refused their administrator.

Revision ID: 0003
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "targets_set_aside",
        sa.Column("resource_uid", sa.String(22), primary_key=True),
        sa.Column("admin_uid", sa.String(22), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("cause", sa.String(64), nullable=False),
        sa.Column("job_uid", sa.String(22), nullable=False),
        sa.Column("gateway_uid", sa.String(22), nullable=False),
        sa.Column("lifted_at", _TIME),
        sa.Column("lifted_by", sa.String(254)),
    )
    op.create_index("ix_targets_set_aside_admin_uid", "targets_set_aside", ["admin_uid"])


def downgrade() -> None:
    op.drop_table("targets_set_aside")
