"""Counters over the audit log: every event once, whoever counts and whenever."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

import connectors
import workers
from connectors.registry import ConnectorRegistry
from pam_jobs.audit.log import record_event
from pam_jobs.audit.sealing import seal_once
from pam_jobs.db.tables import EventTotal, JobKind
from pam_jobs.errors import PamJobsError
from pam_jobs.jobs import reconciler
from pam_jobs.jobs.submission import KEEP_WAITING, SCHEDULED
from pam_jobs.jobs.trail import CONTROL
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.metrics import totals
from pam_jobs.metrics.catalogue import METRICS
from pam_jobs.metrics.totals import OTHER, count_once, known_cause
from pam_jobs.settings import ControlSettings
from tests.support.attempts import MINUTE, POLICY, ask, begin
from tests.support.fleet import Fleet

pytestmark = pytest.mark.unit


def counted(fleet: Fleet) -> dict[str, dict[tuple[str, ...], int]]:
    seal_once(fleet.database, fleet.clock)
    while count_once(fleet.database):
        pass
    with fleet.database.transaction(read_only=True) as session:
        return {name: dict(values) for name, values in totals.read(session).items()}


def event(fleet: Fleet, name: str, **fields: str) -> None:
    with fleet.database.transaction() as session:
        record_event(session, fleet.clock, CONTROL, name, **fields)


def test_how_jobs_ended_is_counted_by_kind_outcome_and_cause(fleet: Fleet, record: str) -> None:
    begin(fleet, ask(fleet, record).uid).report(Status.FAILED, cause="unreachable")
    begin(fleet, ask(fleet, record).uid).report(Status.OK, PostStatus.FAILED)
    begin(fleet, ask(fleet, record, JobKind.VERIFY).uid).report(Status.OK)
    begin(fleet, ask(fleet, record).uid).report(Status.WAITING_HUMAN, cause="locked")
    found = counted(fleet)
    assert found["pam_job_outcomes_total"] == {
        ("rotate", "failed", "unreachable"): 1,
        ("rotate", "failed", "scripts_failed"): 1,
        ("verify", "succeeded", "none"): 1,
        ("rotate", "waiting_human", "locked"): 1,
    }
    assert found["pam_jobs_created_total"] == {("rotate",): 3, ("verify",): 1}


def test_lease_losses_and_expiry_are_counted(fleet: Fleet, record: str) -> None:
    settings = ControlSettings(database_url="sqlite://", broker_url="redis://nowhere", keys_dir=Path("/nowhere"))
    begin(fleet, ask(fleet, record).uid)
    fleet.clock.advance(MINUTE)
    reconciler.reconcile_once(fleet.database, fleet.clock, settings, policy=POLICY)
    other = fleet.add_record()
    fleet.put(other)
    ask(fleet, other, trigger=SCHEDULED)
    fleet.clock.advance(KEEP_WAITING)
    reconciler.reconcile_once(fleet.database, fleet.clock, settings, policy=POLICY)
    found = counted(fleet)
    assert found["pam_lease_losses_total"] == {(fleet.gateway_uid,): 1}
    assert ("rotate", "expired", "expired") in found["pam_job_outcomes_total"]


def test_an_event_counts_once_however_often_and_by_how_many_it_is_asked(fleet: Fleet) -> None:
    for _ in range(30):
        event(fleet, "pam_job_failed", job_kind="verify", cause="unreachable", result_code="failed")
    seal_once(fleet.database, fleet.clock)
    threads = [threading.Thread(target=count_once, args=(fleet.database,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    event(fleet, "pam_job_failed", job_kind="verify", cause="unreachable", result_code="failed")
    found = counted(fleet)
    assert found == counted(fleet)
    assert found["pam_job_outcomes_total"] == {("verify", "failed", "unreachable"): 31}


def test_what_is_not_sealed_is_counted_later(fleet: Fleet) -> None:
    before = counted(fleet)["pam_audit_events_total"][()]
    event(fleet, "pam_job_cancelled", job_kind="rotate")
    assert count_once(fleet.database) is False
    found = counted(fleet)
    assert found["pam_audit_events_total"][()] == before + 1
    assert found["pam_job_outcomes_total"] == {("rotate", "cancelled", "none"): 1}


def test_a_long_log_is_counted_in_parts(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_BATCH", 3)
    for _ in range(10):
        event(fleet, "pam_job_unknown", job_kind="rotate", cause="connection_lost", result_code="unknown")
    seal_once(fleet.database, fleet.clock)
    assert count_once(fleet.database) is True
    assert counted(fleet)["pam_job_outcomes_total"] == {("rotate", "unknown", "connection_lost"): 10}


def test_what_a_gateway_says_makes_no_label_of_its_own(fleet: Fleet) -> None:
    for number in range(5):
        event(fleet, "pam_job_failed", job_kind=f"kind{number}", cause=f"made_up_{number}", result_code="failed")
    found = counted(fleet)
    assert found["pam_job_outcomes_total"] == {(OTHER, "failed", OTHER): 5}
    with fleet.database.transaction(read_only=True) as session:
        assert {row.counter for row in session.query(EventTotal)} <= set(METRICS)


def test_every_cause_that_the_code_knows_is_a_label() -> None:
    ConnectorRegistry().names()
    found = set()
    for package in (connectors, workers):
        for path in Path(package.__path__[0]).rglob("*.py"):
            text = path.read_text()
            found |= set(re.findall(r'\bcause="([a-z_]+)"', text)) | set(
                re.findall(r'^    code = "(\w+)"', text, re.MULTILINE)
            )
    pending = [PamJobsError]
    while pending:
        kind = pending.pop()
        found.add(kind.code)
        pending += kind.__subclasses__()
    assert {cause for cause in found if known_cause(cause) == OTHER} == set()
