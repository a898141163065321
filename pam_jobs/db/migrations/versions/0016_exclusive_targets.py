"""Which server's administrator a job changes, by opaque tags, and which job it waits for because of them.

Revision: 0016, after 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TAGGED = sa.text("target_tags IS NOT NULL")
_AWAITS = sa.text("waits_for IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("waits_for", sa.String(22)))
    op.add_column("jobs", sa.Column("target_tags", sa.String(1000)))
    op.add_column("jobs", sa.Column("tags_epoch", sa.Integer()))
    op.create_index("ix_jobs_tagged", "jobs", ["created_at", "uid"], sqlite_where=_TAGGED, postgresql_where=_TAGGED)
    op.create_index("ix_jobs_waits_for", "jobs", ["waits_for"], sqlite_where=_AWAITS, postgresql_where=_AWAITS)


def downgrade() -> None:
    op.drop_index("ix_jobs_waits_for", "jobs")
    op.drop_index("ix_jobs_tagged", "jobs")
    for column in ("tags_epoch", "target_tags", "waits_for"):
        op.drop_column("jobs", column)
