"""What an operator may ask for, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobKind
from pam_jobs.errors import InvalidInput, PamJobsError, StateError
from pam_jobs.ids import check_uid
from pam_jobs.jobs.states import LOOKING
from pam_jobs.jobs.submission import ON_DEMAND, submit
from pam_jobs.rotation import readiness
from pam_jobs.rotation.readiness import Readiness
from pam_jobs.vault import records

__all__ = ["REQUESTED", "Requested", "check_parameters", "request", "request_many"]

REQUESTED: Final = (JobKind.ROTATE, JobKind.VERIFY, JobKind.RECONCILE, JobKind.PLAN)
"""Kinds of jobs on one user record."""

_MAX_PARAMETERS = 4096
_SWITCHES: Final = frozenset({"check_old", "reconcile", "update_services"})


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What came of asking for a job on one record of several."""

    record_uid: str
    job: Job | None = None
    is_new: bool = False
    refusal: PamJobsError | None = None  # why there is no job


def request(
    session: Session,
    clock: Clock,
    actor: Actor,
    *,
    user_uid: str,
    kind: JobKind,
    record_uid: str,
    parameters: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Submit a job on a record of the user's, or join the open one.

    Returns:
        The job, and whether it was created.

    Raises:
        InvalidInput: the record cannot be rotated as it is set up; the first reason and its remedy.
        NotFound: there is no such record of the user's.
        Conflict: the idempotency key was used for a different request.
    """
    [found] = request_many(
        session,
        clock,
        actor,
        user_uid=user_uid,
        kind=kind,
        record_uids=[record_uid],
        parameters=parameters,
        idempotency_key=idempotency_key,
    )
    if found.job is None:
        raise found.refusal or StateError(f"no job was made for record {record_uid}")
    return found.job, found.is_new


def request_many(
    session: Session,
    clock: Clock,
    actor: Actor,
    *,
    user_uid: str,
    kind: JobKind,
    record_uids: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> list[Requested]:
    """Submit a job on each of the records; one that is refused keeps none of the others from theirs.

    Args:
        session: the caller's transaction; publish the jobs' uids after its commit.
        clock: the time of submission.
        actor: who asks.
        user_uid: whose records they are.
        kind: one of ``REQUESTED``.
        record_uids: user records; the answer has their order.
        parameters: of every job.
        idempotency_key: with each record's UID it makes the key of that job.

    Raises:
        InvalidInput: kind or parameters are wrong, which is true of all.
    """
    if kind not in REQUESTED:
        raise InvalidInput(f"a job of kind {kind} is not made here", remedy="use " + ", ".join(REQUESTED))
    for uid in record_uids:
        check_uid(uid, "record UID")
    wanted = check_parameters(parameters, _SWITCHES)
    verdicts = readiness.assess(session, list(dict.fromkeys(record_uids)))
    answers = []
    for uid in record_uids:
        key = idempotency_key if idempotency_key is None or len(record_uids) == 1 else f"{idempotency_key}.{uid}"
        try:
            records.require_member(session, user_uid, uid)
            job, is_new = _submit(session, clock, actor, kind, verdicts[uid], wanted, key)
        except PamJobsError as error:
            answers.append(Requested(record_uid=uid, refusal=error))
        else:
            answers.append(Requested(record_uid=uid, job=job, is_new=is_new))
    return answers


def _submit(
    session: Session,
    clock: Clock,
    actor: Actor,
    kind: JobKind,
    verdict: Readiness,
    parameters: dict[str, Any],
    idempotency_key: str | None,
) -> tuple[Job, bool]:
    for blocker in verdict.blockers:
        if kind not in LOOKING or blocker.code not in readiness.OPERATORS_CHOICE:
            raise InvalidInput(blocker.what, remedy=blocker.remedy)
    if verdict.setup is None or verdict.gateway_uid is None:
        raise InvalidInput(
            f"rotation is not set up for record {verdict.record_uid}",
            remedy=f"set it up with `pam rotation edit --record {verdict.record_uid} --config UID`",
        )
    return submit(
        session,
        clock,
        kind=kind,
        record_uid=verdict.record_uid,
        configuration_uid=verdict.setup.configuration_uid,
        gateway_uid=verdict.gateway_uid,
        trigger=ON_DEMAND,
        requested_by=actor,
        parameters=parameters,
        idempotency_key=idempotency_key,
    )


def check_parameters(
    parameters: Mapping[str, Any] | None, switches: frozenset[str], uids: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the parameters when a job knows them; everybody who sees the job sees them, so nothing else gets in.

    Args:
        parameters: as they were sent.
        switches: names of those that are true or false.
        uids: names of those that are lists of UIDs.

    Raises:
        InvalidInput: they are not.
    """
    wanted = dict(parameters or {})
    if len(json.dumps(wanted)) > _MAX_PARAMETERS:
        raise InvalidInput(f"the parameters are larger than {_MAX_PARAMETERS} bytes", remedy="send fewer")
    for name, value in wanted.items():
        if name in switches:
            if not isinstance(value, bool):
                raise InvalidInput(f"the parameter {name} is neither true nor false", remedy="send true or false")
        elif name in uids:
            if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
                raise InvalidInput(f"the parameter {name} is no list of UIDs", remedy="send a list of record UIDs")
            for part in value:
                check_uid(part, "record UID")
        else:
            raise InvalidInput(
                "a job of this kind has no such parameter", remedy=f"use {', '.join(sorted(switches | uids))}"
            )
    return wanted
