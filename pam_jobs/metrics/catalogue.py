"""Every metric: its name, what it says and its labels. Dashboard and alert rules in ``deploy/`` may name these alone.

Labels are identifiers and codes of bounded number: gateways, sinks, kinds of jobs, outcomes and causes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str  # of a counter with its _total
    help: str
    labels: tuple[str, ...] = ()

    @property
    def is_counter(self) -> bool:
        """Say whether it only grows; else it is a gauge."""
        return self.name.endswith("_total")


_GATEWAY = ("gateway", "name")
_SINK = ("sink", "name", "kind")

METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(name="pam_build_info", help="Always 1; the label says the router's version.", labels=("version",)),
        Metric(name="pam_gateway_instances_online", help="Instances heard of lately.", labels=_GATEWAY),
        Metric(name="pam_gateway_jobs_waiting", help="Jobs that wait for the gateway.", labels=_GATEWAY),
        Metric(
            name="pam_gateway_oldest_job_seconds",
            help="Age of the oldest job that waits for the gateway; 0 when none does.",
            labels=_GATEWAY,
        ),
        Metric(name="pam_gateway_jobs_running", help="Jobs that an instance holds the lease of.", labels=_GATEWAY),
        Metric(
            name="pam_gateway_jobs_unknown",
            help="Jobs whose last attempt ended without knowing the target's state; tried again by themselves.",
            labels=_GATEWAY,
        ),
        Metric(
            name="pam_gateway_job_limit",
            help="Jobs at a time that the gateway may work on; 0: no limit.",
            labels=_GATEWAY,
        ),
        Metric(name="pam_gateway_drained", help="1 while the gateway is to begin no jobs.", labels=_GATEWAY),
        Metric(
            name="pam_gateway_limited",
            help="1 while jobs wait for a place that a limit of gateway, configuration or target leaves.",
            labels=_GATEWAY,
        ),
        Metric(
            name="pam_credentials_drift",
            help="Credentials that are rotated, by whether their targets took them when they were seen last.",
            labels=("state",),
        ),
        Metric(name="pam_schedules_due", help="Schedules whose time has come and that no beat has taken yet."),
        Metric(name="pam_schedule_lag_seconds", help="For how long the longest due schedule has waited for a beat."),
        Metric(name="pam_outbox_lag_seconds", help="Age of the oldest message that is not published yet."),
        Metric(
            name="pam_lease_overdue_seconds",
            help="For how long the lease that ended first has waited for a control process to take it back.",
        ),
        Metric(
            name="pam_credentials_unresolved",
            help="Credentials with a value of which it is not decided yet whether the target took it.",
        ),
        Metric(name="pam_credentials_unresolved_oldest_seconds", help="Age of the oldest such value."),
        Metric(name="pam_targets_set_aside", help="Targets that refused their administrator and wait for an operator."),
        Metric(
            name="pam_audit_unsealed", help="Committed audit events that have no place in the log yet; 10000 is most."
        ),
        Metric(name="pam_audit_sealing_lag_seconds", help="Age of the oldest of them."),
        Metric(name="pam_sink_lag_events", help="Audit events that the receiver does not have yet.", labels=_SINK),
        Metric(name="pam_sink_lag_seconds", help="Age of the oldest of them.", labels=_SINK),
        Metric(name="pam_sink_failures", help="Failed deliveries since the last that worked.", labels=_SINK),
        Metric(name="pam_sink_paused", help="1 while an operator has paused the receiver.", labels=_SINK),
        Metric(name="pam_audit_events_total", help="Audit events that the counters have taken in."),
        Metric(name="pam_jobs_created_total", help="Jobs that were created.", labels=("kind",)),
        Metric(
            name="pam_job_outcomes_total",
            help="How attempts ended. 'unknown' is tried again; every other outcome ends its job.",
            labels=("kind", "outcome", "cause"),
        ),
        Metric(name="pam_lease_losses_total", help="Leases that ran out while a job was held.", labels=("gateway",)),
    )
}
