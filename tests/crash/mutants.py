"""Deliberate breaks of the protocol, applied inside a process of a test: the suite must fail with each of them."""

from __future__ import annotations

from collections.abc import Callable


def stage_after_change() -> None:
    """The target hears of the value before the ledger does, as in engines that store what they have set."""
    from workers.parts import Parts, new_value
    from workers.rotation import Rotation
    from workers.work import Version

    whole = Rotation._change

    def change(self: Rotation, session, parts: Parts, limits) -> None:
        if self._version is not None:
            whole(self, session, parts, limits)
            return
        work = self._work
        value = new_value(parts, work.user.record, work.complexity, limits)
        work.reach("before:change")
        session.change(work.account, value.candidate(work.account), work.job.fence)
        work.reach("after:change")
        work.reach("before:stage")
        sealed = value.seal(work.user.key)
        seq = work.job.stage(sealed)
        work.reach("after:stage")
        self._version = Version(seq=seq, state="staged", value=value, ciphertext=sealed)
        self._fence()

    Rotation._change = change  # type: ignore[method-assign]


def promote_without_probe() -> None:
    """What was sent is believed to have arrived."""
    from connectors.base import Verdict, VerdictState
    from workers.rotation import Rotation

    def login(self: Rotation, value, session=None) -> Verdict:
        self._work.reach("before:probe")
        self._work.reach("after:probe")
        return Verdict(state=VerdictState.ACCEPTED)

    Rotation._login = login  # type: ignore[method-assign]


def drop_epoch_check() -> None:
    """Whoever once held a lease may write for ever: neither the fence nor the ledger compares numbers."""
    from pam_jobs.jobs import fence
    from pam_jobs.vault import ledger_rows

    newest, locked_row = ledger_rows.newest, ledger_rows.locked_row
    ledger_rows.newest = lambda *about: (found[0], 0) if (found := newest(*about)) else None
    ledger_rows.locked_row = lambda session, record_uid, seq, _epoch: locked_row(session, record_uid, seq, 2**31)

    def hold(session, clock, holder):
        return prepared.row(session, _HELD, {"job_uid": holder.job_uid})  # noqa: F821 - runs as fence.hold

    fence.hold.__code__ = hold.__code__  # other modules hold the function itself


def purge_unresolved() -> None:
    """A clean-up takes what nobody has decided for a second, as retention jobs do that do not know the ledger."""
    from datetime import timedelta

    from sqlalchemy import delete

    from pam_jobs.clock import SystemClock
    from pam_jobs.db.tables import CredentialVersion
    from pam_jobs.jobs import control
    from pam_jobs.vault.ledger import UNRESOLVED

    reconcile = control.reconcile_once

    def purging(database, *about, **options):
        with database.transaction() as session:
            old = CredentialVersion.staged_at < SystemClock().now() - timedelta(seconds=1)
            session.execute(delete(CredentialVersion).where(CredentialVersion.state.in_(UNRESOLVED), old))
        return reconcile(database, *about, **options)

    control.reconcile_once = purging


def retry_with_a_new_value() -> None:
    """An attempt that finds an undecided value gives it up and makes another one."""
    from pam_jobs.vault import ledger_rows
    from workers.work import Work

    Work.unresolved = property(lambda _self: None)  # type: ignore[assignment]
    unresolved = ledger_rows.unresolved

    def given_up(session, record_uid):
        if (row := unresolved(session, record_uid)) is not None:
            row.state = "abandoned"
            session.flush()

    ledger_rows.unresolved = given_up


MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (stage_after_change, promote_without_probe, drop_epoch_check, purge_unresolved, retry_with_a_new_value)
}


def apply(name: str) -> None:
    """Break the protocol in this process."""
    MUTANTS[name]()
