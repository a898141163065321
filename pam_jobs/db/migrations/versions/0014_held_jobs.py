"""Jobs of a target at its limit wait in a line of their own.

Revision: 0014, after 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_IN_LINE = sa.text("state IN ('created', 'queued')")
_FORMER = ["gateway_uid", "configuration_uid", "priority", "not_before", "created_at"]


def upgrade() -> None:
    op.add_column("jobs", sa.Column("held_for", sa.String(22)))
    _line([*_FORMER[:3], "held_for", *_FORMER[3:]])


def downgrade() -> None:
    _line(_FORMER)
    op.drop_column("jobs", "held_for")


def _line(columns: list[str]) -> None:
    op.drop_index("ix_jobs_line", "jobs")
    op.create_index("ix_jobs_line", "jobs", columns, sqlite_where=_IN_LINE, postgresql_where=_IN_LINE)
