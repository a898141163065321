"""Every table of the control plane, grouped by what it is about."""

from pam_jobs.db.tables.access import ApiToken, User
from pam_jobs.db.tables.audit import AuditEvent, SiemSink
from pam_jobs.db.tables.jobs import (
    CredentialEpoch,
    DiscoveryResult,
    Job,
    JobKind,
    JobState,
    JobStep,
    LoginRefusal,
    OutboxMessage,
    StepState,
    TargetSetAside,
)
from pam_jobs.db.tables.pam import Gateway, GatewayInstance, PamConfiguration, ResourceLink, RotationSettings, Schedule
from pam_jobs.db.tables.vault import (
    Application,
    ApplicationShare,
    Client,
    CredentialVersion,
    FileBlob,
    Folder,
    FolderMember,
    StoredFile,
    StoredRecord,
    VersionKind,
    VersionState,
)

__all__ = [
    "ApiToken",
    "Application",
    "ApplicationShare",
    "AuditEvent",
    "Client",
    "CredentialEpoch",
    "CredentialVersion",
    "DiscoveryResult",
    "FileBlob",
    "Folder",
    "FolderMember",
    "Gateway",
    "GatewayInstance",
    "Job",
    "JobKind",
    "JobState",
    "JobStep",
    "LoginRefusal",
    "OutboxMessage",
    "PamConfiguration",
    "ResourceLink",
    "RotationSettings",
    "Schedule",
    "SiemSink",
    "StepState",
    "StoredFile",
    "StoredRecord",
    "TargetSetAside",
    "User",
    "VersionKind",
    "VersionState",
]
