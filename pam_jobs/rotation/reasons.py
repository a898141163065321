"""Why something does not run by itself, or not when its schedule plans it: told by what beat and the pauses go by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.clock import stamp
from pam_jobs.db.tables import Calendar, JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.rotation.preview import routes
from pam_jobs.rotation.schedules import MISSED, NO_ALLOWED_TIME

__all__ = ["calendar_names", "reasons"]

_CHUNK = 500


def reasons(session: Session, rows: Sequence[Schedule]) -> dict[str, list[str]]:
    """Return for each due row what stands against its running as planned, as sentences; often none."""
    found: dict[str, list[str]] = {}
    names = calendar_names(session)
    configurations = {row.record_uid: row for row in session.scalars(select(PamConfiguration))}
    routed = routes(session, rows)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        disabled = set(
            session.scalars(
                select(RotationSettings.record_uid).where(
                    RotationSettings.record_uid.in_([row.subject_uid for row in chunk if row.paused]),
                    RotationSettings.disabled.is_(True),
                )
            )
        )
        for row in chunk:
            uid = routed[row.uid][0] if row.uid in routed else None
            configuration = configurations.get(uid) if uid is not None else None
            found[row.uid] = list(_of(row, configuration, is_disabled=row.subject_uid in disabled, names=names))
    return found


def calendar_names(session: Session) -> dict[str, str]:
    """Return the name of every calendar."""
    return {row.uid: row.name for row in session.execute(select(Calendar.uid, Calendar.name))}


def _of(
    row: Schedule, configuration: PamConfiguration | None, *, is_disabled: bool, names: Mapping[str, str]
) -> Iterator[str]:
    if row.paused_at is not None:
        yield f"it is paused since {stamp(row.paused_at)}: resume it with `pam schedule resume {row.uid}`"
    if configuration is not None and configuration.schedules_paused_at is not None:
        since = stamp(configuration.schedules_paused_at)
        resume = f"pam schedule resume --config {configuration.record_uid}"
        yield f"every schedule of its PAM configuration is paused since {since}: resume them with `{resume}`"
    if row.paused and row.kind == JobKind.ROTATE.value:
        if is_disabled:
            enable = f"pam rotation edit --record {row.subject_uid} --enable"
            yield f"rotation of the record is disabled: enable it with `{enable}`"
        if configuration is not None and not configuration.rotation_enabled:
            on = f"pam config edit {configuration.record_uid} --rotation on"
            yield f"rotation is switched off in its PAM configuration: switch it on with `{on}`"
    if row.paused:
        return
    if row.blocked == NO_ALLOWED_TIME:
        yield "the calendars of its PAM configuration leave no time for it: look at `pam calendar list`"
    elif row.blocked == MISSED:
        yield f"the run of {_moment(row)} was left out: it came later than the grace of its PAM configuration"
    elif row.blocked is not None:
        yield f"the run of {_moment(row)} made no job ({row.blocked})"
    elif row.next_run_at is None:
        yield "its schedule has no run any more"
    if row.moved_by is not None and row.planned_at is not None and row.next_run_at is not None:
        name = names.get(row.moved_by, row.moved_by)
        yield f"planned for {stamp(row.planned_at)}, moved to {stamp(row.next_run_at)} by the calendar {name!r}"


def _moment(row: Schedule) -> str:
    return stamp(row.last_due_at) if row.last_due_at else "an unknown time"
