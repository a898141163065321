"""What a gateway gives back to a database that was restored from an older backup: its epochs, and a value that logs in."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialEpoch, Job, RotationSettings, StoredRecord
from pam_jobs.errors import InvalidInput
from pam_jobs.jobs import candidates, lease, outcome, wire
from pam_jobs.jobs.fence import Holder, hold, subject_of
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.trail import job_event
from pam_jobs.vault import ledger

__all__ = ["lift", "recover"]


def lift(session: Session, clock: Clock, actor: Actor, holder: Holder, known: int) -> int:
    """Take an epoch above one that the gateway worked with before, and return it.

    Said again after the answer got lost, it is refused like any late writer, for it cannot be told from one: the lease
    runs out, and the next claim begins above the epoch that was taken here.

    Args:
        session: the caller's transaction.
        clock: tells whether the lease lasts.
        actor: the gateway, for the audit log.
        holder: of the lease, with the epoch of its claim.
        known: the highest epoch of the credential in the gateway's journal.

    Raises:
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job = hold(session, clock, holder)
    epoch = max(holder.epoch, known) + 1
    changed(
        session,
        update(CredentialEpoch)
        .where(CredentialEpoch.record_uid == subject_of(job), CredentialEpoch.epoch == holder.epoch)
        .values(epoch=epoch),
    )
    changed(session, update(Job).where(Job.uid == job.uid, Job.epoch == holder.epoch).values(epoch=epoch))
    changed(
        session,
        update(RotationSettings)
        .where(RotationSettings.record_uid == job.record_uid, RotationSettings.prove_since.is_(None))
        .values(prove_since=clock.now()),
    )
    job_event(session, clock, actor, "credential_epoch_lifted", job, known_epoch=known, epoch=epoch)
    return epoch


def recover(session: Session, clock: Clock, actor: Actor, holder: Holder, found: wire.Recovery) -> wire.RecoveryAnswer:
    """Make a value that the ledger does not hold as its current one, and that was seen to log in, the current one.

    The record is written with it. Said again after the answer got lost, it answers the same.

    Raises:
        VaultConflict: the record has another revision; fetch it, merge again, say it again.
        InvalidInput: the evidence shows no login, or holds more than codes.
        StateError: a client's own transaction is open on the record.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    outcome.check_codes(found.evidence, "evidence")
    if found.evidence.get("login") != ledger.ACCEPTED:
        raise InvalidInput("the evidence does not show that the value logs in", remedy="probe before recovering")
    job = hold(session, clock, holder)
    record_uid = candidates.record_of(job)
    told = {**found.evidence, "gateway": job.gateway_uid, "job": job.uid, "at": clock.now().isoformat()}
    row, is_new = ledger.recovered(
        session,
        clock,
        record_uid,
        found.ciphertext,
        epoch=holder.epoch,
        staged_by=job.gateway_uid,
        job_uid=job.uid,
        evidence=told,
    )
    if is_new:
        revision = candidates.write_record(
            session, clock, actor, job, row.seq, found.record_data, found.record_revision
        )
        source = str(found.evidence.get("source", ""))
        job_event(
            session, clock, actor, "credential_recovered", job, version_seq=row.seq, epoch=row.epoch, source=source
        )
    else:
        revision = session.scalars(select(StoredRecord.revision).where(StoredRecord.uid == record_uid)).one()
    return wire.RecoveryAnswer(revision=revision, seq=row.seq, versions=lease.kept_versions(session, record_uid))
