"""Jobs for operators: submit, look, follow, explain, cancel; and the proof of a record's credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import AppContext, Context
from pam_jobs.api.problems import Problem, problem_of
from pam_jobs.db.tables import JobKind, JobState
from pam_jobs.jobs import cancel as cancellation
from pam_jobs.jobs import explain as explanation
from pam_jobs.jobs import flower_events, poisoned, proof, requests, view
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.states import FINAL
from pam_jobs.jobs.view import JobFilter, JobList, JobView
from pam_jobs.vault import records

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["jobs"])

_Reader = Annotated[Principal, Depends(require("jobs_read"))]
_Rotator = Annotated[Principal, Depends(require("rotate"))]

_MOST_JOBS = 1000  # of one request
_TOGETHER = 50  # in one transaction, so that others' short ones come between
_MaxAge = Annotated[
    float | None, Query(gt=0, le=36_500, description="a login longer ago than so many days does not count")
]

_POLL_SECONDS = 0.5
_SLOWEST_POLL_SECONDS = 2.0
_KEEP_ALIVE_SECONDS = 15.0
_STREAM_SECONDS = 3600.0  # a client that wants more connects again


class NewJob(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind
    record_uid: str = Field(max_length=64)
    parameters: dict[str, Any] | None = None


class NewJobs(BaseModel):
    """The same job on several records."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind
    record_uids: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=_MOST_JOBS)
    parameters: dict[str, Any] | None = None


class SubmittedJob(BaseModel):
    """What came of it for one record: a job, or the problem that kept it from one."""

    record_uid: str
    job: JobView | None
    is_new: bool
    problem: Problem | None


class SubmittedJobs(BaseModel):
    """What came of it for each record, in the order asked for."""

    jobs: list[SubmittedJob]


class Explanation(BaseModel):
    """Why a job is where it is."""

    state: str
    reasons: list[str]


