"""The administrator's login on a target: its values in order of likelihood, each tried once.

What the record holds comes first. When the target refuses it, the record is read anew, for the administrator itself may
have been rotated meanwhile; then what the gateway's journal knows and the ledger has lost (a restored backup), and the
ledger's kept values. When none logs in, the job says so and the router
sets the target aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import structlog

from connectors.base import Connector, Credential, Deadline, Session, Target
from pam_jobs.errors import AdminRefused, AuthRejected, InvalidInput, Locked, VaultError
from pam_jobs.jobs import wire
from workers.doors import Administrators, Door
from workers.journal_lines import CURRENT, Kept
from workers.lockout import LockoutBudget
from workers.places import Places
from workers.ports import JobPort, VaultPort, VaultRecord
from workers.values import Value

__all__ = ["Administrator"]

_log = structlog.get_logger(__name__)
_LOCKED: Final = "admin_locked"


class Administrator:
    """One job's administrator, who is not the job's own account."""

    def __init__(
        self,
        record: VaultRecord,
        *,
        job: JobPort,
        vault: VaultPort,
        doors: Administrators,
        places: Places,
        claimed_at: float,
        journal: Callable[[], Sequence[Kept]] = tuple,
        machine_uid: str | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            record: the administrator's.
            job: the calls on the job.
            vault: reads the record anew.
            doors: what this process knows already.
            places: its logins' own, in its lockout budget.
            claimed_at: when the job was claimed, on the doors' clock; what was refused since is not tried again.
            journal: returns the administrator's values that this gateway set; a restored ledger may lack the newest.
            machine_uid: the machine that it administers, where that is not the job's resource.
        """
        self._record = record
        self._job = job
        self._vault = vault
        self._doors = doors
        self._places = places
        self._claimed_at = claimed_at
        self._journal = journal
        self._machine_uid = machine_uid
        self._live: tuple[Value, int | None] | None = None
        self._refused: list[Value] = []
        self._kept: list[tuple[int, Value]] | None = None
        self.finding: wire.AdminFinding | None = None

    def open(self, connector: Connector, target: Target, deadline: Deadline) -> Session:
        """Log in as the administrator.

        Raises:
            AdminRefused: none of its values logs in, or it is locked; ``finding`` says so to the router.
            LockoutBudget: no login of it may be refused any more.
            TargetBusy: others wait for the same login, or make it elsewhere and may be refused.
            NotApplied: anything else the target said.
        """
        with self._doors.turn(f"{target.host}:{target.port} {self._record.uid}") as door:
            if door.refused_at is not None and door.refused_at >= self._claimed_at:
                raise self._end(door, door.refused_cause)
            for value, seq in self._likeliest(door):
                if any(refused.covers(value) for refused in self._refused):
                    continue
                try:
                    session = self._try(connector, target, deadline, value, door)
                except LockoutBudget:
                    if self._refused:
                        break
                    raise LockoutBudget(
                        "the target refused the administrator too many logins lately",
                        remedy="correct the administrator's record, or wait until the lockout window has passed",
                    ) from None
                if session is not None:
                    self._found(door, value, seq)
                    return session
            raise self._end(door, AdminRefused.code)

    def _try(
        self, connector: Connector, target: Target, deadline: Deadline, value: Value, door: Door
    ) -> Session | None:
        try:
            return self._places.enter(connector, target, self._credential(value), deadline)
        except AuthRejected:
            door.worked_at = None
            self._refused.append(value)
            return None
        except Locked:
            raise self._end(door, _LOCKED) from None

    def _likeliest(self, door: Door) -> Iterator[tuple[Value, int | None]]:
        """Yield the values to try, with their numbers where they come from the ledger."""
        if self._live is not None:
            yield self._live
        if door.kept is not None and door.kept[0] == self._record.revision:
            yield from ((value, seq) for seq, value in self._kept_values() if door.kept and seq == door.kept[1])
        own = Value.of_record(self._record.record)
        if self._record.record.login is None or own.is_empty:
            raise InvalidInput("the admin's record has no login or no credential", remedy="complete the admin's record")
        yield own, None
        latest = self._vault.fetch([self._record.uid]).get(self._record.uid)
        if latest is not None:
            self._record = latest
            yield Value.of_record(latest.record), None
        yield from ((value, None) for value in self._journal_values())
        yield from ((value, seq) for seq, value in self._kept_values())

    def _journal_values(self) -> Iterator[Value]:
        """Yield what this gateway gave the administrator, up to the value proven last, and the ledger does not know."""
        known = [value for _, value in self._kept_values()]
        for each in self._journal():
            with suppress(VaultError):
                value = Value.open(each.ciphertext, self._record.key)
                if not any(other.covers(value) for other in known):
                    _log.warning("admin_of_journal_tried", admin=self._record.uid)
                    yield value
            if each.state == CURRENT:
                break

    def _kept_values(self) -> list[tuple[int, Value]]:
        """Return the ledger's values: one that an attempt left undecided first, then the newest."""
        if self._kept is None:
            rows = sorted(
                self._job.admin_versions(self._machine_uid),
                key=lambda row: (row.state not in {"staged", "applying"}, -row.seq),
            )
            self._kept = []
            for row in rows:
                with suppress(VaultError):  # by a key of before: it cannot be tried
                    value = Value.open(row.ciphertext, self._record.key, row.kind)
                    if not value.is_empty:
                        self._kept.append((row.seq, value))
        return self._kept

    def _credential(self, value: Value) -> Credential:
        record = self._record.record
        return Credential(
            login=record.login or "",
            password=value.password,
            private_key=value.private_key,
            distinguished_name=record.field("text", "distinguishedName"),
            database=record.field("text", "connectDatabase"),
        )

    def _found(self, door: Door, value: Value, seq: int | None) -> None:
        self._live = value, seq
        door.worked_at, door.refused_at = self._doors.monotonic(), None
        is_outdated = seq is not None and not Value.of_record(self._record.record).covers(value)
        door.kept = (self._record.revision, seq) if is_outdated and seq is not None else None
        if is_outdated and self.finding is None:
            _log.warning("admin_outdated", admin=self._record.uid, version=seq)
            self.finding = wire.AdminFinding(
                verdict=wire.AdminVerdict.OUTDATED, version_seq=seq, machine_uid=self._machine_uid
            )

    def _end(self, door: Door, cause: str) -> AdminRefused:
        """Note that the administrator was refused, and return the error to raise."""
        if door.refused_at is None or door.refused_at < self._claimed_at:
            door.refused_at = self._doors.monotonic()
        door.worked_at, door.refused_cause = None, cause
        self.finding = wire.AdminFinding(verdict=wire.AdminVerdict.REFUSED, cause=cause, machine_uid=self._machine_uid)
        remedy = "correct the administrator's record; the target is set aside until then"
        if cause == _LOCKED:
            return AdminRefused(
                "the target says that the administrator is locked",
                remedy="unlock it there, then let the target be tried again with `pam action resume-target`",
            )
        return AdminRefused("the target refused the administrator, and none of its older values logs in", remedy=remedy)
