"""One index less for each job that is made: only discoveries are looked for by their configuration.

Revision: 0013, after 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0008"
branch_labels = None
depends_on = None

_DISCOVERIES = sa.text("kind = 'discover'")


def upgrade() -> None:
    op.drop_index("ix_jobs_configuration_uid", "jobs")
    op.create_index(
        "ix_jobs_discoveries",
        "jobs",
        ["configuration_uid"],
        sqlite_where=_DISCOVERIES,
        postgresql_where=_DISCOVERIES,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_discoveries", "jobs")
    op.create_index("ix_jobs_configuration_uid", "jobs", ["configuration_uid"])
