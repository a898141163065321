"""Runs the revisions over the connection that pam_jobs.db.migrate opened."""

from __future__ import annotations

from alembic import context

import pam_jobs.db.tables  # noqa: F401 - fills the metadata
from pam_jobs.db.base import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by copying it
    transactional_ddl=True,  # on SQLite too, since we say BEGIN ourselves
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
