"""Named calendars, and which of them a configuration uses as windows and as blackouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Calendar, CalendarUse, ConfigurationCalendar
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound, StateError
from pam_jobs.ids import new_uid
from pam_jobs.jobs import dispatch
from pam_jobs.records.calendar import parse_periods
from pam_jobs.rotation import schedules
from pam_jobs.rotation.timing import timings

__all__ = ["attach", "attached", "change", "check_leaves_time", "create", "remove", "require_calendar", "users_of"]

_LONGEST_NAME = 64
_LONGEST_PERIODS = 16_000  # characters


def require_calendar(session: Session, uid: str, *, lock: bool = False) -> Calendar:
    """Return the calendar.

    Raises:
        NotFound: there is none.
    """
    calendar = session.get(Calendar, uid, with_for_update=True if lock else None)
    if calendar is None:
        raise NotFound(f"there is no calendar {uid}", remedy="take the UID from `pam calendar list`")
    return calendar


def create(
    session: Session, clock: Clock, actor: Actor, *, name: str, tz: str, periods: Sequence[Mapping[str, Any]]
) -> Calendar:
    """Make a calendar; nothing goes by it until a configuration uses it.

    Raises:
        InvalidInput: the name is blank or too long; the periods are refused.
        AlreadyExists: there is one of that name.
    """
    _check_name(session, name)
    calendar = Calendar(
        uid=new_uid(),
        name=name,
        tz=tz,
        periods=_checked(periods, tz),
        created_at=clock.now(),
        updated_at=clock.now(),
    )
    session.add(calendar)
    session.flush()
    _tell(session, clock, actor, "pam_calendar_created", calendar)
    return calendar


def change(
    session: Session,
    clock: Clock,
    actor: Actor,
    uid: str,
    *,
    name: str | None = None,
    tz: str | None = None,
    periods: Sequence[Mapping[str, Any]] | None = None,
) -> Calendar:
    """Change a calendar; the next runs of every configuration that uses it follow. None leaves a member as it is.

    Raises:
        NotFound: no such calendar.
        InvalidInput: name or periods are refused, or a configuration would be left without any time.
        AlreadyExists: another one has that name.
    """
    calendar = require_calendar(session, uid, lock=True)
    if name is not None and name != calendar.name:
        _check_name(session, name)
        calendar.name = name
    if tz is not None or periods is not None:
        calendar.periods = _checked(calendar.periods if periods is None else periods, tz or calendar.tz)
        calendar.tz = tz or calendar.tz
    calendar.updated_at = clock.now()
    session.flush()
    for configuration_uid in users_of(session, uid):
        check_leaves_time(session, clock, configuration_uid)
        schedules.replan(session, clock, configuration_uid)
        dispatch.unhold(session, clock, configuration_uid)
    _tell(session, clock, actor, "pam_calendar_updated", calendar)
    return calendar


def remove(session: Session, clock: Clock, actor: Actor, uid: str) -> None:
    """Remove a calendar that no configuration uses.

    Raises:
        NotFound: no such calendar.
        StateError: a configuration uses it.
    """
    calendar = require_calendar(session, uid, lock=True)
    if users := users_of(session, uid):
        raise StateError(
            f"the calendar {calendar.name!r} is used by {len(users)} PAM configurations, {users[0]} among them",
            remedy=f"take it away with `pam config edit {users[0]} --no-calendars`, or name the ones to keep",
        )
    _tell(session, clock, actor, "pam_calendar_removed", calendar)
    session.delete(calendar)
    session.flush()


def users_of(session: Session, uid: str) -> Sequence[str]:
    """Return the configurations that use the calendar."""
    return session.scalars(
        select(ConfigurationCalendar.configuration_uid)
        .where(ConfigurationCalendar.calendar_uid == uid)
        .order_by(ConfigurationCalendar.configuration_uid)
    ).all()


def attached(session: Session, configuration_uids: Sequence[str]) -> dict[str, dict[CalendarUse, list[str]]]:
    """Return the calendars of each configuration by what they are used for."""
    found: dict[str, dict[CalendarUse, list[str]]] = {
        uid: {CalendarUse.WINDOW: [], CalendarUse.BLACKOUT: []} for uid in configuration_uids
    }
    rows = session.scalars(
        select(ConfigurationCalendar)
        .where(ConfigurationCalendar.configuration_uid.in_(configuration_uids))
        .order_by(ConfigurationCalendar.calendar_uid)
    )
    for row in rows:
        found[row.configuration_uid][CalendarUse(row.use)].append(row.calendar_uid)
    return found


def attach(session: Session, configuration_uid: str, use: CalendarUse, calendar_uids: Sequence[str]) -> None:
    """Let a configuration use these calendars, and no others, for one thing; the caller checks and replans.

    Raises:
        NotFound: no such calendar.
        InvalidInput: one of them is used for the other thing.
    """
    wanted = list(dict.fromkeys(calendar_uids))
    for uid in wanted:
        require_calendar(session, uid, lock=True)  # nobody removes or changes it meanwhile
    session.execute(
        delete(ConfigurationCalendar).where(
            ConfigurationCalendar.configuration_uid == configuration_uid, ConfigurationCalendar.use == use
        )
    )
    for uid in wanted:
        if session.get(ConfigurationCalendar, (configuration_uid, uid)) is not None:
            raise InvalidInput(
                f"the calendar {uid} is both a window and a blackout of the PAM configuration {configuration_uid}",
                remedy="use it for one of them",
            )
        session.add(ConfigurationCalendar(configuration_uid=configuration_uid, calendar_uid=uid, use=use))
    session.flush()


def check_leaves_time(session: Session, clock: Clock, configuration_uid: str) -> None:
    """Refuse calendars that would keep everything from ever running.

    Raises:
        InvalidInput: they leave no time in the coming 400 days.
    """
    session.flush()
    timing = timings(session, [configuration_uid])[configuration_uid]
    allowed, by = timing.first_allowed(clock.now())
    if allowed is None:
        raise InvalidInput(
            f"the calendars leave the PAM configuration {configuration_uid} no time to run in the next 400 days"
            f" (calendar {by})",
            remedy="shorten a blackout, or add a period to a window",
        )


def _checked(periods: Sequence[Mapping[str, Any]] | str, tz: str) -> str:
    source = parse_periods(periods, tz).source
    if len(source) > _LONGEST_PERIODS:
        raise InvalidInput(
            f"the calendar's periods have more than {_LONGEST_PERIODS} characters", remedy="split it into two calendars"
        )
    return source


def _check_name(session: Session, name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise InvalidInput(
            f"a calendar's name has 1 to {_LONGEST_NAME} characters", remedy="give it a short name that is not blank"
        )
    if session.scalar(select(Calendar.uid).where(Calendar.name == name)) is not None:
        raise AlreadyExists(f"there is a calendar {name!r} already", remedy="choose another name, or edit that one")


def _tell(session: Session, clock: Clock, actor: Actor, event: str, calendar: Calendar) -> None:
    record_event(session, clock, actor, event, calendar_uid=calendar.uid, calendar_name=calendar.name)
