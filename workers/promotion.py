"""Making a proven value the current one, in the ledger and in the record, without overwriting anybody's edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog

from pam_jobs.crypto import aes
from pam_jobs.errors import Conflict, PamJobsError, VaultConflict
from pam_jobs.jobs import wire
from workers.ports import VaultRecord
from workers.router import MaybeDone
from workers.values import Value
from workers.work import Work

__all__ = ["promote"]

_log = structlog.get_logger(__name__)
_TRIES: Final = 6


def promote(
    work: Work, seq: int, value: Value, evidence: Mapping[str, Any], report: wire.Report | None = None
) -> VaultRecord:
    """Promote the version and write the record merged into its latest revision.

    Args:
        work: the job.
        seq: the version.
        value: the version's value, proven to log in.
        evidence: codes only.
        report: ends the job in the same transaction; None when steps follow.

    Returns:
        The record as it is now.

    Raises:
        LeaseLost, EpochConflict: a newer attempt decides.
        VaultUnavailable: it is not known whether it was done; the next attempt finds out.
        VaultConflict: the record changed each time.
    """
    latest = work.user
    refused: PamJobsError | None = None
    for _ in range(_TRIES):
        merged = latest.record.with_credential(password=value.password, private_key=value.private_key)
        sealed = aes.encrypt(merged.to_json().encode(), latest.key)
        try:
            answer = work.job.promote(seq, evidence, sealed, latest.revision, report)
        except (VaultConflict, Conflict) as error:
            refused = error
        except MaybeDone as error:
            # The first answer was lost. Ledger and record move in one transaction, so the record tells.
            now = _again(work)
            if now.revision > latest.revision and Value.of_record(now.record).covers(value):
                _log.info("promotion_found_done", seq=seq)
                return now
            if not isinstance(error.refusal, (VaultConflict, Conflict)):
                raise error.refusal from error
            refused = error.refusal
        else:
            return VaultRecord(
                uid=latest.uid, record=merged, key=latest.key, revision=answer.revision, files=latest.files
            )
        _log.info("record_changed_meanwhile", seq=seq)
        latest = _again(work)
    raise refused or VaultConflict()


def _again(work: Work) -> VaultRecord:
    found = work.ports.vault.fetch([work.user.uid])
    if work.user.uid not in found:
        raise VaultConflict(
            "the record can no longer be read", remedy="share its folder with the gateway's application again"
        )
    return found[work.user.uid]
