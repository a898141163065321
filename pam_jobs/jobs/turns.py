"""Whose turn it is at a gateway: what a claim, a freed place and an explanation all go by.

The broker's message is a hint that something waits. Which job it becomes is decided here, from the rows, when a worker
has a place for it: a message in a queue could not be overtaken, moved or held back any more, and one that is delivered
twice or in another order would change what comes first.

1. On demand goes before scheduled, and that before verifications in the background.
2. Of equal priority, the PAM configuration with the fewest jobs at work goes first; among those with equally few the one
   whose last turn was longest ago. So a flood of one of them leaves the others their turns.
3. Within a configuration a job whose wait for something else is over goes first, then the one that has waited longest.
4. A job that has waited longer than anybody's patience gets every fourth turn, whatever its priority: else a flood on
   demand would starve what is scheduled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, exists, func, literal_column, select, update
from sqlalchemy.orm import Session

from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    ConfigurationCalendar,
    Gateway,
    GatewayTurn,
    Job,
    PamConfiguration,
    Priority,
    ResourceLink,
    RotationSettings,
)
from pam_jobs.jobs import held
from pam_jobs.jobs.sql import IgnoringInsert, run

__all__ = [
    "IN_LINE",
    "Desk",
    "Lane",
    "Place",
    "before",
    "find",
    "lock",
    "look",
    "mark_short",
    "note_turn",
    "place_of",
]

_LOOKED_AT: Final = 50
"""Jobs of a line that a claim looks at, where those for a target at its limit are passed over."""

_MOST_PASSED_OVER: Final = 3
"""So many jobs begin in a row before one that has waited too long."""

_JOBS: Final = table_of(Job)
_GATEWAYS: Final = table_of(Gateway)
_TURNS: Final = table_of(GatewayTurn)
_CONFIGURATIONS: Final = table_of(PamConfiguration)
_LINKS: Final = table_of(ResourceLink)
_SETTINGS: Final = table_of(RotationSettings)
_USES: Final = table_of(ConfigurationCalendar)
_GATEWAY: Final[Any] = bindparam("gateway")
_NOW: Final = bindparam("now", type_=_JOBS.c.created_at.type)
_LATE: Final = bindparam("late", type_=_JOBS.c.created_at.type)

# the indexes' own conditions, to the letter: else SQLite would not use them
IN_LINE: Final[ColumnElement[bool]] = literal_column("jobs.state IN ('created', 'queued')")
"""The job waits."""
_IN_HAND: Final[ColumnElement[bool]] = literal_column("jobs.state IN ('leased', 'running')")


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What waits of one configuration at its gateway."""

    configuration_uid: str
    job_limit: int | None
    running: int  # jobs of it that are at work, wherever
    has_calendars: bool
    heads: tuple[str | None, ...]  # the next job of each priority
    is_late: tuple[bool, ...]  # whether it has waited too long
    beyond: tuple[str | None, ...] = (None, None, None)  # a job behind those looked at, where none of these may begin

    @property
    def is_full(self) -> bool:
        """Say whether its own limit keeps its jobs waiting."""
        return self.job_limit is not None and self.running >= self.job_limit


