from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from pam_jobs.db.tables import AuditEvent, Job, JobState, RotationSettings, Schedule, VersionKind
from pam_jobs.errors import Conflict, InvalidInput, NotFound, PamJobsError, StateError
from pam_jobs.ids import new_uid
from pam_jobs.rotation import configurations, settings
from pam_jobs.rotation.configurations import Changes
from pam_jobs.vault import ledger
from scheduler import due
from tests.support.fleet import EVERY_HOUR, NOON, OPERATOR, Fleet, cron, share

pytestmark = pytest.mark.unit


def counted(fleet: Fleet) -> tuple[int, int, int]:
    with fleet.database.transaction(read_only=True) as session:
        events = session.scalar(select(func.count()).select_from(AuditEvent))
        rows = session.scalar(select(func.count()).select_from(RotationSettings))
        revision = session.scalar(select(func.sum(RotationSettings.revision)))
        return events or 0, rows or 0, revision or 0


def refused(fleet: Fleet, record_uid: str, **changes: Any) -> PamJobsError:
    """Return why the settings were refused, having seen that nothing was written."""
    before = counted(fleet)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        fleet.put(record_uid, **changes)
    assert counted(fleet) == before
    assert caught.value.remedy
    assert "\n" not in caught.value.sentence()
    return caught.value


def change_configuration(fleet: Fleet, **changes: Any) -> None:
    with fleet.database.transaction() as session:
        configurations.change(
            session, fleet.clock, OPERATOR, fleet.configuration_uid, Changes(**changes), minimum_seconds=0
        )


def test_settings_put_the_record_on_the_due_table(fleet: Fleet) -> None:
    record = fleet.scheduled(cron("30 2 * * *", "Europe/Berlin"))

    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at is not None
    assert row.next_run_at.isoformat() == "2026-03-03T01:30:00+00:00"
    assert [event.fields["record_uid"] for event in fleet.events("record_rotation_created")] == [record]


def test_a_manual_schedule_has_no_due_row(fleet: Fleet) -> None:
    record = fleet.scheduled()
    fleet.put(record, schedule=[{"type": "ON_DEMAND"}])
    assert fleet.row(record) is None


def test_an_inherited_schedule_follows_the_configuration(fleet: Fleet) -> None:
    record = fleet.add_record()
    fleet.put(record, inherits_schedule=True)
    own = fleet.scheduled(cron("0 5 * * *"))
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(hours=1)

    change_configuration(fleet, default_schedule=cron("0 4 * * *"))

    row, other = fleet.row(record), fleet.row(own)
    assert row is not None
    assert other is not None
    assert row.next_run_at == NOON + timedelta(hours=16)
    assert other.next_run_at == NOON + timedelta(hours=17)

    change_configuration(fleet, default_schedule=[])
    assert fleet.row(record) is None


def test_switching_the_configuration_off_pauses_and_on_counts_from_then(fleet: Fleet) -> None:
    record = fleet.scheduled()
    change_configuration(fleet, rotation_enabled=False)
    row = fleet.row(record)
    assert row is not None
    assert (row.paused, row.next_run_at) == (True, None)

    fleet.clock.advance(timedelta(days=3, minutes=1))
    change_configuration(fleet, rotation_enabled=True)

    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(days=3, hours=1)


def test_disabling_pauses_and_is_told_once(fleet: Fleet) -> None:
    record = fleet.scheduled()
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)

    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at is None
    assert len(fleet.events("record_rotation_disabled")) == 1
    assert len(fleet.events("record_rotation_updated")) == 1


def test_a_change_that_leaves_the_schedule_leaves_its_next_run(fleet: Fleet) -> None:
    record = fleet.scheduled()
    fleet.clock.advance(timedelta(hours=2))
    fleet.put(record, schedule=EVERY_HOUR, complexity=b"sealed")
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(hours=1)


def test_putting_again_replaces_the_one_row(fleet: Fleet) -> None:
    record = fleet.add_record()
    assert fleet.put(record) == 1
    assert fleet.put(record, profile="scripts_only", resource_uid=None) == 2
    with fleet.database.transaction(read_only=True) as session:
        row = session.get_one(RotationSettings, record)
        assert (row.profile, row.resource_uid) == ("scripts_only", None)


def test_a_stale_revision_is_a_conflict(fleet: Fleet) -> None:
    record = fleet.add_record()
    fleet.put(record, revision=0)
    fleet.put(record, revision=1)
    with pytest.raises(Conflict):
        fleet.put(record, revision=1)
    with pytest.raises(Conflict):
        fleet.put(fleet.add_record(), revision=1)


