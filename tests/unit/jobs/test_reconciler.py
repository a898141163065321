from __future__ import annotations

import threading
from datetime import timedelta

from sqlalchemy import insert

from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    GatewayInstance,
    GatewayTurn,
    Job,
    JobKind,
    JobState,
    OutboxMessage,
    PamConfiguration,
    VersionState,
)
from pam_jobs.ids import new_uid
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.reconciler import Counts, reconcile_once
from pam_jobs.jobs.submission import KEEP_WAITING, SCHEDULED
from pam_jobs.jobs.wire import Status
from pam_jobs.rotation import gateways
from tests.support.attempts import CONTROL_SETTINGS, MINUTE, POLICY, ask, begin, outbox, reload, version
from tests.support.fleet import OPERATOR, Fleet


def reconcile(fleet: Fleet) -> Counts:
    return reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)


def sent(fleet: Fleet, *uids: str) -> None:
    """Do as the publisher does: the messages are out."""
    with fleet.database.transaction() as session:
        for row in session.query(OutboxMessage).filter(OutboxMessage.job_uid.in_(uids)):
            session.delete(row)
        for uid in uids:
            job = session.get_one(Job, uid)
            job.state, job.queued_at = JobState.QUEUED, fleet.clock.now()


def heard_of(fleet: Fleet, instance: str = "i1") -> None:
    with fleet.database.transaction() as session:
        session.get_one(GatewayInstance, (fleet.gateway_uid, instance)).last_seen_at = fleet.clock.now()


def after(fleet: Fleet, seconds: float) -> Counts:
    fleet.clock.advance(timedelta(seconds=seconds))
    heard_of(fleet)
    return reconcile(fleet)


def test_nothing_to_do_is_nothing_done(fleet: Fleet, record: str):
    sent(fleet, ask(fleet, record).uid)
    assert not reconcile(fleet)


def test_a_job_whose_lease_ended_is_queued_again(fleet: Fleet, record: str):
    job = ask(fleet, record)
    sent(fleet, job.uid)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    attempt.intend()
    fleet.clock.advance(MINUTE)
    assert reconcile(fleet).leases_lost == 1
    now = reload(fleet, job.uid)
    assert (now.state, now.lease_until) == (JobState.QUEUED, None)
    assert outbox(fleet, job.uid) == 1
    [event] = fleet.events("pam_job_lease_lost")
    assert (event.username, event.fields["epoch"], event.fields["instance"]) == ("control", 1, "i1")
    assert version(fleet, record).state == VersionState.APPLYING
    assert reconcile(fleet).leases_lost == 0


def test_a_cancelled_job_whose_lease_ended_is_cancelled(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid)
    with fleet.database.transaction() as session:
        cancel(session, fleet.clock, OPERATOR, job.uid)
    fleet.clock.advance(MINUTE)
    assert reconcile(fleet).leases_lost == 1
    assert reload(fleet, job.uid).state == JobState.CANCELLED


def test_a_job_that_loses_its_lease_every_time_waits_for_an_operator(fleet: Fleet, record: str):
    job = ask(fleet, record)
    for _ in range(POLICY.attempts_limit):
        fleet.clock.advance(timedelta(seconds=POLICY.backoff_cap_seconds))
        heard_of(fleet)
        begin(fleet, job.uid)
        fleet.clock.advance(MINUTE)
        reconcile(fleet)
        if reload(fleet, job.uid).state == JobState.QUEUED:
            with fleet.database.transaction() as session:
                session.get_one(GatewayInstance, (fleet.gateway_uid, "i1")).stopped_at = None
    now = reload(fleet, job.uid)
    assert (now.state, now.cause) == (JobState.WAITING_HUMAN, "attempts_exhausted")
    assert len(fleet.events("record_rotation_on_demand_fail")) == 1