@dataclass(frozen=True, kw_only=True)
class Place:
    """A gateway, and whether it may begin jobs."""

    gateway_uid: str
    name: str
    job_limit: int | None
    drained_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A gateway, and all that waits for it."""

    place: Place
    turn: int
    served: Mapping[str, int]
    passed_over: int
    is_short: bool
    running: int = 0  # jobs at work on it
    lanes: tuple[Lane, ...] = ()
    saturated: Mapping[str, int] | None = None  # resources that are at their limit, and the limit
    has_held: bool = False  # whether jobs are set apart

    @property
    def is_full(self) -> bool:
        """Say whether the gateway's own limit keeps everything waiting."""
        return self.place.job_limit is not None and self.running >= self.place.job_limit

    def next(self) -> tuple[str, Lane, Priority] | None:
        """Return the job whose turn it is, with its lane and priority; None when nothing may begin."""
        if self.is_full or self.place.drained_at is not None:
            return None
        open_lanes = [lane for lane in self.lanes if not lane.is_full]
        waiting = [priority for priority in Priority if any(lane.heads[priority] for lane in open_lanes)]
        if not waiting:
            return None
        chosen = waiting[0]
        late = self._late(open_lanes, waiting)
        if late and self.passed_over >= _MOST_PASSED_OVER:
            chosen = late[0]
        with_head = [lane for lane in open_lanes if lane.heads[chosen]]
        if late and self.passed_over >= _MOST_PASSED_OVER:
            with_head = [lane for lane in with_head if lane.is_late[chosen]]
        lane = min(with_head, key=lambda each: (each.running, self.served.get(each.configuration_uid, 0)))
        return lane.heads[chosen] or "", lane, chosen

    def after(self, lane: Lane, priority: Priority) -> Desk | None:
        """Return what is noted of a turn that was given; None when there is nothing to note: nobody else waited."""
        others = [each for each in self.lanes if each is not lane and any(each.heads)]
        waiting = [each for each in Priority if any(lane.heads[each] for lane in self.lanes)]
        late = [each for each in self._late(self.lanes, waiting) if each != priority]
        passed_over = self.passed_over + 1 if late and priority < late[0] else 0
        if not others and passed_over == self.passed_over:
            return None
        kept = {each.configuration_uid for each in self.lanes}
        served = {uid: turn for uid, turn in self.served.items() if uid in kept}
        served[lane.configuration_uid] = self.turn + 1
        return replace(self, turn=self.turn + 1, served=served, passed_over=passed_over)

    @staticmethod
    def _late(lanes: Sequence[Lane], waiting: Sequence[Priority]) -> list[Priority]:
        """Return the priorities behind the first one, of which a job has waited too long."""
        return [each for each in waiting[1:] if any(lane.heads[each] and lane.is_late[each] for lane in lanes)]


def _line(priority: Priority) -> Any:
    """Return the jobs of a configuration that are in its own line."""
    return (
        select(_JOBS.c.uid)
        .where(
            IN_LINE,
            _JOBS.c.gateway_uid == _GATEWAY,
            _JOBS.c.configuration_uid == _CONFIGURATIONS.c.record_uid,
            _JOBS.c.priority == literal_column(str(int(priority))),
            held.NOT_HELD,
        )
        .order_by(*held.ORDER)
        .correlate(_CONFIGURATIONS)
    )


def _first(line: Any, but: Callable[[Any], ColumnElement[bool]] | None) -> Any:
    """Return the first job of a line, or the first of its beginning that a condition does not pass over."""
    if but is None:
        return line.limit(1).scalar_subquery()
    named = [column.label(f"by_{column.name}") for column in held.ORDER]
    beginning = line.add_columns(_JOBS.c.record_uid, *named).limit(_LOOKED_AT).subquery()
    order = [beginning.c[column.name] for column in named]
    return select(beginning.c.uid).where(but(beginning)).order_by(*order).limit(1).scalar_subquery()


def _lanes(*, but: Callable[[Any], ColumnElement[bool]] | None = None) -> Any:
    running = select(func.count()).where(
        _IN_HAND, _JOBS.c.configuration_uid == _CONFIGURATIONS.c.record_uid, _JOBS.c.lease_until > _NOW
    )
    here = select(func.count()).where(_JOBS.c.gateway_uid == _GATEWAY, _IN_HAND, _JOBS.c.lease_until > _NOW)
    limited = exists().where(
        _LINKS.c.configuration_uid == _CONFIGURATIONS.c.record_uid,
        literal_column("resource_links.job_limit IS NOT NULL"),
    )
    columns: list[Any] = [
        _CONFIGURATIONS.c.record_uid,
        _CONFIGURATIONS.c.job_limit,
        (_CONFIGURATIONS.c.target_limit.is_not(None) | limited).label("has_target_limits"),
        running.correlate(_CONFIGURATIONS).scalar_subquery().label("running"),
        here.correlate(None).scalar_subquery().label("here"),
        exists().where(_USES.c.configuration_uid == _CONFIGURATIONS.c.record_uid).label("has_calendars"),
    ]
    for priority in Priority:
        line, never_held = _line(priority), _JOBS.c.not_before.is_(None)
        back, first = line.where(_JOBS.c.not_before <= _NOW), line.where(never_held)
        late = first.where(_JOBS.c.created_at <= _LATE)
        head = func.coalesce(_first(back, but), _first(first, but))
        columns += [head.label(f"head{priority}"), _first(late, but).label(f"late{priority}")]
        if but is not None:
            beyond = [each.offset(_LOOKED_AT).limit(1).scalar_subquery() for each in (back, first)]
            columns.append(func.coalesce(*beyond).label(f"beyond{priority}"))
    return select(*columns).where(_CONFIGURATIONS.c.gateway_uid == _GATEWAY)


