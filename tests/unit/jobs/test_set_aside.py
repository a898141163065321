from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from pam_jobs.db.tables import Job, JobKind, JobState, LoginRefusal, LoginReservation
from pam_jobs.errors import StateError
from pam_jobs.jobs import explain, lease, outcome, refusals, set_aside
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.submission import KEEP_WAITING
from pam_jobs.jobs.wire import AdminFinding, AdminVerdict, Status
from pam_jobs.rotation import resources
from pam_jobs.vault import ledger, records
from pam_jobs.vault.models import RecordChange
from tests.support.attempts import CONTROL_SETTINGS, POLICY, Attempt, ask, begin, outbox, refused, reload
from tests.support.fleet import OPERATOR, Fleet

REFUSED = AdminFinding(verdict=AdminVerdict.REFUSED, cause="admin_refused")


def refuse_admin(fleet: Fleet, record: str, cause: str = "admin_refused") -> Job:
    """End a rotation as a gateway does whose administrator was refused, and return its job."""
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    count(attempt, "admin", 2)
    finding = AdminFinding(verdict=AdminVerdict.REFUSED, cause=cause)
    attempt.report(Status.WAITING_HUMAN, cause=cause, administrator=finding)
    return reload(fleet, job.uid)


def count(attempt: Attempt, of: str, new: int) -> int:
    """Count refused logins and return how many there are."""
    fleet = attempt.fleet
    uid = fleet.admin_uid if of == "admin" else attempt.claim.record_uid
    with fleet.database.transaction() as session:
        return refusals.count(session, fleet.clock, POLICY, record_uid=uid, gateway_uid=fleet.gateway_uid, new=new)


def other(fleet: Fleet) -> str:
    uid = fleet.add_record()
    fleet.put(uid)
    return uid


def waits(fleet: Fleet, record: str, kind: JobKind = JobKind.ROTATE) -> Job:
    """Submit a job that is published and cannot be claimed, and return it."""
    job = ask(fleet, record, kind)
    with fleet.database.transaction() as session:
        session.get_one(Job, job.uid).state = JobState.QUEUED
    refusal = refused(begin, fleet, job.uid)
    assert refusal is not None
    assert "set aside" in refusal.message
    return reload(fleet, job.uid)


def reasons(fleet: Fleet, job: Job) -> list[str]:
    with fleet.database.transaction(read_only=True) as session:
        return explain.explain(session, fleet.clock, POLICY, session.get_one(Job, job.uid))


def test_a_refused_admin_sets_the_target_aside_and_an_operator_is_told(fleet: Fleet, record: str):
    job = refuse_admin(fleet, record)
    assert (job.state, job.cause) == (JobState.WAITING_HUMAN, "admin_refused")
    event = fleet.events("pam_target_set_aside")[0].fields
    assert (event["resource_uid"], event["admin_uid"], event["job_uid"]) == (
        fleet.resource_uid,
        fleet.admin_uid,
        job.uid,
    )
    assert "pam action resume-target" in reasons(fleet, job)[0]


@pytest.mark.parametrize("kind", [JobKind.ROTATE, JobKind.RECONCILE, JobKind.PLAN])
def test_other_jobs_of_the_target_wait_and_say_so(fleet: Fleet, record: str, kind: JobKind):
    refuse_admin(fleet, record)
    job = waits(fleet, other(fleet), kind)
    assert (job.state, job.cause, job.attempts) == (JobState.QUEUED, set_aside.CAUSE, 0)
    assert job.not_before is not None
    assert f"administrator (record {fleet.admin_uid}) was refused" in reasons(fleet, job)[0]


