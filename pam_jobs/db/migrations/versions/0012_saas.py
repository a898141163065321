"""The SaaS configuration of a record whose password a plugin changes.

Revision: 0012, after 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rotation_settings", sa.Column("saas_uid", sa.String(22)))
    op.create_index("ix_rotation_settings_saas_uid", "rotation_settings", ["saas_uid"])


def downgrade() -> None:
    op.drop_index("ix_rotation_settings_saas_uid", "rotation_settings")
    op.drop_column("rotation_settings", "saas_uid")