def _not_on_saturated(jobs: Any) -> ColumnElement[bool]:
    saturated = _SETTINGS.c.resource_uid.in_(bindparam("saturated", expanding=True))
    return ~exists().where(_SETTINGS.c.record_uid == jobs.c.record_uid, saturated)


_LANES: Final = _lanes()  # these are made once: they run with every claim
_LANES_BUT: Final = _lanes(but=_not_on_saturated)
_GATEWAY_COLUMNS: Final = (_GATEWAYS.c.uid, _GATEWAYS.c.name, _GATEWAYS.c.job_limit, _GATEWAYS.c.drained_at)
_TURN_COLUMNS: Final = (_TURNS.c.turn, _TURNS.c.served, _TURNS.c.passed_over, _TURNS.c.is_short)
_PLACE: Final = select(*_GATEWAY_COLUMNS).where(_GATEWAYS.c.uid == _GATEWAY)
_DESK: Final = (
    select(*_GATEWAY_COLUMNS, *_TURN_COLUMNS)
    .join(_TURNS, _TURNS.c.gateway_uid == _GATEWAYS.c.uid)
    .where(_GATEWAYS.c.uid == _GATEWAY)
)
_ASK: Final = update(_TURNS).where(_TURNS.c.gateway_uid == _GATEWAY).values(asked_at=_NOW).returning(*_TURN_COLUMNS)
_FIRST: Final = IgnoringInsert(_TURNS)
_LIMIT: Final = func.coalesce(_LINKS.c.job_limit, _CONFIGURATIONS.c.target_limit)
_BEGUN: Final = (  # OFFSET 0 has PostgreSQL begin with these few, and not with all records of each limited target
    select(_JOBS.c.record_uid)
    .join(_CONFIGURATIONS, _CONFIGURATIONS.c.record_uid == _JOBS.c.configuration_uid)
    .where(_CONFIGURATIONS.c.gateway_uid == _GATEWAY, _IN_HAND, _JOBS.c.lease_until > _NOW)
    .offset(0)
    .subquery()
)
_SATURATED: Final = (
    select(_LINKS.c.resource_uid, _LIMIT.label("job_limit"))
    .select_from(_BEGUN)
    .join(_SETTINGS, _SETTINGS.c.record_uid == _BEGUN.c.record_uid)
    .join(_LINKS, _LINKS.c.resource_uid == _SETTINGS.c.resource_uid)
    .join(_CONFIGURATIONS, _CONFIGURATIONS.c.record_uid == _LINKS.c.configuration_uid)
    .where(_LIMIT.is_not(None))
    .group_by(_LINKS.c.resource_uid, _LIMIT)
    .having(func.count() >= _LIMIT)
)
_NOTE: Final = (
    update(_TURNS)
    .where(_TURNS.c.gateway_uid == _GATEWAY)
    .values(turn=bindparam("at"), served=bindparam("whom"), passed_over=bindparam("over"))
)
_SHORT: Final = (
    update(_TURNS)
    .where(_TURNS.c.gateway_uid == _GATEWAY, _TURNS.c.is_short.is_distinct_from(bindparam("short")))
    .values(is_short=bindparam("short"))
)


def lock(session: Session, place: Place, now: datetime) -> Desk:
    """Return the gateway, whose next claim waits until this transaction ends, and note that it asked.

    Taken before any row of a credential or a job. Without it two claims at once would both see the last place free.
    """
    asked = {"gateway": place.gateway_uid, "now": now}
    row = prepared.row(session, _ASK, asked)
    if row is None:
        _FIRST.run(session, {"gateway_uid": place.gateway_uid, "served": {}})
        [row] = prepared.rows(session, _ASK, asked)
    return _desk(place, row)


def place_of(session: Session, gateway_uid: str) -> Place | None:
    """Return what a gateway may do; None when there is none."""
    row = session.execute(_PLACE, {"gateway": gateway_uid}).one_or_none()
    return None if row is None else _place(row)


def find(session: Session, gateway_uid: str) -> Desk | None:
    """Return the gateway as it is, to be told of and not to be claimed at; None when there is none."""
    row = session.execute(_DESK, {"gateway": gateway_uid}).one_or_none()
    return None if row is None else _desk(_place(row), row)


