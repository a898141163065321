"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON: sa.types.TypeEngine[Any] = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_KEY: sa.types.TypeEngine[Any] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# The tables as they were then: a later revision changes the database, never this list.
_schema = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

sa.Table(
    "audit_events",
    _schema,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("uid", sa.String(22), nullable=False),
    sa.Column("position", sa.BigInteger()),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("username", sa.String(254), nullable=False),
    sa.Column("remote_address", sa.String(64)),
    sa.Column("client_version", sa.String(64)),
    sa.Column("fields", _JSON, nullable=False),
    sa.UniqueConstraint("position"),
    sa.UniqueConstraint("uid"),
    sa.Index("ix_audit_events_created_at", "created_at"),
    sa.Index("ix_audit_events_event", "event"),
)

sa.Table(
    "credential_epochs",
    _schema,
    sa.Column("record_uid", sa.String(22), primary_key=True),
    sa.Column("epoch", sa.Integer(), nullable=False),
    sa.Column("job_uid", sa.String(22)),
    sa.Column("lease_until", _TIME),
)

sa.Table(
    "folders",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("parent_uid", sa.String(22), sa.ForeignKey("folders.uid")),
    sa.Column("root_uid", sa.String(22), nullable=False),
    sa.Column("data", sa.LargeBinary(), nullable=False),
    sa.Column("key_by_root", sa.LargeBinary()),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("revision", sa.Integer(), nullable=False),
    sa.Index("ix_folders_parent_uid", "parent_uid"),
    sa.Index("ix_folders_root_uid", "root_uid"),
)

