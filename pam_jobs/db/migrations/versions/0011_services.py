"""What runs on machines as a user, and how its update ended.

Revision ID: 0011
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the mapping, the two opt-outs and the jobs' third code."""
    op.create_table(
        "service_maps",
        sa.Column("user_uid", sa.String(22), nullable=False),
        sa.Column("machine_uid", sa.String(22), nullable=False),
        sa.Column("names", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_uid", "machine_uid", name="pk_service_maps"),
        sa.ForeignKeyConstraint(["user_uid"], ["records.uid"], name="fk_service_maps_user_uid"),
        sa.ForeignKeyConstraint(["machine_uid"], ["resource_links.resource_uid"], name="fk_service_maps_machine_uid"),
    )
    op.create_index("ix_service_maps_machine_uid", "service_maps", ["machine_uid"])
    for table in ("resource_links", "rotation_settings"):
        op.add_column(table, sa.Column("no_update_services", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("services_status", sa.String(32)))


def downgrade() -> None:
    """Take them back."""
    op.drop_column("jobs", "services_status")
    for table in ("rotation_settings", "resource_links"):
        op.drop_column(table, "no_update_services")
    op.drop_index("ix_service_maps_machine_uid", "service_maps")
    op.drop_table("service_maps")
