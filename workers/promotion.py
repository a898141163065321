"""Making a proven value the current one, in the ledger and in the record, without overwriting anybody's edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from pam_jobs.crypto import aes
from pam_jobs.errors import Conflict, Effect, PamJobsError, VaultConflict, VaultUnavailable
from pam_jobs.jobs import wire
from pam_jobs.secret import SecretValue
from workers.outcome import Outcome
from workers.ports import VaultRecord
from workers.restored import CAUSE
from workers.router import MaybeDone
from workers.values import Value
from workers.work import Work

__all__ = ["promote", "promoted", "record_found"]

_log = structlog.get_logger(__name__)
_TRIES: Final = 6
_NOTHING: Final[Mapping[str, str | SecretValue]] = {}


def promote(
    work: Work,
    seq: int,
    value: Value,
    evidence: Mapping[str, Any],
    report: wire.Report | None = None,
    *,
    kept: bytes | None = None,
    fields: Mapping[str, str | SecretValue] | None = None,
) -> VaultRecord:
    """Promote the version and write the record merged into its latest revision.

    Args:
        work: the job.
        seq: the version.
        value: the version's value, proven to log in.
        evidence: codes only.
        report: ends the job in the same transaction; None when steps follow.
        kept: where only a part of the version was set: what logs in, sealed; it becomes current in its place.
        fields: custom fields, by label, that come with the change.

    Returns:
        The record as it is now.

    Raises:
        LeaseLost, EpochConflict: a newer attempt decides.
        VaultUnavailable: it is not known whether it was done; the next attempt finds out.
        VaultConflict: the record changed each time.
    """

    def say(sealed: bytes, revision: int) -> int:
        return work.job.promote(seq, evidence, sealed, revision, report, kept).revision

    return _written(work, value, say, fields or {})


def promoted(seq: int, *, is_blind: bool, in_grace: bool, login: str) -> Outcome:
    """Return the outcome of a rotation whose new value is the current one.

    Args:
        seq: the version.
        is_blind: no value that was known did log in before.
        in_grace: the target accepts the old value as well.
        login: ``accepted``, or ``confirmed`` where nobody can log in from here.
    """
    if login == wire.CONFIRMED:
        return Outcome(
            status=wire.Status.OK,
            effect=Effect.APPLIED,
            cause=wire.CONFIRMED,
            message="the service confirmed the new value, which is the current one; no login could be tried",
        )
    told = "; no value that was known did, after a restore from an older backup" if is_blind else ""
    told += "; the target accepts the old one as well, for as long as its rules say" if in_grace else ""
    return Outcome(
        status=wire.Status.OK,
        effect=Effect.APPLIED,
        cause=CAUSE if is_blind else wire.OLD_IN_GRACE if in_grace else None,
        message=f"the new value logs in and is the current one{told}",
        probe={"verdict": "accepted", "version_seq": seq},
    )


def record_found(work: Work, ciphertext: bytes, value: Value, evidence: Mapping[str, Any]) -> Work:
    """Make a value that was seen to log in the current one, in a ledger that does not hold it as such.

    Args:
        work: the job.
        ciphertext: the value, by the record key.
        value: the same in clear.
        evidence: codes only.

    Returns:
        The job with record and ledger as they are now.

    Raises:
        LeaseLost, EpochConflict: a newer attempt decides.
        VaultUnavailable: it is not known whether it was done; saying it again is harmless.
        VaultConflict: the record changed each time.
    """
    answers: list[wire.RecoveryAnswer] = []

    def say(sealed: bytes, revision: int) -> int:
        answers.append(work.job.recover(ciphertext, evidence, sealed, revision))
        return answers[-1].revision

    work.reach("before:recover")
    user = _written(work, value, say)
    work.reach("after:recover")
    if not answers:
        raise VaultUnavailable("it is not known how the ledger stands now")
    _log.info("value_recovered", seq=answers[-1].seq, source=evidence.get("source"))
    return work.with_ledger(user, answers[-1].versions)


def _written(
    work: Work, value: Value, say: Callable[[bytes, int], int], fields: Mapping[str, str | SecretValue] = _NOTHING
) -> VaultRecord:
    """Merge the value into the record's latest revision until the router takes it."""
    latest = work.user
    refused: PamJobsError | None = None
    for _ in range(_TRIES):
        merged = latest.record.with_credential(password=value.password, private_key=value.private_key)
        for label, given in fields.items():
            is_secret = isinstance(given, SecretValue)
            text = given.reveal() if isinstance(given, SecretValue) else given
            merged = merged.set_field("secret" if is_secret else "text", text, label, custom=True)
        sealed = aes.encrypt(merged.to_json().encode(), latest.key)
        try:
            revision = say(sealed, latest.revision)
        except (VaultConflict, Conflict) as error:
            refused = error
        except MaybeDone as error:
            # The first answer was lost. Ledger and record move in one transaction, so the record tells.
            now = _again(work)
            if now.revision > latest.revision and Value.of_record(now.record).covers(value):
                _log.info("promotion_found_done")
                return now
            if not isinstance(error.refusal, (VaultConflict, Conflict)):
                raise error.refusal from error
            refused = error.refusal
        else:
            return VaultRecord(uid=latest.uid, record=merged, key=latest.key, revision=revision, files=latest.files)
        _log.info("record_changed_meanwhile")
        latest = _again(work)
    raise refused or VaultConflict()


def _again(work: Work) -> VaultRecord:
    found = work.ports.vault.fetch([work.user.uid])
    if work.user.uid not in found:
        raise VaultConflict(
            "the record can no longer be read", remedy="share its folder with the gateway's application again"
        )
    return found[work.user.uid]