def test_what_needs_no_administrator_goes_on(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    refuse_admin(fleet, record)
    assert begin(fleet, ask(fleet, other(fleet), JobKind.VERIFY).uid).claim.is_set_aside_admin is False
    assert begin(fleet, ask(fleet, fleet.admin_uid).uid).claim.is_set_aside_admin is True


def test_who_waited_too_long_for_the_target_is_told_so(fleet: Fleet, record: str):
    refuse_admin(fleet, record)
    job = waits(fleet, other(fleet))
    fleet.clock.advance(KEEP_WAITING)
    reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    ended = reload(fleet, job.uid)
    assert (ended.state, ended.cause) == (JobState.EXPIRED, set_aside.CAUSE)
    [event] = [event.fields for event in fleet.events("pam_job_expired") if event.fields["job_uid"] == job.uid]
    assert event["cause"] == set_aside.CAUSE
    why, what, _ = reasons(fleet, ended)
    assert "pam action resume-target" in why
    assert "submit it again" in what
    with fleet.database.transaction() as session:
        set_aside.lift_for_resource(session, fleet.clock, OPERATOR, fleet.resource_uid, by="tests")
    assert reload(fleet, job.uid).state == JobState.EXPIRED, "what was asked for long ago does not run by surprise"


def test_a_second_refusal_keeps_the_first_one(fleet: Fleet, record: str):
    second = begin(fleet, ask(fleet, other(fleet)).uid)
    first = refuse_admin(fleet, record)
    second.report(Status.WAITING_HUMAN, cause="admin_refused", administrator=REFUSED)
    assert len(fleet.events("pam_target_set_aside")) == 1
    assert f"in job {first.uid}" in reasons(fleet, reload(fleet, second.claim.job_uid))[0]


def lift_by_command(fleet: Fleet) -> None:
    with fleet.database.transaction() as session:
        resources.resume(session, fleet.clock, OPERATOR, fleet.resource_uid)


def lift_by_editing(fleet: Fleet) -> None:
    change = RecordChange(data=b"x" * 30, revision=1, credential=b"y" * 30)
    with fleet.database.transaction() as session:
        records.update(session, fleet.clock, OPERATOR, fleet.user_uid, fleet.admin_uid, change)


def lift_by_another_admin(fleet: Fleet) -> None:
    uid = fleet.add_record()
    members = {"configuration_uid": fleet.configuration_uid, "admin_uid": uid}
    with fleet.database.transaction() as session:
        resources.put(session, fleet.clock, OPERATOR, fleet.resource_uid, **members)


def lift_by_a_login(fleet: Fleet) -> None:
    fleet.put(fleet.admin_uid)
    attempt = begin(fleet, ask(fleet, fleet.admin_uid, JobKind.VERIFY).uid)
    attempt.report(Status.OK, administrator=AdminFinding(verdict=AdminVerdict.ACCEPTED))


@pytest.mark.parametrize("lift", [lift_by_command, lift_by_editing, lift_by_another_admin, lift_by_a_login])
def test_what_vouches_for_the_admin_lets_the_waiting_jobs_go_on(fleet: Fleet, record: str, lift):
    refuse_admin(fleet, record)
    job = waits(fleet, other(fleet))
    before = outbox(fleet, job.uid)
    lift(fleet)
    now = reload(fleet, job.uid)
    assert (now.state, now.cause, now.not_before, outbox(fleet, job.uid)) == (JobState.QUEUED, None, None, before + 1)
    assert len(fleet.events("pam_target_resumed")) == 1
    assert not any("set aside" in sentence for sentence in reasons(fleet, now))
    assert count(begin(fleet, job.uid), "admin", 0) == 0


def test_who_vouches_for_the_admin_also_ends_what_killed_gateways_left_of_its_budget(fleet: Fleet, record: str):
    ended = refuse_admin(fleet, record)
    live = begin(fleet, ask(fleet, other(fleet), JobKind.VERIFY).uid)
    for place, job_uid, attempt in (("dead", ended.uid, 1), ("live", live.claim.job_uid, live.claim.epoch)):
        subject = record if place == "dead" else live.claim.record_uid
        with fleet.database.transaction() as session:
            session.add(
                LoginReservation(
                    uid=place, record_uid=fleet.admin_uid, resource_uid="", subject_uid=subject, job_uid=job_uid, epoch=attempt,
                    gateway_uid=fleet.gateway_uid, at=fleet.clock.now(),
                )
            )  # fmt: skip
    lift_by_command(fleet)
    with fleet.database.transaction(read_only=True) as session:
        assert list(session.scalars(select(LoginReservation.uid))) == ["live"]


def test_only_a_target_that_is_set_aside_is_resumed(fleet: Fleet):
    with pytest.raises(StateError, match="not set aside"):
        lift_by_command(fleet)


def test_jobs_of_other_targets_stay_where_they_are(fleet: Fleet, record: str):
    refuse_admin(fleet, record)
    resource = fleet.add_record()
    admin = fleet.add_record()
    with fleet.database.transaction() as session:
        members = {"configuration_uid": fleet.configuration_uid, "admin_uid": admin}
        resources.put(session, fleet.clock, OPERATOR, resource, **members)
    elsewhere = fleet.add_record()
    fleet.put(elsewhere, resource_uid=resource)
    assert begin(fleet, ask(fleet, elsewhere).uid).claim.resource_uid == resource


def test_refusals_of_the_admin_count_for_every_job_of_the_target(fleet: Fleet, record: str):
    count(begin(fleet, ask(fleet, record).uid), "admin", 2)
    attempt = begin(fleet, ask(fleet, other(fleet)).uid)
    assert (attempt.claim.refusals_left, count(attempt, "admin", 0)) == (POLICY.refusal_limit, 2)


def kept(fleet: Fleet, attempt: Attempt) -> list[int]:
    with fleet.database.transaction() as session:
        job = session.get_one(Job, attempt.claim.job_uid)
        admin = set_aside.admin_to_try(session, fleet.clock, job)
        return [row.seq for row in lease.kept_versions(session, admin)]


def test_older_values_of_the_admin_are_given_out_once(fleet: Fleet, record: str):
    with fleet.database.transaction() as session:
        for number in range(6):
            ledger.operator_current(session, fleet.clock, fleet.admin_uid, b"value %d" % number, fleet.user_uid)
    attempt = begin(fleet, ask(fleet, other(fleet)).uid)
    assert kept(fleet, attempt) == [6, 5, 4, 3]
    refuse_admin(fleet, record)
    lift_by_command(fleet)
    assert kept(fleet, attempt) == []


def test_an_outdated_record_of_the_admin_is_told_and_nothing_waits(fleet: Fleet, record: str):
    finding = AdminFinding(verdict=AdminVerdict.OUTDATED, version_seq=4)
    begin(fleet, ask(fleet, record).uid).report(administrator=finding)
    event = fleet.events("pam_admin_outdated")[0].fields
    assert (event["admin_uid"], event["version_seq"]) == (fleet.admin_uid, 4)
    begin(fleet, ask(fleet, other(fleet)).uid)


def test_the_report_and_the_target_are_one_transaction(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    said = attempt.reported(Status.WAITING_HUMAN, administrator=REFUSED)

    def report_and_fail() -> None:
        with fleet.database.transaction() as session:
            outcome.report(session, fleet.clock, POLICY, OPERATOR, attempt.holder, said)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        report_and_fail()
    assert fleet.events("pam_target_set_aside") == []
    begin(fleet, ask(fleet, other(fleet)).uid)


def test_the_window_of_a_target_is_its_own(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    count(attempt, "account", 2)
    fleet.clock.advance(timedelta(seconds=POLICY.refusal_window_seconds + 1))
    asked = {"record_uid": record, "gateway_uid": fleet.gateway_uid, "new": 0}
    with fleet.database.transaction() as session:
        assert refusals.count(session, fleet.clock, POLICY, **asked) == 0
        assert refusals.count(session, fleet.clock, POLICY, window_seconds=7200, **asked) == 2
        assert len(session.scalars(select(LoginRefusal)).all()) == 2
