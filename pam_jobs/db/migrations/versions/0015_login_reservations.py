"""Logins as administrators have a place in the lockout budget before they are made.

Revision: 0015, after 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "login_reservations",
        sa.Column("uid", sa.String(22), nullable=False),
        sa.Column("record_uid", sa.String(22), nullable=False),
        sa.Column("resource_uid", sa.String(22), nullable=False),
        sa.Column("subject_uid", sa.String(22), nullable=False),
        sa.Column("job_uid", sa.String(22), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("gateway_uid", sa.String(22), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_login_reservations"),
    )
    op.create_index("ix_login_reservations_record_uid", "login_reservations", ["record_uid"])


def downgrade() -> None:
    op.drop_table("login_reservations")