@router.post("/jobs", status_code=202, responses={200: {"model": JobView, "description": "joined an open job"}})
def submit_job(
    body: NewJob,
    principal: _Rotator,
    context: Context,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> JobView:
    """Submit a job; 202 when it is new, 200 when an open one of the same record and kind does it already."""
    with context.database.transaction() as session:
        job, is_new = requests.request(
            session,
            context.clock,
            principal.actor(),
            user_uid=principal.user_uid,
            kind=body.kind,
            record_uid=body.record_uid,
            parameters=body.parameters,
            idempotency_key=idempotency_key,
        )
        shown = view.views(session, [job])[0]
    if shown.state not in FINAL:
        context.after_commit([shown.uid])  # also for one that was joined: its back-off may have ended by this
    if not is_new:
        response.status_code = 200
    return shown


@router.post("/jobs/batch")
def submit_jobs(
    body: NewJobs,
    principal: _Rotator,
    context: Context,
    idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
) -> SubmittedJobs:
    """Submit the same job on up to 1000 records; a record that is refused does not keep the others from theirs."""
    submitted: list[SubmittedJob] = []
    for start in range(0, len(body.record_uids), _TOGETHER):
        with context.database.transaction() as session:
            part = requests.request_many(
                session,
                context.clock,
                principal.actor(),
                user_uid=principal.user_uid,
                kind=body.kind,
                record_uids=body.record_uids[start : start + _TOGETHER],
                parameters=body.parameters,
                idempotency_key=idempotency_key,
            )
            shown = {job.uid: job for job in view.views(session, [entry.job for entry in part if entry.job])}
            submitted += [_submitted(entry, shown) for entry in part]
        context.after_commit([uid for uid, job in shown.items() if job.state not in FINAL])
    return SubmittedJobs(jobs=submitted)


def _submitted(entry: requests.Requested, shown: dict[str, JobView]) -> SubmittedJob:
    return SubmittedJob(
        record_uid=entry.record_uid,
        job=shown[entry.job.uid] if entry.job is not None else None,
        is_new=entry.is_new,
        problem=problem_of(entry.refusal) if entry.refusal is not None else None,
    )


@router.get("/jobs")
def list_jobs(
    _principal: _Reader,
    context: Context,
    record_uid: str | None = None,
    configuration_uid: str | None = None,
    gateway_uid: str | None = None,
    state: JobState | None = None,
    kind: JobKind | None = None,
    limit: Annotated[int, Query(ge=1, le=view.MAX_PAGE)] = 100,
    before: str | None = None,
) -> JobList:
    """Return jobs, newest first, a page at a time."""
    wanted = JobFilter(
        record_uid=record_uid, configuration_uid=configuration_uid, gateway_uid=gateway_uid, state=state, kind=kind
    )
    with context.database.transaction(read_only=True) as session:
        return view.list_jobs(session, wanted, limit=limit, before=before)


@router.get("/jobs/{uid}")
def get_job(uid: str, _principal: _Reader, context: Context) -> JobView:
    """Return one job with its steps."""
    return _read(context, uid)


@router.post("/jobs/{uid}/cancel")
def cancel_job(uid: str, principal: _Rotator, context: Context) -> JobView:
    """Cancel a job that has not begun to change its target."""
    with context.database.transaction() as session:
        job = cancellation.cancel(session, context.clock, principal.actor(), uid)
        shown = view.views(session, [job])[0]
    if shown.state == JobState.CANCELLED:
        context.notify(*flower_events.ended("router", "api", uid, JobState.CANCELLED))
    return shown


@router.get("/jobs/{uid}/explain")
def explain_job(uid: str, _principal: _Reader, context: Context) -> Explanation:
    """Say why the job is where it is."""
    policy = JobPolicy.of(context.settings)
    with context.database.transaction(read_only=True) as session:
        job = view.require_job(session, uid)
        return Explanation(state=job.state, reasons=explanation.explain(session, context.clock, policy, job))


@router.post("/jobs/{uid}/resume", status_code=202)
def resume_job(uid: str, principal: _Rotator, context: Context) -> JobView:
    """Do again what was set aside because it lost its leases again and again; the answer is the job that does it now."""
    with context.database.transaction() as session:
        job = poisoned.resume(session, context.clock, principal.actor(), uid)
        shown = view.views(session, [job])[0]
    context.after_commit([shown.uid])
    return shown


@router.get("/records/{uid}/explain")
def explain_record(uid: str, principal: _Reader, context: Context) -> Explanation:
    """Say why a record is rotated when it is, or why not; ``state`` is that of its open job, or ``idle``."""
    policy = JobPolicy.of(context.settings)
    with context.database.transaction(read_only=True) as session:
        records.require(session, principal.user_uid, uid)
        found = explanation.explain_record(session, context.clock, policy, uid)
        state = explanation.state_of(session, uid)
    if "rotate" not in principal.permissions:
        found.append(f"the role {principal.role} does not let you rotate: ask an operator")
    return Explanation(state=state, reasons=found)


@router.get("/jobs/{uid}/events", response_class=StreamingResponse)
def follow_job(uid: str, request: Request, _principal: _Reader, context: Context) -> StreamingResponse:
    """Follow the job as server-sent events: its view at each change, until it is final."""
    first = _read(context, uid)
    return StreamingResponse(
        _changes(request, context, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get("/records/{uid}/proof")
def prove_record(uid: str, principal: _Reader, context: Context, max_age_days: _MaxAge = None) -> proof.Proof:
    """Return the evidence that the record's credential logs in."""
    with context.database.transaction(read_only=True) as session:
        records.require(session, principal.user_uid, uid)
        return proof.prove(session, context.clock, uid, max_age=_days(max_age_days))


@router.get("/proofs")
def prove_records(
    _principal: _Reader,
    context: Context,
    max_age_days: _MaxAge = None,
    limit: Annotated[int, Query(ge=1, le=proof.MAX_PAGE)] = 500,
    after: Annotated[str | None, Query(max_length=22)] = None,
) -> proof.ProofPage:
    """Return the evidence on every credential that is rotated on a target, a page at a time: for a nightly check."""
    with context.database.transaction(read_only=True) as session:
        return proof.prove_all(session, context.clock, after=after, limit=limit, max_age=_days(max_age_days))


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _read(context: AppContext, uid: str) -> JobView:
    with context.database.transaction(read_only=True) as session:
        return view.read_job(session, uid)


async def _changes(request: Request, context: AppContext, shown: JobView) -> AsyncIterator[str]:
    """Yield the job at once and then whenever it changed; the database is asked less often while nothing happens."""
    yield _event(shown)
    end = anyio.current_time() + _STREAM_SECONDS
    pause, silent = _POLL_SECONDS, 0.0
    while shown.state not in FINAL and anyio.current_time() < end:
        await anyio.sleep(pause)
        if await request.is_disconnected():
            return
        now = await run_sync(_read, context, shown.uid)
        if now != shown:
            shown, pause, silent = now, _POLL_SECONDS, 0.0
            yield _event(shown)
            continue
        silent += pause
        pause = min(pause * 1.2, _SLOWEST_POLL_SECONDS)
        if silent >= _KEEP_ALIVE_SECONDS:
            silent = 0.0
            yield ": still here\n\n"


def _event(shown: JobView) -> str:
    return f"id: {shown.uid}.{shown.epoch}.{shown.state}\ndata: {shown.model_dump_json()}\n\n"
