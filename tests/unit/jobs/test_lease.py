from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from pam_jobs.db.tables import Job, JobKind, JobState, RotationSettings, VersionState
from pam_jobs.errors import (
    AccessDenied,
    Conflict,
    EpochConflict,
    InvalidInput,
    LeaseLost,
    NotFound,
    StateError,
    VaultConflict,
)
from pam_jobs.ids import new_uid
from pam_jobs.jobs import explain, lease
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.vault import ledger
from tests.support.attempts import MINUTE, POLICY, SECRET, ask, begin, outbox, refused, register, reload, version
from tests.support.fleet import Fleet


def test_a_claim_gives_the_next_epoch_and_all_that_the_work_needs(fleet: Fleet, record: str):
    job = ask(fleet, record)
    claim = begin(fleet, job.uid).claim
    assert (claim.epoch, claim.attempts, claim.kind, claim.profile) == (1, 1, "rotate", "general")
    assert (claim.record_uid, claim.resource_uid, claim.admin_uid) == (record, fleet.resource_uid, fleet.admin_uid)
    assert (claim.versions, claim.steps, claim.refusals_left) == ([], [], POLICY.refusal_limit)
    now = reload(fleet, job.uid)
    assert (now.state, now.lease_instance, now.attempts) == (JobState.LEASED, "i1", 1)
    assert now.lease_until == fleet.clock.now() + timedelta(seconds=60)