def test_removal_takes_the_record_off_the_due_table(fleet: Fleet) -> None:
    record = fleet.scheduled()
    with fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)
    assert fleet.row(record) is None
    assert len(fleet.events("record_rotation_removed")) == 1
    with pytest.raises(NotFound), fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (cron("0 0 31 2 *"), "never"),
        (cron("0 2 * * *", "Mars/Olympus"), "zone"),
        (cron("*/30 * * * *"), "apart"),
        (cron("tomorrow"), "cron"),
        ([{"type": "SOMETIMES"}], "type"),
        ([{"type": "RUN_ONCE", "time": "2020-01-01T00:00:00", "tz": "Etc/UTC"}], "future"),
        ([{"type": "DAILY", "time": "25:00:00", "tz": "Etc/UTC"}], "time"),
        ([{"type": "DAILY", "time": f"{hour:02}:00:00", "tz": "Etc/UTC"} for hour in range(21)], "entries"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(fleet: Fleet, schedule: list[dict[str, Any]], said: str) -> None:
    assert said in refused(fleet, fleet.add_record(), schedule=schedule).sentence()


def test_policy_may_allow_any_interval(fleet: Fleet) -> None:
    record = fleet.add_record()
    fleet.put(record, schedule=cron("*/5 * * * * ?"), minimum_seconds=0)
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(seconds=5)


def test_contradictions_are_refused(fleet: Fleet) -> None:
    record = fleet.add_record()
    assert "default" in refused(fleet, record, schedule=EVERY_HOUR, inherits_schedule=True).sentence()
    assert "resource" in refused(fleet, record, resource_uid=None).sentence()
    assert "configuration" in refused(fleet, record, profile="iam_user").sentence()
    assert (
        "without a resource"
        in refused(fleet, record, profile="scripts_only", resource_uid=None, admin_uid=fleet.admin_uid).sentence()
    )
    assert "profile" in refused(fleet, record, profile="magic").sentence()
    assert "saas" in refused(fleet, record, profile="saas", resource_uid=None).sentence()
    assert "larger" in refused(fleet, record, complexity=b"x" * 9000).sentence()


def test_unknown_parties_are_refused(fleet: Fleet) -> None:
    record, stranger = fleet.add_record(), new_uid()
    assert stranger in refused(fleet, stranger).sentence()
    assert stranger in refused(fleet, record, configuration_uid=stranger).sentence()
    assert stranger in refused(fleet, record, resource_uid=stranger).sentence()
    assert stranger in refused(fleet, record, admin_uid=stranger).sentence()
    assert "not a record UID" in refused(fleet, "-nonsense").sentence()


def test_records_of_the_wrong_sort_are_refused(fleet: Fleet) -> None:
    record = fleet.add_record()
    assert "PAM configuration" in refused(fleet, fleet.configuration_uid).sentence()
    assert "resource" in refused(fleet, fleet.resource_uid).sentence()
    assert "not linked" in refused(fleet, record, resource_uid=fleet.add_record()).sentence()
    assert "is a PAM configuration" in refused(fleet, record, admin_uid=fleet.configuration_uid).sentence()


def test_a_resource_without_admin_is_refused_until_one_is_named(fleet: Fleet) -> None:
    record, admin = fleet.add_record(), fleet.add_record()
    with fleet.database.transaction() as session:
        machine = fleet.resource_uid
        session.execute(
            configurations.ResourceLink.__table__.update().values(admin_uid=None)  # as a client may have left it
        )
    assert "no admin" in refused(fleet, record, resource_uid=machine).sentence()
    fleet.put(record, resource_uid=machine, admin_uid=admin)
    fleet.put(fleet.add_record(), resource_uid=machine)


def test_the_admin_may_rotate_itself(fleet: Fleet) -> None:
    assert fleet.put(fleet.admin_uid) == 1


def test_scripts_only_needs_no_resource(fleet: Fleet) -> None:
    assert fleet.put(fleet.add_record(), profile="scripts_only", resource_uid=None) == 1


def test_a_record_outside_the_gateways_reach_is_refused_until_shared_to_edit(fleet: Fleet) -> None:
    folder = fleet.add_folder()
    record = fleet.add_record(folder_uid=folder)
    assert f"pam app share {fleet.application_uid} {folder}" in str(refused(fleet, record).remedy)

    with fleet.database.transaction() as session:
        share(session, fleet.clock, fleet.application_uid, folder, can_edit=False)
    assert "edit" in refused(fleet, record).sentence()

    admin = fleet.add_record(folder_uid=fleet.add_folder())
    assert "admin" in refused(fleet, fleet.add_record(), admin_uid=admin).sentence()


def due_job(fleet: Fleet, record_uid: str) -> Job:
    fleet.clock.advance(timedelta(hours=1))
    due.tick(fleet.database, fleet.clock)
    [job] = fleet.jobs(record_uid)
    return job


def states(fleet: Fleet) -> list[JobState]:
    return [job.state for job in fleet.jobs()]


def set_state(fleet: Fleet, state: JobState) -> None:
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=state))


