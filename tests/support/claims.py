"""Claims of a gateway's instance as the router answers them: what is asked for, begun, or told to wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pam_jobs.ids import new_uid
from pam_jobs.jobs import dispatch, turns, wire
from pam_jobs.jobs.lease import Busy
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.submission import SCHEDULED
from pam_jobs.rotation import configurations, resources
from tests.support.attempts import POLICY, Attempt, ask
from tests.support.fleet import OPERATOR, Fleet, add_record


def take(fleet: Fleet, hint: str, gateway_uid: str | None = None, policy: JobPolicy = POLICY) -> wire.Claim | Busy:
    for _ in range(4):
        with fleet.database.transaction() as session:
            place = turns.place_of(session, gateway_uid or fleet.gateway_uid)
            assert place is not None
            answer = dispatch.take(session, fleet.clock, policy, hint=hint, place=place, instance="i1")
        if not isinstance(answer, dispatch.Again):
            break
    return answer


def taken(fleet: Fleet, hint: str, **changes: Any) -> Attempt:
    claim = take(fleet, hint, **changes)
    assert isinstance(claim, wire.Claim), claim
    return Attempt(fleet=fleet, claim=claim)


def busy(fleet: Fleet, hint: str, **changes: Any) -> str:
    answer = take(fleet, hint, **changes)
    assert isinstance(answer, Busy), answer
    return answer.why


def one(fleet: Fleet, configuration_uid: str | None = None, resource_uid: str | None = None, **changes: Any) -> str:
    """Add a record with a job that waits, and return the job."""
    uid = fleet.add_record()
    configuration_uid = configuration_uid or fleet.configuration_uid
    target = {} if resource_uid is None else {"resource_uid": resource_uid}
    if configuration_uid != fleet.configuration_uid and resource_uid is None:
        target = {"resource_uid": None, "profile": "scripts_only"}
    fleet.put(uid, configuration_uid=configuration_uid, **target)
    if changes.get("trigger") == SCHEDULED:
        changes |= {"schedule_uid": new_uid(), "due_at": fleet.clock.now()}
    job = ask(fleet, uid, configuration_uid=configuration_uid, **changes)
    fleet.clock.advance(timedelta(milliseconds=10))
    return job.uid


def order(fleet: Fleet, jobs: list[str], **changes: Any) -> list[str]:
    """Let one worker take every message in the order that they were sent, and return what it began."""
    begun = []
    for hint in jobs:
        attempt = taken(fleet, hint, **changes)
        attempt.report()
        begun.append(attempt.claim.job_uid)
    return begun


def limit(fleet: Fleet, table: type[Any], uid: str, **values: int | None) -> None:
    with fleet.database.transaction() as session:
        for name, value in values.items():
            setattr(session.get_one(table, uid), name, value)


def other_target(fleet: Fleet) -> str:
    with fleet.database.transaction() as session:
        uid = add_record(session, fleet.clock, fleet.folder_uid, fleet.user_uid)
        admin = add_record(session, fleet.clock, fleet.folder_uid, fleet.user_uid)
        resources.put(session, fleet.clock, OPERATOR, uid, configuration_uid=fleet.configuration_uid, admin_uid=admin)
    return uid


def other_configuration(fleet: Fleet, gateway_uid: str | None = None) -> str:
    with fleet.database.transaction() as session:
        uid = add_record(session, fleet.clock, fleet.folder_uid, fleet.user_uid, version=6)
        configurations.create(
            session, fleet.clock, OPERATOR,
            configurations.NewConfiguration(
                record_uid=uid, gateway_uid=gateway_uid or fleet.gateway_uid, environment="local"
            ),
            minimum_seconds=3600,
        )  # fmt: skip
    return uid
