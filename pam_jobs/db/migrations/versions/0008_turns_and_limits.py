"""Priorities of jobs, turns at gateways, limits, drained gateways, and jobs that lose their leases.

Revision: 0008, after 0012
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0012"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON: sa.types.TypeEngine[Any] = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_IN_LINE = sa.text("state IN ('created', 'queued')")
_IN_HAND = sa.text("state IN ('leased', 'running')")
_HAS_LIMIT = sa.text("job_limit IS NOT NULL")


def _added() -> dict[str, tuple[sa.Column[Any], ...]]:
    return {
        "gateways": (sa.Column("job_limit", sa.Integer()), sa.Column("drained_at", _TIME)),
        "pam_configurations": (sa.Column("job_limit", sa.Integer()), sa.Column("target_limit", sa.Integer())),
        "resource_links": (sa.Column("job_limit", sa.Integer()),),
        "jobs": (
            sa.Column("priority", sa.SmallInteger(), nullable=False, server_default=sa.text("1")),
            sa.Column("crashes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        ),
    }


def upgrade() -> None:
    """Add them; jobs that wait get the priority they would be made with."""
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)
    op.execute("UPDATE jobs SET priority = 0 WHERE trigger = 'on_demand' AND state IN ('created', 'queued', 'unknown')")
    op.execute("UPDATE jobs SET priority = 2 WHERE trigger = 'scheduled' AND kind = 'verify'")
    op.create_index(
        "ix_jobs_line",
        "jobs",
        ["gateway_uid", "configuration_uid", "priority", "not_before", "created_at"],
        sqlite_where=_IN_LINE,
        postgresql_where=_IN_LINE,
    )
    op.create_index("ix_jobs_held", "jobs", ["configuration_uid"], sqlite_where=_IN_HAND, postgresql_where=_IN_HAND)
    op.create_index(
        "ix_resource_links_limited",
        "resource_links",
        ["configuration_uid"],
        sqlite_where=_HAS_LIMIT,
        postgresql_where=_HAS_LIMIT,
    )
    op.create_index("ix_rotation_settings_drift", "rotation_settings", ["drift"])
    op.create_table(
        "gateway_turns",
        sa.Column("gateway_uid", sa.String(22), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("served", _JSON, nullable=False),
        sa.Column("passed_over", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("is_short", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("asked_at", _TIME),
        sa.PrimaryKeyConstraint("gateway_uid", name="pk_gateway_turns"),
        sa.ForeignKeyConstraint(["gateway_uid"], ["gateways.uid"], name="fk_gateway_turns_gateway_uid"),
    )
    op.execute("INSERT INTO gateway_turns (gateway_uid, served) SELECT uid, '{}' FROM gateways")


def downgrade() -> None:
    """Take them back."""
    op.drop_table("gateway_turns")
    op.drop_index("ix_rotation_settings_drift", "rotation_settings")
    op.drop_index("ix_resource_links_limited", "resource_links")
    op.drop_index("ix_jobs_held", "jobs")
    op.drop_index("ix_jobs_line", "jobs")
    for table, columns in _added().items():
        for column in columns:
            op.drop_column(table, column.name)