sa.Table(
    "login_refusals",
    _schema,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("record_uid", sa.String(22), nullable=False),
    sa.Column("gateway_uid", sa.String(22), nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Index("ix_login_refusals_at", "at"),
    sa.Index("ix_login_refusals_record_uid", "record_uid"),
)

sa.Table(
    "schedules",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject_uid", sa.String(22), nullable=False),
    sa.Column("spec", sa.Text(), nullable=False),
    sa.Column("anchor_at", _TIME, nullable=False),
    sa.Column("next_run_at", _TIME),
    sa.Column("last_due_at", _TIME),
    sa.Column("paused", sa.Boolean(), nullable=False),
    sa.Column("blocked", sa.String(64)),
    sa.Index("ix_schedules_due", "next_run_at", "uid"),
    sa.Index("ix_schedules_subject_uid", "subject_uid"),
)

sa.Table(
    "siem_sinks",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("settings", _JSON, nullable=False),
    sa.Column("secret", sa.LargeBinary()),
    sa.Column("cursor", sa.BigInteger(), nullable=False),
    sa.Column("paused", sa.Boolean(), nullable=False),
    sa.Column("failures", sa.Integer(), nullable=False),
    sa.Column("next_try_at", _TIME),
    sa.Column("last_error", sa.Text()),
    sa.Column("last_delivered_at", _TIME),
    sa.Column("created_at", _TIME, nullable=False),
    sa.UniqueConstraint("name"),
)

sa.Table(
    "users",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("username", sa.String(254), nullable=False),
    sa.Column("public_key", sa.LargeBinary(), nullable=False),
    sa.Column("kdf_salt", sa.LargeBinary(), nullable=False),
    sa.Column("kdf_iterations", sa.Integer(), nullable=False),
    sa.Column("proof_hash", sa.LargeBinary(), nullable=False),
    sa.Column("wrapped_private_key", sa.LargeBinary(), nullable=False),
    sa.Column("role", sa.String(32), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("disabled_at", _TIME),
    sa.Column("failed_sign_ins", sa.Integer(), nullable=False),
    sa.Column("locked_until", _TIME),
    sa.UniqueConstraint("username"),
)

sa.Table(
    "api_tokens",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("user_uid", sa.String(22), sa.ForeignKey("users.uid"), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("token_hash", sa.LargeBinary(), nullable=False),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME, nullable=False),
    sa.Column("last_used_at", _TIME),
    sa.Column("revoked_at", _TIME),
    sa.UniqueConstraint("token_hash"),
    sa.Index("ix_api_tokens_user_uid", "user_uid"),
)

sa.Table(
    "applications",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("owner_uid", sa.String(22), sa.ForeignKey("users.uid"), nullable=False),
    sa.Column("data", sa.LargeBinary(), nullable=False),
    sa.Column("key_by_owner", sa.LargeBinary(), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Index("ix_applications_owner_uid", "owner_uid"),
)

sa.Table(
    "folder_members",
    _schema,
    sa.Column("folder_uid", sa.String(22), sa.ForeignKey("folders.uid"), primary_key=True),
    sa.Column("user_uid", sa.String(22), sa.ForeignKey("users.uid"), primary_key=True),
    sa.Column("key_by_user", sa.LargeBinary(), nullable=False),
    sa.Column("can_edit", sa.Boolean(), nullable=False),
)

sa.Table(
    "records",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("folder_uid", sa.String(22), sa.ForeignKey("folders.uid"), nullable=False),
    sa.Column("version", sa.Integer(), nullable=False),
    sa.Column("key_by_folder", sa.LargeBinary(), nullable=False),
    sa.Column("key_by_owner", sa.LargeBinary(), nullable=False),
    sa.Column("owner_uid", sa.String(22), sa.ForeignKey("users.uid"), nullable=False),
    sa.Column("data", sa.LargeBinary(), nullable=False),
    sa.Column("revision", sa.Integer(), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
    sa.Index("ix_records_folder_uid", "folder_uid"),
    sa.Index("ix_records_owner_uid", "owner_uid"),
)

sa.Table(
    "application_shares",
    _schema,
    sa.Column("application_uid", sa.String(22), sa.ForeignKey("applications.uid"), primary_key=True),
    sa.Column("folder_uid", sa.String(22), sa.ForeignKey("folders.uid"), primary_key=True),
    sa.Column("key_by_application", sa.LargeBinary(), nullable=False),
    sa.Column("can_edit", sa.Boolean(), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
)

sa.Table(
    "credential_versions",
    _schema,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("record_uid", sa.String(22), sa.ForeignKey("records.uid", ondelete="RESTRICT"), nullable=False),
    sa.Column("seq", sa.Integer(), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("epoch", sa.Integer(), nullable=False),
    sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("base_revision", sa.Integer()),
    sa.Column("job_uid", sa.String(22)),
    sa.Column("staged_by", sa.String(120), nullable=False),
    sa.Column("staged_at", _TIME, nullable=False),
    sa.Column("applying_at", _TIME),
    sa.Column("decided_at", _TIME),
    sa.Column("evidence", _JSON, nullable=False),
    sa.UniqueConstraint("record_uid", "seq"),
    sa.Index(
        "uq_versions_current",
        "record_uid",
        unique=True,
        sqlite_where=sa.text("state = 'current'"),
        postgresql_where=sa.text("state = 'current'"),
    ),
    sa.Index(
        "uq_versions_unresolved",
        "record_uid",
        unique=True,
        sqlite_where=sa.text("state IN ('staged', 'applying')"),
        postgresql_where=sa.text("state IN ('staged', 'applying')"),
    ),
)

sa.Table(
    "files",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("record_uid", sa.String(22), sa.ForeignKey("records.uid"), nullable=False),
    sa.Column("key_by_record", sa.LargeBinary(), nullable=False),
    sa.Column("key_by_owner", sa.LargeBinary()),
    sa.Column("data", sa.LargeBinary(), nullable=False),
    sa.Column("size", sa.Integer(), nullable=False),
    sa.Column("added_by", sa.String(120), nullable=False),
    sa.Column("upload_token_hash", sa.LargeBinary()),
    sa.Column("download_token", sa.String(64), nullable=False),
    sa.Column("uploaded_at", _TIME),
    sa.Column("created_at", _TIME, nullable=False),
    sa.UniqueConstraint("download_token"),
    sa.Index("ix_files_record_uid", "record_uid"),
)

sa.Table(
    "gateways",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("application_uid", sa.String(22), sa.ForeignKey("applications.uid"), nullable=False),
    sa.Column("max_instances", sa.Integer(), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("removed_at", _TIME),
    sa.Index("ix_gateways_application_uid", "application_uid"),
)

sa.Table(
    "clients",
    _schema,
    sa.Column("client_id", sa.String(120), primary_key=True),
    sa.Column("application_uid", sa.String(22), sa.ForeignKey("applications.uid"), nullable=False),
    sa.Column("gateway_uid", sa.String(22), sa.ForeignKey("gateways.uid")),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("encrypted_app_key", sa.LargeBinary(), nullable=False),
    sa.Column("public_key", sa.LargeBinary()),
    sa.Column("lock_ip", sa.Boolean(), nullable=False),
    sa.Column("locked_ip", sa.String(64)),
    sa.Column("first_access_expires_at", _TIME, nullable=False),
    sa.Column("access_expires_at", _TIME),
    sa.Column("first_access_at", _TIME),
    sa.Column("last_access_at", _TIME),
    sa.Column("removed_at", _TIME),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Index("ix_clients_application_uid", "application_uid"),
    sa.Index("ix_clients_gateway_uid", "gateway_uid"),
)

sa.Table(
    "file_blobs",
    _schema,
    sa.Column("file_uid", sa.String(22), sa.ForeignKey("files.uid"), primary_key=True),
    sa.Column("content", sa.LargeBinary(), nullable=False),
)

sa.Table(
    "gateway_instances",
    _schema,
    sa.Column("gateway_uid", sa.String(22), sa.ForeignKey("gateways.uid"), primary_key=True),
    sa.Column("instance", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("details", _JSON, nullable=False),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("last_seen_at", _TIME, nullable=False),
    sa.Column("stopped_at", _TIME),
    sa.Column("running", sa.Integer(), nullable=False),
    sa.Index("ix_gateway_instances_last_seen_at", "last_seen_at"),
)

sa.Table(
    "jobs",
    _schema,
    sa.Column("uid", sa.String(22), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("trigger", sa.String(16), nullable=False),
    sa.Column("gateway_uid", sa.String(22), sa.ForeignKey("gateways.uid"), nullable=False),
    sa.Column("configuration_uid", sa.String(22), nullable=False),
    sa.Column("record_uid", sa.String(22)),
    sa.Column("parameters", _JSON, nullable=False),
    sa.Column("schedule_uid", sa.String(22)),
    sa.Column("due_at", _TIME),
    sa.Column("requested_by", sa.String(254), nullable=False),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("queued_at", _TIME),
    sa.Column("not_before", _TIME),
    sa.Column("expires_at", _TIME),
    sa.Column("epoch", sa.Integer(), nullable=False),
    sa.Column("lease_instance", sa.String(64)),
    sa.Column("lease_until", _TIME),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("started_at", _TIME),
    sa.Column("finished_at", _TIME),
    sa.Column("cancel_requested_at", _TIME),
    sa.Column("status", sa.String(32)),
    sa.Column("post_rotation_status", sa.String(32)),
    sa.Column("effect", sa.String(16)),
    sa.Column("cause", sa.String(64)),
    sa.Column("timings", _JSON, nullable=False),
    sa.Column("detail", sa.LargeBinary()),
    sa.UniqueConstraint("idempotency_key"),
    sa.UniqueConstraint("schedule_uid", "due_at"),
    sa.Index("ix_jobs_configuration_uid", "configuration_uid"),
    sa.Index("ix_jobs_created_at", "created_at"),
    sa.Index("ix_jobs_gateway_state", "gateway_uid", "state"),
    sa.Index("ix_jobs_record", "record_uid", "created_at"),
    sa.Index("ix_jobs_state", "state", "queued_at"),
    sa.Index(
        "uq_jobs_waiting",
        "record_uid",
        "kind",
        unique=True,
        sqlite_where=sa.text("trigger = 'scheduled' AND state IN ('created', 'queued')"),
        postgresql_where=sa.text("trigger = 'scheduled' AND state IN ('created', 'queued')"),
    ),
)

sa.Table(
    "pam_configurations",
    _schema,
    sa.Column("record_uid", sa.String(22), sa.ForeignKey("records.uid"), primary_key=True),
    sa.Column("gateway_uid", sa.String(22), sa.ForeignKey("gateways.uid"), nullable=False),
    sa.Column("environment", sa.String(16), nullable=False),
    sa.Column("default_schedule", sa.Text(), nullable=False),
    sa.Column("rotation_enabled", sa.Boolean(), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Index("ix_pam_configurations_gateway_uid", "gateway_uid"),
)

sa.Table(
    "discovery_results",
    _schema,
    sa.Column("job_uid", sa.String(22), sa.ForeignKey("jobs.uid"), primary_key=True),
    sa.Column("content", sa.LargeBinary(), nullable=False),
    sa.Column("counts", _JSON, nullable=False),
    sa.Column("stored_at", _TIME, nullable=False),
    sa.Column("processed_at", _TIME),
)

sa.Table(
    "job_steps",
    _schema,
    sa.Column("job_uid", sa.String(22), sa.ForeignKey("jobs.uid"), primary_key=True),
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column("position", sa.Integer(), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("place", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.Integer(), nullable=False),
    sa.Column("exit_code", sa.Integer()),
    sa.Column("cause", sa.String(64)),
    sa.Column("output", sa.LargeBinary()),
    sa.Column("started_at", _TIME),
    sa.Column("finished_at", _TIME),
)

sa.Table(
    "outbox",
    _schema,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("job_uid", sa.String(22), sa.ForeignKey("jobs.uid"), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Index("ix_outbox_job_uid", "job_uid"),
)

sa.Table(
    "resource_links",
    _schema,
    sa.Column("resource_uid", sa.String(22), sa.ForeignKey("records.uid"), primary_key=True),
    sa.Column("configuration_uid", sa.String(22), sa.ForeignKey("pam_configurations.record_uid"), nullable=False),
    sa.Column("admin_uid", sa.String(22), sa.ForeignKey("records.uid")),
    sa.Index("ix_resource_links_admin_uid", "admin_uid"),
    sa.Index("ix_resource_links_configuration_uid", "configuration_uid"),
)

sa.Table(
    "rotation_settings",
    _schema,
    sa.Column("record_uid", sa.String(22), sa.ForeignKey("records.uid"), primary_key=True),
    sa.Column("configuration_uid", sa.String(22), sa.ForeignKey("pam_configurations.record_uid"), nullable=False),
    sa.Column("resource_uid", sa.String(22), sa.ForeignKey("resource_links.resource_uid")),
    sa.Column("profile", sa.String(16), nullable=False),
    sa.Column("schedule", sa.Text(), nullable=False),
    sa.Column("inherits_schedule", sa.Boolean(), nullable=False),
    sa.Column("complexity", sa.LargeBinary()),
    sa.Column("disabled", sa.Boolean(), nullable=False),
    sa.Column("revision", sa.Integer(), nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
    sa.Column("last_rotated_at", _TIME),
    sa.Column("last_probe", _JSON),
    sa.Index("ix_rotation_settings_configuration_uid", "configuration_uid"),
    sa.Index("ix_rotation_settings_resource_uid", "resource_uid"),
)


def upgrade() -> None:
    _schema.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    _schema.drop_all(op.get_bind(), checkfirst=False)