def test_disabling_cancels_what_waits(fleet: Fleet) -> None:
    record = fleet.scheduled()
    due_job(fleet, record)
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    assert states(fleet) == [JobState.CANCELLED]


@pytest.mark.parametrize("state", [JobState.LEASED, JobState.RUNNING, JobState.UNKNOWN])
def test_disabling_lets_what_is_at_work_finish(fleet: Fleet, state: JobState) -> None:
    record = fleet.scheduled()
    due_job(fleet, record)
    set_state(fleet, state)
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    assert states(fleet) == [state]
    with pytest.raises(StateError), fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)


def test_disabling_lets_a_change_that_has_begun_be_brought_to_its_end(fleet: Fleet) -> None:
    record = fleet.scheduled()
    job = due_job(fleet, record)
    with fleet.database.transaction() as session:
        row = ledger.stage(
            session, fleet.clock, record_uid=record, kind=VersionKind.CREDENTIAL, ciphertext=b"x", epoch=1,
            staged_by="gateway", job_uid=job.uid,
        )  # fmt: skip
        ledger.begin_applying(session, fleet.clock, record, row.seq, 1)
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    assert states(fleet) == [JobState.CREATED]
    with pytest.raises(StateError), fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)


def test_removal_cancels_what_waits(fleet: Fleet) -> None:
    record = fleet.scheduled()
    due_job(fleet, record)
    with fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)
    assert states(fleet) == [JobState.CANCELLED]


# when credentials are verified


def due_rows(fleet: Fleet, record_uid: str) -> dict[str, str]:
    """Return the record's rows of the due table: what runs, and when next."""
    with fleet.database.transaction(read_only=True) as session:
        rows = session.scalars(select(Schedule).where(Schedule.subject_uid == record_uid))
        return {row.kind: row.next_run_at.strftime("%H:%M") for row in rows if row.next_run_at}


def test_a_verification_goes_by_the_configurations_default_unless_it_has_its_own(fleet: Fleet) -> None:
    plain, own, never = (fleet.add_record() for _ in range(3))
    fleet.put(plain)
    fleet.put(own, verify_schedule=cron("0 14 * * *"), schedule=cron("0 15 * * *"))
    fleet.put(never, verify_schedule=[])
    assert due_rows(fleet, plain) == {}

    change_configuration(fleet, default_verify_schedule=cron("30 13 * * *"))
    assert due_rows(fleet, plain) == {"verify": "13:30"}
    assert due_rows(fleet, own) == {"verify": "14:00", "rotate": "15:00"}
    assert due_rows(fleet, never) == {}

    fleet.put(own)
    assert due_rows(fleet, own) == {"verify": "13:30"}
    change_configuration(fleet, default_verify_schedule=[])
    assert due_rows(fleet, plain) == due_rows(fleet, own) == {}


def test_what_has_no_target_is_not_verified(fleet: Fleet) -> None:
    record = fleet.add_record()
    change_configuration(fleet, default_verify_schedule=EVERY_HOUR)
    members = {"profile": "scripts_only", "resource_uid": None}
    assert "nowhere to log in" in refused(fleet, record, verify_schedule=EVERY_HOUR, **members).message
    fleet.put(record, verify_schedule=[], **members)
    fleet.put(record, **members)
    assert due_rows(fleet, record) == {}


def test_a_wrong_schedule_of_verifications_is_refused(fleet: Fleet) -> None:
    record = fleet.add_record()
    assert "apart" in refused(fleet, record, verify_schedule=cron("*/5 * * * *")).message
    with pytest.raises(InvalidInput, match="apart"), fleet.database.transaction() as session:
        configurations.change(
            session, fleet.clock, OPERATOR, fleet.configuration_uid,
            Changes(default_verify_schedule=cron("*/5 * * * *")), minimum_seconds=3600,
        )  # fmt: skip


def test_removed_settings_leave_nothing_due(fleet: Fleet) -> None:
    record = fleet.scheduled(verify_schedule=EVERY_HOUR)
    assert set(due_rows(fleet, record)) == {"rotate", "verify"}
    with fleet.database.transaction() as session:
        settings.remove(session, fleet.clock, OPERATOR, record)
    assert due_rows(fleet, record) == {}
