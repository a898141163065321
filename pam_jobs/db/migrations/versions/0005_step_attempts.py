"""How often a step was started, and may be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count the starts of steps; those that have begun before count as started once."""
    op.add_column("job_steps", sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("job_steps", sa.Column("most_attempts", sa.Integer(), nullable=False, server_default=sa.text("1")))
    steps = sa.table("job_steps", sa.column("attempts", sa.Integer), sa.column("started_at", sa.DateTime))
    op.execute(steps.update().where(steps.c.started_at.is_not(None)).values(attempts=1))


def downgrade() -> None:
    """Forget the counts."""
    op.drop_column("job_steps", "most_attempts")
    op.drop_column("job_steps", "attempts")