def test_an_unknown_outcome_is_tried_again_after_its_back_off(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report(Status.UNKNOWN)
    assert reconcile(fleet).resumed == 0
    fleet.clock.advance(timedelta(seconds=POLICY.backoff_seconds))
    assert reconcile(fleet).resumed == 1
    assert reload(fleet, job.uid).state == JobState.QUEUED
    assert outbox(fleet, job.uid) == 2


def test_a_job_that_nobody_began_expires_and_one_that_was_begun_does_not(fleet: Fleet, record: str):
    begun = ask(fleet, record)
    attempt = begin(fleet, begun.uid)
    attempt.stage()
    attempt.intend()
    attempt.report(Status.UNKNOWN, retry_after_seconds=1)
    other = fleet.add_record()
    fleet.put(other)
    untouched = ask(fleet, other)
    fleet.clock.advance(KEEP_WAITING)
    counts = reconcile(fleet)
    assert (counts.expired, counts.resumed) == (1, 1)
    assert reload(fleet, untouched.uid).state == JobState.EXPIRED
    assert reload(fleet, begun.uid).state == JobState.QUEUED
    assert [event.fields["job_uid"] for event in fleet.events("pam_job_expired")] == [untouched.uid]


def test_a_lost_message_is_sent_again_with_growing_intervals(fleet: Fleet, record: str):
    job = ask(fleet, record)
    sent(fleet, job.uid)
    times, elapsed = [], 0
    while elapsed < 1500:
        elapsed += 10
        if after(fleet, 10).republished:
            times.append(elapsed)
            assert outbox(fleet, job.uid) == 1
            sent(fleet, job.uid)
    gaps = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    assert gaps[:4] == [30, 30, 60, 120]
    assert max(gaps) == POLICY.republish_cap_seconds


def test_hardly_anything_is_sent_again_while_the_gateway_is_offline(fleet: Fleet, record: str):
    job = ask(fleet, record)
    sent(fleet, job.uid)
    count = 0
    for _ in range(120):
        fleet.clock.advance(MINUTE)
        count += reconcile(fleet).republished
        sent(fleet, job.uid)
    assert count <= 1 + 120 * 61 // POLICY.offline_republish_seconds


def test_what_waits_for_a_gateway_that_is_offline_hides_no_lost_message_of_another(fleet: Fleet, record: str):
    # Given more old jobs of an offline gateway than one pass looks at, and a younger one of a gateway that is idle
    with fleet.database.transaction() as session:
        away = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="away", application_uid=fleet.application_uid
        ).uid
    model = ask(fleet, record)
    sent(fleet, model.uid)
    with fleet.database.transaction() as session:
        row = session.get_one(Job, model.uid)
        like = {column.name: getattr(row, column.name) for column in table_of(Job).columns}
        session.execute(insert(Job), [{**like, "uid": new_uid(), "gateway_uid": away} for _ in range(600)])
    fleet.clock.advance(timedelta(seconds=1))
    lost = ask(fleet, fleet.scheduled())
    sent(fleet, model.uid, lost.uid)
    # When its message does not arrive, then it is sent again at its time
    assert after(fleet, POLICY.republish_seconds - 1).republished == 0
    assert after(fleet, 1).republished == 2
    assert outbox(fleet, lost.uid) == 1


def asked(fleet: Fleet) -> None:
    with fleet.database.transaction() as session:
        session.get_one(GatewayTurn, fleet.gateway_uid).asked_at = fleet.clock.now()


def test_a_gateway_that_is_busy_or_takes_its_messages_is_not_sent_its_backlog_again(fleet: Fleet, record: str):
    other = fleet.add_record()
    fleet.put(other)
    held, waits = ask(fleet, record).uid, ask(fleet, other).uid
    sent(fleet, held, waits)
    attempt = begin(fleet, held)
    fleet.clock.advance(timedelta(seconds=40))
    attempt.renew()
    heard_of(fleet)
    assert reconcile(fleet).republished == 0  # its one place is taken
    attempt.report()
    asked(fleet)
    assert reconcile(fleet).republished == 0  # messages arrive: this one's turn comes
    assert after(fleet, 11).republished == 1  # nobody comes for it
    assert outbox(fleet, waits) == 1