def look(session: Session, desk: Desk, now: datetime, patience: timedelta) -> Desk:
    """Return the gateway with what waits for it and what its limits leave.

    Args:
        session: after ``lock``, so that what it sees is what stands.
        desk: the gateway.
        now: leases and waits are compared with.
        patience: a job that has waited longer is late.
    """
    asked: dict[str, Any] = {"gateway": desk.place.gateway_uid, "now": now, "late": now - patience}
    rows: Sequence[Any] = prepared.rows(session, _LANES, asked)
    full: Mapping[str, int] = {}
    if any(row.has_target_limits for row in rows):
        full = {row.resource_uid: row.job_limit for row in session.execute(_SATURATED, asked)}
    if full:
        rows = session.execute(_LANES_BUT, asked | {"saturated": list(full)}).all()
    lanes, has_held = tuple(_lane(row) for row in rows), False
    if desk.is_short:
        has_held, lanes = _with_held(session, desk, lanes, full, asked)
    running = rows[0].here if rows else 0
    return replace(desk, running=running, lanes=lanes, saturated=full, has_held=has_held)


def _with_held(
    session: Session, desk: Desk, lanes: tuple[Lane, ...], full: Mapping[str, int], asked: Mapping[str, Any]
) -> tuple[bool, tuple[Lane, ...]]:
    """Say whether jobs are set apart, and return the lanes with those of them that go before their heads."""
    others = [uid for lane in lanes for uid in lane.heads if uid]
    has_held, first, known = held.heads(session, asked["now"], desk.place.gateway_uid, full, others)
    return has_held, tuple(_merged(lane, first, known, asked["late"]) if first else lane for lane in lanes)


def _merged(
    lane: Lane, first: Mapping[tuple[str, Priority], held.Head], known: Mapping[str, held.Head], late: datetime
) -> Lane:
    heads, is_late = list(lane.heads), list(lane.is_late)
    for priority in Priority:
        apart = first.get((lane.configuration_uid, priority))
        if apart is None:
            continue
        own = known.get(heads[priority] or "")
        if own is None or apart.place < own.place:
            heads[priority] = apart.uid
        is_late[priority] = is_late[priority] or (apart.not_before is None and apart.created_at <= late)
    return replace(lane, heads=tuple(heads), is_late=tuple(is_late))


def before(session: Session, job: Job, now: datetime) -> dict[Priority, int]:
    """Return how many jobs of its configuration go before one that waits, by priority."""
    ready = _JOBS.c.not_before.is_(None) | (_JOBS.c.not_before <= now)
    if job.not_before is None:
        earlier: ColumnElement[bool] = (_JOBS.c.not_before <= now) | (_JOBS.c.created_at < job.created_at)
    else:
        earlier = _JOBS.c.not_before < job.not_before
    rows = session.execute(
        select(_JOBS.c.priority, func.count())
        .where(
            IN_LINE,
            _JOBS.c.gateway_uid == job.gateway_uid,
            _JOBS.c.configuration_uid == job.configuration_uid,
            _JOBS.c.uid != job.uid,
            ready,
            (_JOBS.c.priority < job.priority) | ((_JOBS.c.priority == job.priority) & earlier),
        )
        .group_by(_JOBS.c.priority)
        .order_by(_JOBS.c.priority)
    )
    return {Priority(priority): count for priority, count in rows}


def note_turn(session: Session, desk: Desk, lane: Lane, priority: Priority) -> None:
    """Take down whose turn it was, where others waited."""
    noted = desk.after(lane, priority)
    if noted is not None:
        values = {"at": noted.turn, "whom": dict(noted.served), "over": noted.passed_over}
        run(session, _NOTE, {"gateway": desk.place.gateway_uid, **values})


def mark_short(session: Session, desk: Desk, *, is_short: bool) -> None:
    """Note whether a limit has used up the message of a job that waits on, or jobs are set apart."""
    if desk.is_short != is_short:
        run(session, _SHORT, {"gateway": desk.place.gateway_uid, "short": is_short})


def _place(row: Any) -> Place:
    return Place(gateway_uid=row.uid, name=row.name, job_limit=row.job_limit, drained_at=row.drained_at)


def _desk(place: Place, row: Any) -> Desk:
    return Desk(place=place, turn=row.turn, served=row.served, passed_over=row.passed_over, is_short=row.is_short)


def _lane(row: Any) -> Lane:
    heads = (row.head0, row.head1, row.head2)
    return Lane(
        configuration_uid=row.record_uid,
        job_limit=row.job_limit,
        running=row.running,
        has_calendars=row.has_calendars,
        heads=heads,
        is_late=(row.late0 is not None, row.late1 is not None, row.late2 is not None),
        beyond=tuple(None if heads[each] else getattr(row, f"beyond{each}", None) for each in Priority),
    )