def test_a_second_delivery_is_refused_and_changes_nothing(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    register(fleet, "i2")
    before = vars(reload(fleet, job.uid)) | {"_sa_instance_state": None}
    for instance in ("i1", "i2"):
        with pytest.raises(StateError):
            begin(fleet, job.uid, instance)
    assert vars(reload(fleet, job.uid)) | {"_sa_instance_state": None} == before
    attempt.report()
    with pytest.raises(StateError, match="has ended"):
        begin(fleet, job.uid, "i2")


def test_a_claim_is_refused_to_the_wrong_and_the_unknown(fleet: Fleet, record: str):
    job = ask(fleet, record)
    with pytest.raises(NotFound):
        begin(fleet, new_uid())
    with pytest.raises(StateError, match="not registered"):
        begin(fleet, job.uid, "nobody")
    with fleet.database.transaction() as session, pytest.raises(AccessDenied):
        lease.claim(session, fleet.clock, POLICY, job_uid=job.uid, gateway_uid=new_uid(), instance="i1")
    assert reload(fleet, job.uid).state == JobState.CREATED


def test_a_job_is_not_claimed_before_its_time(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report(Status.UNKNOWN)
    with pytest.raises(StateError, match="waits until"):
        begin(fleet, job.uid)
    fleet.clock.advance(timedelta(seconds=POLICY.backoff_seconds))
    assert begin(fleet, job.uid).claim.epoch == 2


def test_one_attempt_a_credential_also_across_jobs(fleet: Fleet, record: str):
    rotation, check = ask(fleet, record), ask(fleet, record, JobKind.VERIFY)
    first = begin(fleet, rotation.uid)
    refusal = refused(begin, fleet, check.uid)
    assert refusal is not None
    assert refusal.code == "state"
    waiting = reload(fleet, check.uid)
    assert waiting.state == JobState.CREATED
    assert waiting.not_before == fleet.clock.now() + timedelta(seconds=POLICY.busy_seconds)
    fleet.clock.advance(timedelta(seconds=POLICY.busy_seconds))
    first.report()
    assert begin(fleet, check.uid).claim.epoch == 2


def test_what_waited_for_the_credential_goes_on_when_it_is_free(fleet: Fleet, record: str):
    rotation, check = ask(fleet, record), ask(fleet, record, JobKind.VERIFY)
    first = begin(fleet, rotation.uid)
    with fleet.database.transaction() as session:
        session.get_one(Job, check.uid).state = JobState.QUEUED
    refused(begin, fleet, check.uid)
    assert first.report().publish == (check.uid,)
    assert outbox(fleet, check.uid) == 2
    assert begin(fleet, check.uid).claim.epoch == 2


def test_a_lease_that_ended_is_taken_over_with_a_higher_epoch(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid)
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    second = begin(fleet, job.uid, "i2")
    assert (second.claim.epoch, second.claim.attempts) == (2, 2)


def test_a_renewed_lease_lasts(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    for _ in range(5):
        fleet.clock.advance(timedelta(seconds=50))
        attempt.renew()
    attempt.fence()
    fleet.clock.advance(MINUTE)
    with pytest.raises(LeaseLost):
        attempt.renew()


def zombie_writes(attempt):
    """Every write of an attempt, by name."""
    return {
        "renew": attempt.renew,
        "fence": attempt.fence,
        "stage": attempt.stage,
        "intend": attempt.intend,
        "promote": attempt.promote,
        "abandon": lambda: attempt.abandon(current="accepted"),
        "report": attempt.report,
        "report failed": lambda: attempt.report(Status.FAILED),
        "release": attempt.release,
        "declare": lambda: attempt.declare("a"),
        "start": lambda: attempt.start_step("a"),
        "finish": lambda: attempt.finish_step("a"),
    }


def test_every_write_of_an_overtaken_attempt_is_refused(fleet: Fleet, record: str):
    job = ask(fleet, record)
    old = begin(fleet, job.uid)
    old.stage()
    old.intend()
    fleet.clock.advance(MINUTE)
    for name, write in zombie_writes(old).items():  # late, though nobody came after it
        with pytest.raises(LeaseLost):
            write()
        assert version(fleet, record).state == VersionState.APPLYING, name
    new = begin(fleet, job.uid)
    for name, write in zombie_writes(old).items():
        with pytest.raises(EpochConflict):
            write()
        assert version(fleet, record).state == VersionState.APPLYING, name
    new.promote(report=new.reported())
    assert version(fleet, record).state == VersionState.CURRENT


def test_a_made_up_epoch_and_a_foreign_instance_are_refused(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    with pytest.raises(EpochConflict):
        attempt.with_epoch(7).stage()
    attempt.instance = "other"
    with pytest.raises(LeaseLost):
        attempt.stage()


def test_another_job_that_took_the_credential_fences_the_first_ones_writes(fleet: Fleet, record: str):
    rotation, check = ask(fleet, record), ask(fleet, record, JobKind.VERIFY)
    old = begin(fleet, rotation.uid)
    fleet.clock.advance(MINUTE)
    begin(fleet, check.uid)
    with pytest.raises(EpochConflict):
        old.stage()


def test_of_many_claimers_one_wins(fleet: Fleet, record: str):
    job = ask(fleet, record)
    won, lost = _race(8, lambda: begin(fleet, job.uid))
    assert (len(won), len(lost)) == (1, 7)
    assert all(isinstance(error, StateError) for error in lost)
    now = reload(fleet, job.uid)
    assert (now.epoch, now.attempts) == (1, 1)


def test_of_two_jobs_on_one_credential_claimed_at_once_one_wins(fleet: Fleet, record: str):
    uids = [ask(fleet, record, kind).uid for kind in (JobKind.ROTATE, JobKind.VERIFY, JobKind.RECONCILE, JobKind.PLAN)]
    queue = list(uids)
    won, lost = _race(4, lambda: begin(fleet, queue.pop()))
    assert (len(won), len(lost)) == (1, 3)
    assert all(isinstance(error, StateError) for error in lost)


def test_a_claim_of_an_ended_lease_races_with_its_zombie_and_one_of_them_is_refused(fleet: Fleet, record: str):
    job = ask(fleet, record)
    old = begin(fleet, job.uid)
    old.stage()
    fleet.clock.advance(timedelta(seconds=60))  # ended at this very instant
    won, lost = _race(6, lambda: begin(fleet, job.uid), old.intend)
    assert len(won) == 1
    assert len(lost) == 5
    assert reload(fleet, job.uid).epoch == 2
    assert version(fleet, record).state == VersionState.STAGED


def test_requests_for_one_record_at_once_make_one_job(fleet: Fleet, record: str):
    won, lost = _race(6, lambda: ask(fleet, record))
    assert lost == []
    assert len({job.uid for job in won}) == 1
    assert len(fleet.jobs(record)) == 1


def _race(count, call, *others):
    """Run the others and, up to so many threads in all, the call, at once; return what came back and what was raised."""
    calls = [*others, *[call] * (count - len(others))]
    won, lost, start = [], [], threading.Barrier(len(calls))

    def run(one):
        start.wait()
        try:
            won.append(one())
        except Exception as error:  # noqa: BLE001 # the test looks at what it is
            lost.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return won, lost


def test_the_whole_way_of_a_rotation(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    assert attempt.stage() == 1
    assert version(fleet, record).state == VersionState.STAGED
    attempt.intend()
    assert reload(fleet, job.uid).state == JobState.RUNNING
    attempt.intend()  # may be said again
    attempt.fence()
    revision, came = attempt.promote(report=attempt.reported(timings={"change": 1.5}, effect="applied"))
    assert (revision, came.state) == (2, JobState.SUCCEEDED)
    row = version(fleet, record)
    assert (row.state, row.evidence["login"], row.evidence["gateway"]) == (
        VersionState.CURRENT, "accepted", fleet.gateway_uid,
    )  # fmt: skip
    ended = reload(fleet, job.uid)
    assert (ended.state, ended.status, ended.post_rotation_status) == (JobState.SUCCEEDED, "ok", "none")
    assert (ended.timings, ended.effect, ended.lease_until) == ({"change": 1.5}, "applied", None)
    for name in ("credential_staged", "credential_promoted", "record_rotation_on_demand_ok"):
        [event] = fleet.events(name)
        assert event.username == f"gateway:{fleet.gateway_uid}"
        assert event.fields["job_uid"] == job.uid
    assert event.fields["result_code"] == "ok"
    assert event.fields["post_rotation_code"] == "none"


def test_the_same_call_again_answers_the_same(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    assert attempt.stage() == attempt.stage() == 1
    attempt.intend()
    said = attempt.reported()
    assert attempt.promote(report=said) == attempt.promote(report=said)
    assert attempt.report().state == JobState.SUCCEEDED
    assert len(fleet.events("credential_promoted")) == 1
    assert len(fleet.events("record_rotation_on_demand_ok")) == 1


def test_a_second_value_is_not_staged_while_one_is_open(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).stage()
    fleet.clock.advance(MINUTE)
    second = begin(fleet, job.uid)
    assert [(row.seq, row.state, row.ciphertext) for row in second.claim.versions] == [(1, "staged", SECRET)]
    with pytest.raises(Conflict):
        second.stage(b"another value, which must wait for the first")


def test_an_old_value_that_is_still_accepted_is_told_and_the_job_succeeds(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    attempt.promote(login="accepted", old="accepted", report=attempt.reported(cause="old_in_grace"))
    job = reload(fleet, attempt.claim.job_uid)
    assert (job.state, job.cause) == (JobState.SUCCEEDED, "old_in_grace")
    assert [event.fields["version_seq"] for event in fleet.events("credential_old_in_grace")] == [1]
    assert fleet.events("record_rotation_on_demand_ok")[0].fields["cause"] == "old_in_grace"
    with fleet.database.transaction(read_only=True) as session:
        assert "accepted the old value as well" in explain.explain(session, fleet.clock, POLICY, job)[1]


def test_a_promotion_on_a_stale_record_changes_nothing(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    attempt.intend()
    with pytest.raises(VaultConflict):
        attempt.promote(revision=9, report=attempt.reported())
    assert version(fleet, record).state == VersionState.APPLYING
    assert reload(fleet, job.uid).state == JobState.RUNNING
    assert fleet.events("credential_promoted") == []
    assert attempt.promote()[0] == 2


@pytest.mark.parametrize(
    "evidence", [{"login": "unknown"}, {"login": "accepted", "x": {"nested": 1}}, {"login": "a" * 300}]
)
def test_nothing_becomes_current_without_a_login_or_with_more_than_codes(fleet: Fleet, record: str, evidence: dict):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    with pytest.raises(InvalidInput):
        attempt.promote(**evidence)
    assert version(fleet, record).state == VersionState.APPLYING


def test_a_refused_value_is_abandoned_and_another_one_may_be_staged(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    attempt.abandon(effect="not_applied")
    assert version(fleet, record).state == VersionState.ABANDONED
    assert attempt.stage(b"another value for the second try, sealed") == 2
    [event] = fleet.events("credential_abandoned")
    assert event.fields["cause"] == "policy_refused"


def test_what_was_kept_of_a_version_becomes_current_in_its_place(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    with pytest.raises(StateError, match="staged"):
        attempt.promote(kept=b"what logs in, sealed by the record's key")
    attempt.intend()
    with pytest.raises(InvalidInput, match="logs in"):
        attempt.promote(kept=b"what logs in, sealed by the record's key", login="partial")
    attempt.promote(kept=b"what logs in, sealed by the record's key")
    given_up, current = version(fleet, record, 1), version(fleet, record, 2)
    assert (given_up.state, given_up.ciphertext) == (VersionState.ABANDONED, SECRET)
    assert given_up.evidence == {"reason": "in_part", "kept_as": 2}
    assert (current.state, current.ciphertext) == (VersionState.CURRENT, b"what logs in, sealed by the record's key")
    assert (current.job_uid, current.epoch, current.evidence["login"]) == (attempt.claim.job_uid, 1, "accepted")
    [abandoned], [promoted] = fleet.events("credential_abandoned"), fleet.events("credential_promoted")
    assert (abandoned.fields["version_seq"], abandoned.fields["cause"]) == (1, "in_part")
    assert promoted.fields["version_seq"] == 2
    with fleet.database.transaction(read_only=True) as session:
        settings = session.get_one(RotationSettings, record)
        assert settings.last_probe is not None
        assert settings.last_probe["version_seq"] == 2


def test_a_released_job_is_queued_again_at_once(fleet: Fleet, record: str):
    job = ask(fleet, record)
    assert begin(fleet, job.uid).release() == (JobState.QUEUED, True)
    assert outbox(fleet, job.uid) == 2
    again = begin(fleet, job.uid).claim
    assert (again.epoch, again.attempts) == (2, 1), "a stop is no attempt"


def test_a_job_whose_target_is_busy_lets_others_go_first(fleet: Fleet, record: str):
    job = ask(fleet, record)
    assert begin(fleet, job.uid).release("target_busy") == (JobState.QUEUED, False)
    with pytest.raises(StateError, match="waits until"):
        begin(fleet, job.uid)
    fleet.clock.advance(timedelta(seconds=POLICY.backoff_seconds))
    assert begin(fleet, job.uid).claim.attempts == 1


def test_a_job_that_cannot_begin_is_tried_again_ever_later_and_in_the_end_told(fleet: Fleet, record: str):
    job = ask(fleet, record)
    for number in range(1, POLICY.attempts_limit):
        assert begin(fleet, job.uid).release("vault_unavailable") == (JobState.QUEUED, False)
        with pytest.raises(StateError, match="waits until"):
            begin(fleet, job.uid)
        fleet.clock.advance(timedelta(seconds=min(POLICY.backoff_seconds * 2**number, POLICY.backoff_cap_seconds)))
    assert begin(fleet, job.uid).release("vault_unavailable") == (JobState.WAITING_HUMAN, False)
    ended = reload(fleet, job.uid)
    assert (ended.state, ended.cause) == (JobState.WAITING_HUMAN, "vault_unavailable")
    assert [event.fields["cause"] for event in fleet.events("record_rotation_on_demand_fail")] == ["vault_unavailable"]


def test_a_verification_remembers_the_probe(fleet: Fleet, record: str):
    with fleet.database.transaction() as session:
        ledger.operator_current(session, fleet.clock, record, b"sealed", fleet.user_uid)
    job = ask(fleet, record, JobKind.VERIFY)
    begin(fleet, job.uid).report(probe={"verdict": "refused", "version_seq": 1}, status=Status.FAILED)
    with fleet.database.transaction(read_only=True) as session:
        probe = session.get_one(RotationSettings, record).last_probe
    assert probe is not None
    assert (probe["verdict"], probe["version_seq"], probe["gateway"]) == ("refused", 1, fleet.gateway_uid)
    assert [event.fields["result_code"] for event in fleet.events("pam_job_failed")] == ["failed"]


@pytest.mark.parametrize(
    ("status", "post", "state", "event"),
    [
        (Status.OK, PostStatus.OK, JobState.SUCCEEDED, "record_rotation_on_demand_ok"),
        (Status.OK, PostStatus.FAILED, JobState.FAILED, "record_rotation_on_demand_fail"),
        (Status.OK, PostStatus.UNKNOWN, JobState.FAILED, "record_rotation_on_demand_fail"),
        (Status.SKIPPED, PostStatus.OK, JobState.SUCCEEDED, "record_rotation_on_demand_ok"),
        (Status.SKIPPED, PostStatus.FAILED, JobState.FAILED, "record_rotation_on_demand_fail"),
        (Status.FAILED, PostStatus.NOT_RUN, JobState.FAILED, "record_rotation_on_demand_fail"),
        (Status.UNKNOWN, PostStatus.NOT_RUN, JobState.UNKNOWN, "pam_job_unknown"),
        (Status.WAITING_HUMAN, PostStatus.NOT_RUN, JobState.WAITING_HUMAN, "record_rotation_on_demand_fail"),
        (Status.CANCELLED, PostStatus.NOT_RUN, JobState.CANCELLED, "pam_job_cancelled"),
    ],
)
def test_what_becomes_of_a_job(
    fleet: Fleet, record: str, status: Status, post: PostStatus, state: JobState, event: str
):
    job = ask(fleet, record)
    assert begin(fleet, job.uid).report(status, post).state == state
    now = reload(fleet, job.uid)
    assert (now.state, now.status, now.post_rotation_status) == (state, status, post)
    assert (now.finished_at is None) == (state == JobState.UNKNOWN)
    [told] = fleet.events(event)
    assert (told.fields["result_code"], told.fields["post_rotation_code"]) == (status, post)


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (Status.ROLLED_BACK, "record_rotation_rolled_back"),
        (Status.ROLLBACK_REFUSED, "record_rotation_rollback_refused"),
    ],
)
def test_a_roll_back_is_told_beside_the_failed_rotation(fleet: Fleet, record: str, status: Status, event: str):
    came = begin(fleet, ask(fleet, record).uid).report(status, PostStatus.FAILED, cause="scripts_failed")
    assert came.state == JobState.FAILED
    [told], [failed] = fleet.events(event), fleet.events("record_rotation_on_demand_fail")
    assert (failed.fields["result_code"], failed.fields["post_rotation_code"]) == (status, "failed")
    assert (told.fields["record_uid"], told.fields["cause"]) == (record, "scripts_failed")


def test_an_unresolved_job_is_tried_again_and_at_last_waits_for_an_operator(fleet: Fleet, record: str):
    job = ask(fleet, record)
    waits = []
    for attempt in range(1, POLICY.attempts_limit + 1):
        came = begin(fleet, job.uid).report(Status.UNKNOWN, cause="connection_lost")
        if attempt < POLICY.attempts_limit:
            assert came.state == JobState.UNKNOWN
            until = reload(fleet, job.uid).not_before
            assert until is not None
            waits.append((until - fleet.clock.now()).total_seconds())
            fleet.clock.advance(until - fleet.clock.now())
    assert came.state == JobState.WAITING_HUMAN
    assert reload(fleet, job.uid).cause == "connection_lost"
    assert all(5 * 2**number <= wait <= 10 * 2**number for number, wait in enumerate(waits))


def test_the_gateway_may_say_when_to_try_again_within_the_cap(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report(Status.UNKNOWN, retry_after_seconds=3)
    assert reload(fleet, job.uid).not_before == fleet.clock.now() + timedelta(seconds=3)
    fleet.clock.advance(timedelta(seconds=3))
    begin(fleet, job.uid).report(Status.UNKNOWN, retry_after_seconds=10_000)
    assert reload(fleet, job.uid).not_before == fleet.clock.now() + timedelta(seconds=POLICY.backoff_cap_seconds)


def test_a_failure_says_nothing_of_a_value_that_an_earlier_attempt_may_have_applied(fleet: Fleet, record: str):
    job = ask(fleet, record)
    first = begin(fleet, job.uid)
    first.stage()
    first.intend()
    fleet.clock.advance(MINUTE)
    assert begin(fleet, job.uid).report(Status.FAILED, cause="unreachable").state == JobState.UNKNOWN
    assert version(fleet, record).state == VersionState.APPLYING


def test_a_failure_of_the_attempt_that_declared_the_value_is_a_failure(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    attempt.intend()
    assert attempt.report(Status.FAILED, cause="forbidden").state == JobState.FAILED


def test_what_has_begun_does_not_end_as_cancelled(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    with pytest.raises(StateError, match="begun to change"):
        attempt.report(Status.CANCELLED)
