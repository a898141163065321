"""Every event the log may hold: its name, category and the sentence that tells of it.

Names and fields are those of the vendor's advanced reporting, so that existing SIEM content matches; what it has no
name for follows the same form. A field that an event lacks reads as a dash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["EVENTS", "EventType", "sentence"]

_FIELD = re.compile(r"\$\{([a-z_]+)\}")


@dataclass(frozen=True, kw_only=True)
class EventType:
    """One kind of event."""

    name: str
    category: str
    message: str  # ${field} stands for a field's value


# category → name → sentence
_CATALOGUE: dict[str, dict[str, str]] = {
    "login": {
        "login": "User ${username} signed in",
        "login_failure": "Sign-in of ${username} failed: ${result_code}",
        "account_locked": "Sign-in of ${username} is locked after repeated failures",
    },
    "security": {
        "create_user": "User ${username} created user ${to_username} with role ${role}",
        "change_master_password": "User ${username} changed the own passphrase",
        "api_token_created": "User ${username} created API token ${token_uid} with scopes ${scopes}",
        "api_token_removed": "User ${username} removed API token ${token_uid}",
    },
    "usage": {
        "record_add": "User ${username} added record UID ${record_uid}",
        "record_update": "User ${username} updated record UID ${record_uid}",
        "record_delete": "User ${username} deleted record UID ${record_uid}",
        "record_password_change": "User ${username} changed the password of record UID ${record_uid}",
        "open_record": "User ${username} opened record UID ${record_uid}",
        "file_attachment_uploaded": "User ${username} added file ${attachment_id} to record UID ${record_uid}",
        "file_attachment_downloaded": "User ${username} downloaded file ${attachment_id} of record UID ${record_uid}",
        "file_attachment_deleted": "User ${username} deleted file ${attachment_id} of record UID ${record_uid}",
        "folder_add": "User ${username} added folder UID ${folder_uid}",
        "folder_delete": "User ${username} deleted folder UID ${folder_uid}",
        "folder_add_record": "User ${username} put record UID ${record_uid} into folder UID ${folder_uid}",
    },
    "secrets_manager": {
        "app_created": "User ${username} created application ${app_uid}",
        "app_removed": "User ${username} removed application ${app_uid}",
        "app_client_added": "User ${username} added device ${device_name} to application ${app_uid}",
        "app_client_connected": "KSM device ${device_name} performed initial connect to application ${app_uid}",
        "app_client_access": "KSM device ${device_name} read secrets of application ${app_uid}",
        "app_client_access_denied": "KSM device ${device_name} was refused: ${result_code}",
        "app_client_expired": "Access of KSM device ${device_name} to application ${app_uid} expired",
        "app_client_removed": "User ${username} removed device ${device_name} from application ${app_uid}",
        "app_client_record_create": "KSM device ${device_name} created record UID ${record_uid}",
        "app_client_record_update": "KSM device ${device_name} updated record UID ${record_uid}",
        "app_client_record_delete": "KSM device ${device_name} deleted record UID ${record_uid}",
        "app_client_folder_create": "KSM device ${device_name} created folder UID ${folder_uid}",
        "app_client_folder_update": "KSM device ${device_name} updated folder UID ${folder_uid}",
        "app_client_folder_delete": "KSM device ${device_name} deleted folder UID ${folder_uid}",
        "app_client_folder_remove_record": (
            "KSM device ${device_name} took record UID ${record_uid} out of folder UID ${folder_uid}"
        ),
    },
    "share": {
        "app_folder_shared": "User ${username} shared folder UID ${shared_folder_uid} with KSM application ${app_uid}",
        "app_folder_removed": "User ${username} took folder UID ${shared_folder_uid} from KSM application ${app_uid}",
        "app_folder_share_changed": (
            "User ${username} changed the share of folder UID ${shared_folder_uid} with KSM application ${app_uid}"
        ),
    },
    "pam": {
        "pam_gateway_created": "User ${username} created gateway (UID: ${gateway_uid})",
        "pam_gateway_updated": "User ${username} changed gateway (UID: ${gateway_uid})",
        "pam_gateway_online": "Gateway is online (UID: ${gateway_uid})",
        "pam_gateway_offline": "Gateway is offline (UID: ${gateway_uid})",
        "pam_gateway_journal_failed": (
            "Gateway (UID: ${gateway_uid}) cannot write its journal: ${result_code}; rotations go on without it"
        ),
        "pam_gateway_journal_restored": "Gateway (UID: ${gateway_uid}) writes its journal again",
        "pam_gateway_drained": "User ${username} drained gateway (UID: ${gateway_uid}): it begins no jobs",
        "pam_gateway_resumed": "User ${username} let gateway (UID: ${gateway_uid}) begin jobs again",
        "pam_gateway_removed": "User ${username} removed gateway (UID: ${gateway_uid})",
        "pam_configuration_created": "User ${username} created PAM configuration UID ${record_uid}",
        "pam_configuration_updated": "User ${username} changed PAM configuration UID ${record_uid}",
        "pam_configuration_deleted": "User ${username} deleted PAM configuration UID ${record_uid}",
        "pam_schedule_paused": "User ${username} paused the schedule ${schedule_uid} (${job_kind}) of ${record_uid}",
        "pam_schedule_resumed": "User ${username} resumed the schedule ${schedule_uid} (${job_kind}) of ${record_uid}",
        "pam_schedules_paused": "User ${username} paused every schedule of PAM configuration UID ${configuration_uid}",
        "pam_schedules_resumed": "User ${username} resumed the schedules of PAM configuration UID ${configuration_uid}",
        "pam_run_moved": (
            "The run of schedule ${schedule_uid} that was planned for ${planned_at} began at ${due_at}: moved by"
            " calendar UID ${calendar_uid}"
        ),
        "pam_run_skipped": (
            "The run of schedule ${schedule_uid} of ${due_at} was left out: it came later than the grace of PAM"
            " configuration UID ${configuration_uid}"
        ),
        "pam_calendar_created": "User ${username} created calendar ${calendar_name} (UID: ${calendar_uid})",
        "pam_calendar_updated": "User ${username} changed calendar ${calendar_name} (UID: ${calendar_uid})",
        "pam_calendar_removed": "User ${username} removed calendar ${calendar_name} (UID: ${calendar_uid})",
        "pam_resource_linked": "User ${username} linked resource UID ${record_uid} to ${configuration_uid}",
        "pam_resource_updated": "User ${username} changed the limit of resource UID ${record_uid}",
        "pam_resource_removed": "User ${username} removed resource UID ${record_uid}",
        "pam_services_mapped": (
            "User ${username} changed what runs on resource UID ${resource_uid} as record UID ${record_uid}"
        ),
        "pam_services_unmapped": (
            "User ${username} removed the mapping of services on resource UID ${resource_uid} to record UID"
            " ${record_uid}"
        ),
        "pam_services_enabled": (
            "User ${username} lets rotations update services (user record UID ${record_uid}, resource UID"
            " ${resource_uid})"
        ),
        "pam_services_disabled": (
            "User ${username} keeps rotations from updating services (user record UID ${record_uid}, resource UID"
            " ${resource_uid})"
        ),
        "pam_services_updated": (
            "Job ${job_uid} updated ${count} services that run as record UID ${record_uid} on resource UID"
            " ${resource_uid}"
        ),
        "pam_services_failed": (
            "Job ${job_uid} could not update ${count} services that run as record UID ${record_uid} on resource UID"
            " ${resource_uid}: ${cause}"
        ),
        "record_rotation_created": "User ${username} set up rotation of record UID ${record_uid}",
        "record_rotation_updated": "User ${username} changed rotation of record UID ${record_uid}",
        "record_rotation_disabled": "User ${username} disabled rotation of record UID ${record_uid}",
        "record_rotation_removed": "User ${username} removed rotation of record UID ${record_uid}",
        "record_rotation_on_demand_ok": (
            "On-demand rotation of record UID ${record_uid} succeeded: ${result_code}, scripts: ${post_rotation_code}"
        ),
        "record_rotation_on_demand_fail": (
            "On-demand rotation of record UID ${record_uid} failed: ${result_code}, scripts: ${post_rotation_code}"
        ),
        "record_rotation_scheduled_ok": (
            "Scheduled rotation of record UID ${record_uid} succeeded: ${result_code}, scripts: ${post_rotation_code}"
        ),
        "record_rotation_scheduled_fail": (
            "Scheduled rotation of record UID ${record_uid} failed: ${result_code}, scripts: ${post_rotation_code}"
        ),
        "record_rotation_rolled_back": "Job ${job_uid} set the credential of record UID ${record_uid} back: ${cause}",
        "record_rotation_rollback_refused": (
            "The target refused to take back the former credential of record UID ${record_uid}: ${cause}"
        ),
        "pam_job_created": "Job ${job_uid} (${job_kind}) was created by ${username}",
        "pam_job_joined": "User ${username} asked for what job ${job_uid} (${job_kind}) does already",
        "pam_job_cancel_requested": "User ${username} asked to cancel job ${job_uid}",
        "pam_job_cancelled": "Job ${job_uid} (${job_kind}) was cancelled",
        "pam_job_released": "Job ${job_uid} (${job_kind}) went back to its queue: ${result_code}",
        "pam_job_lease_lost": "The lease of job ${job_uid} (${job_kind}) ran out on instance ${instance}",
        "pam_job_set_aside": (
            "Job ${job_uid} (${job_kind}) lost its lease ${attempt} times, last on instance ${instance}; it is set aside"
        ),
        "pam_job_resumed": "User ${username} let job ${job_uid} (${job_kind}), which was set aside, go on",
        "pam_jobs_held": (
            "${count} scheduled jobs of PAM configuration UID ${configuration_uid} wait until ${not_before} for calendar UID"
            " ${calendar_uid}"
        ),
        "pam_jobs_moved": (
            "${count} waiting jobs of PAM configuration UID ${configuration_uid} went to gateway (UID: ${gateway_uid})"
        ),
        "pam_job_expired": "Job ${job_uid} (${job_kind}) was not begun in its time: ${cause}",
        "pam_job_unknown": "Job ${job_uid} (${job_kind}) ended without knowing the target's state: ${cause}",
        "pam_job_completed": "Job ${job_uid} (${job_kind}) on record UID ${record_uid} succeeded: ${result_code}",
        "pam_job_failed": "Job ${job_uid} (${job_kind}) on record UID ${record_uid} failed: ${result_code}",
        "credential_staged": "Job ${job_uid} staged version ${version_seq} of record UID ${record_uid}",
        "credential_promoted": "Job ${job_uid} made version ${version_seq} of record UID ${record_uid} the current one",
        "credential_old_in_grace": (
            "The target accepts the value before version ${version_seq} of record UID ${record_uid} as well"
        ),
        "credential_abandoned": "Job ${job_uid} gave up version ${version_seq} of record UID ${record_uid}: ${cause}",
        "pam_target_set_aside": (
            "The administrator UID ${admin_uid} of resource UID ${resource_uid} was refused in job ${job_uid}"
            " (${cause}); the target is set aside"
        ),
        "pam_target_resumed": "Resource UID ${resource_uid} is tried again (${result_code})",
        "pam_admin_outdated": (
            "The administrator UID ${admin_uid} of resource UID ${resource_uid} logged in with version ${version_seq},"
            " and not with what its record holds"
        ),
        "credential_recovered": (
            "Job ${job_uid} found a value of record UID ${record_uid} that logs in (${source}): it is version"
            " ${version_seq} now, and the current one"
        ),
        "credential_epoch_lifted": (
            "Gateway (UID: ${gateway_uid}) knows a later attempt (${known_epoch}) on record UID ${record_uid}: the"
            " database was restored from an older backup"
        ),
        "pam_database_restored": (
            "The database was restored from an older backup (told by: ${cause}); ${count} credentials have to be seen"
            " to log in before they are rotated"
        ),
        "credential_drift_detected": (
            "The credential of record UID ${record_uid} is ${drift_state} on its target: ${cause}"
        ),
        "credential_drift_resolved": "The credential of record UID ${record_uid} logs in; it was ${drift_before}",
        "credential_drift_unchecked": (
            "It is not known whether the credential of record UID ${record_uid} logs in: ${cause}"
        ),
        "discovery_job_started": "Discovery ${job_uid} of PAM configuration UID ${configuration_uid} started",
        "discovery_job_completed": "Discovery ${job_uid} ended: ${result_code}",
        "discovery_job_removed": "User ${username} removed discovery ${job_uid}",
        "discovery_job_processed": "User ${username} processed the result of discovery ${job_uid}",
    },
    "audit": {
        "audit_sync_setup": "User ${username} set up audit sink ${sink_name} (${sink_kind})",
        "audit_sync_removed": "User ${username} removed audit sink ${sink_name}",
        "audit_sync_paused": "User ${username} paused audit sink ${sink_name}",
        "audit_sync_resumed": "User ${username} resumed audit sink ${sink_name}",
        "audit_sync_failed": "Delivery to audit sink ${sink_name} fails: ${result_code}",
        "audit_sync_restored": "Delivery to audit sink ${sink_name} works again",
        "audit_sync_test": "User ${username} tested audit sink ${sink_name}",
    },
}

EVENTS: Mapping[str, EventType] = {
    name: EventType(name=name, category=category, message=message)
    for category, events in _CATALOGUE.items()
    for name, message in events.items()
}


def sentence(event: str, values: Mapping[str, object]) -> str:
    """Return the event's sentence with its fields filled in; an unknown event is its own name."""
    kind = EVENTS.get(event)
    if kind is None:
        return event
    return _FIELD.sub(lambda match: str(values.get(match.group(1), "-")), kind.message)
