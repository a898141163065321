"""Calendars of configurations, pauses, jitter and what becomes of missed runs.

Revision: 0006, after 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_UID = sa.String(22)


def _added() -> dict[str, tuple[sa.Column[object], ...]]:
    return {
        "pam_configurations": (
            sa.Column("schedules_paused_at", _TIME),
            sa.Column("jitter_seconds", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("missed_runs", sa.String(16), nullable=False, server_default="catch_up"),
            sa.Column("missed_grace_seconds", sa.Integer(), nullable=False, server_default="900"),
        ),
        "schedules": (sa.Column("paused_at", _TIME), sa.Column("planned_at", _TIME), sa.Column("moved_by", _UID)),
        "jobs": (sa.Column("planned_at", _TIME), sa.Column("moved_by", _UID)),
    }


def upgrade() -> None:
    op.create_table(
        "calendars",
        sa.Column("uid", _UID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("tz", sa.String(64), nullable=False),
        sa.Column("periods", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_calendars"),
        sa.UniqueConstraint("name", name="uq_calendars_name"),
    )
    op.create_table(
        "configuration_calendars",
        sa.Column("configuration_uid", _UID, nullable=False),
        sa.Column("calendar_uid", _UID, nullable=False),
        sa.Column("use", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("configuration_uid", "calendar_uid", name="pk_configuration_calendars"),
        sa.ForeignKeyConstraint(
            ["configuration_uid"],
            ["pam_configurations.record_uid"],
            name="fk_configuration_calendars_configuration_uid",
        ),
        sa.ForeignKeyConstraint(["calendar_uid"], ["calendars.uid"], name="fk_configuration_calendars_calendar_uid"),
    )
    op.create_index("ix_configuration_calendars_calendar_uid", "configuration_calendars", ["calendar_uid"])
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)


def downgrade() -> None:
    for table, columns in _added().items():
        for column in columns:
            op.drop_column(table, column.name)
    op.drop_table("configuration_calendars")
    op.drop_table("calendars")
