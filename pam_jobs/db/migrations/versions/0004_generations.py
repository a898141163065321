"""Generations of the database, and the mark that a restore leaves on every credential."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both; the first generation begins when a gateway first asks."""
    op.create_table(
        "database_generations",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uid", sa.String(22), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_database_generations"),
        sa.UniqueConstraint("uid", name="uq_database_generations_uid"),
    )
    op.add_column("rotation_settings", sa.Column("prove_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Forget both."""
    op.drop_column("rotation_settings", "prove_since")
    op.drop_table("database_generations")