def test_a_job_that_takes_its_gateway_down_every_time_is_set_aside_and_told(fleet: Fleet, record: str):
    policy = POLICY.model_copy(update={"attempts_limit": 12, "crash_limit": 4})
    job = ask(fleet, record)
    pauses = []
    for _ in range(policy.crash_limit):
        begin(fleet, job.uid, policy=policy)
        fleet.clock.advance(MINUTE)
        heard_of(fleet)
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=policy)
        now = reload(fleet, job.uid)
        pauses.append((now.not_before - fleet.clock.now()).total_seconds() if now.not_before else 0)
        fleet.clock.advance(timedelta(seconds=pauses[-1]))
    assert (now.state, now.cause, now.crashes) == (JobState.WAITING_HUMAN, "lost_every_lease", 4)
    assert pauses[:2] == [0, 0]
    assert 0 < pauses[2] <= policy.backoff_seconds
    [event] = fleet.events("pam_job_set_aside")
    assert (event.fields["job_uid"], event.fields["instance"], event.fields["attempt"]) == (job.uid, "i1", 4)
    assert len(fleet.events("record_rotation_on_demand_fail")) == 1


def test_a_job_that_waited_for_its_credential_is_sent_when_its_time_comes(fleet: Fleet, record: str):
    job = ask(fleet, record, JobKind.VERIFY)
    sent(fleet, job.uid)
    with fleet.database.transaction() as session:
        session.get_one(Job, job.uid).not_before = fleet.clock.now() + timedelta(seconds=4)
    assert after(fleet, 3).republished == 0
    assert after(fleet, 1).republished == 1


def test_waiting_jobs_follow_their_configuration_to_another_gateway(fleet: Fleet, record: str):
    job = ask(fleet, record)
    sent(fleet, job.uid)
    with fleet.database.transaction() as session:
        other = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="branch", application_uid=fleet.application_uid
        ).uid
        session.get_one(PamConfiguration, fleet.configuration_uid).gateway_uid = other
    assert reconcile(fleet).rerouted == 1
    assert reload(fleet, job.uid).gateway_uid == other
    with fleet.database.transaction(read_only=True) as session:
        assert [row.queue for row in session.query(OutboxMessage)] == [f"gateway.{other}"]


def test_a_gateway_that_fell_silent_is_told_offline_once(fleet: Fleet):
    fleet.clock.advance(timedelta(seconds=POLICY.offline_seconds + 1))
    assert reconcile(fleet).instances_offline == 1
    assert reconcile(fleet).instances_offline == 0
    assert len(fleet.events("pam_gateway_offline")) == 1


def test_several_control_processes_do_everything_once(fleet: Fleet):
    records = [fleet.add_record() for _ in range(6)]
    for uid in records:
        fleet.put(uid)
    lost, unknown, unsent = records[:2], records[2:4], records[4:]
    jobs = {
        uid: ask(fleet, uid, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now()).uid for uid in records
    }
    sent(fleet, *jobs.values())
    for uid in lost:
        begin(fleet, jobs[uid])
    for uid in unknown:
        begin(fleet, jobs[uid]).report(Status.UNKNOWN)
    fleet.clock.advance(timedelta(seconds=61))
    heard_of(fleet)
    results: list[Counts] = []
    threads = [threading.Thread(target=lambda: results.append(reconcile(fleet))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4
    assert sum(counts.leases_lost for counts in results) == 2
    assert sum(counts.resumed for counts in results) == 2
    assert sum(counts.republished for counts in results) == len(unsent)
    assert len(fleet.events("pam_job_lease_lost")) == 2
    assert all(outbox(fleet, uid) == 1 for uid in jobs.values())
