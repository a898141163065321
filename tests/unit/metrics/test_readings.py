"""Gauges: what they say of the database, and that reading them does not go through what has ended."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from pam_jobs.audit import siem
from pam_jobs.audit.sealing import seal_once
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import DriftState, GatewayTurn, RotationSettings
from pam_jobs.jobs.wire import Status
from pam_jobs.metrics.catalogue import METRICS
from pam_jobs.metrics.readings import STATEMENTS, read
from pam_jobs.rotation import gateways
from tests.support.attempts import ask, begin
from tests.support.database import new_database_url
from tests.support.fleet import OPERATOR, Fleet, new_fleet

pytestmark = pytest.mark.unit


def values(fleet: Fleet) -> dict[str, dict[tuple[str, ...], float]]:
    with fleet.database.transaction(read_only=True) as session:
        return {name: dict(rows) for name, rows in read(session, fleet.clock, offline_seconds=30).items()}


def test_every_reading_is_in_the_catalogue_with_its_labels(fleet: Fleet) -> None:
    found = values(fleet)
    assert set(found) <= set(METRICS)
    for name, rows in found.items():
        assert {len(labels) for labels in rows} <= {len(METRICS[name].labels)}
    gauges = {name for name, metric in METRICS.items() if not metric.is_counter}
    assert gauges <= set(found)


def test_a_gateway_says_what_waits_for_it_and_since_when(fleet: Fleet, record: str) -> None:
    me = (fleet.gateway_uid, "office")
    assert values(fleet)["pam_gateway_oldest_job_seconds"] == {me: 0}
    first = ask(fleet, record)
    fleet.clock.advance(timedelta(seconds=20))
    other = fleet.add_record()
    fleet.put(other)
    ask(fleet, other)
    found = values(fleet)
    assert found["pam_gateway_jobs_waiting"] == {me: 2}
    assert found["pam_gateway_oldest_job_seconds"] == {me: 20}
    assert found["pam_gateway_instances_online"] == {me: 1}
    assert found["pam_outbox_lag_seconds"] == {(): 20}
    attempt = begin(fleet, first.uid)
    found = values(fleet)
    assert (found["pam_gateway_jobs_waiting"][me], found["pam_gateway_jobs_running"][me]) == (1, 1)
    assert found["pam_gateway_oldest_job_seconds"][me] == 0
    attempt.stage()
    attempt.intend()
    attempt.report(Status.UNKNOWN, cause="connection_lost", effect="unknown")
    fleet.clock.advance(timedelta(seconds=40))
    found = values(fleet)
    assert found["pam_gateway_jobs_unknown"] == {me: 1}
    assert found["pam_gateway_instances_online"] == {me: 0}
    assert found["pam_credentials_unresolved"] == {(): 1}
    assert found["pam_credentials_unresolved_oldest_seconds"] == {(): 40}


def test_a_lease_that_nobody_takes_back_is_overdue(fleet: Fleet, record: str) -> None:
    begin(fleet, ask(fleet, record).uid)
    assert values(fleet)["pam_lease_overdue_seconds"] == {(): 0}
    fleet.clock.advance(timedelta(seconds=75))
    assert values(fleet)["pam_lease_overdue_seconds"] == {(): 15}


def test_limits_drains_and_drift_are_told(fleet: Fleet, record: str) -> None:
    me = (fleet.gateway_uid, "office")
    found = values(fleet)
    assert [found[f"pam_gateway_{name}"][me] for name in ("job_limit", "drained", "limited")] == [0, 0, 0]
    assert found["pam_credentials_drift"][("unchecked",)] == 1
    with fleet.database.transaction() as session:
        gateways.change(session, fleet.clock, OPERATOR, fleet.gateway_uid, job_limit=3)
        gateways.drain(session, fleet.clock, OPERATOR, fleet.gateway_uid)
        session.get_one(GatewayTurn, fleet.gateway_uid).is_short = True
        session.get_one(RotationSettings, record).drift = DriftState.OUT_OF_SYNC
    found = values(fleet)
    assert [found[f"pam_gateway_{name}"][me] for name in ("job_limit", "drained", "limited")] == [3, 1, 1]
    assert found["pam_credentials_drift"] == {
        ("healthy",): 0, ("out_of_sync",): 1, ("unreachable",): 0, ("locked",): 0, ("unchecked",): 0
    }  # fmt: skip


def test_schedules_that_no_beat_takes_lag(fleet: Fleet) -> None:
    row = fleet.row(fleet.scheduled())
    assert row is not None
    assert row.next_run_at is not None
    assert values(fleet)["pam_schedule_lag_seconds"] == {(): 0}
    fleet.clock.advance(row.next_run_at - fleet.clock.now() + timedelta(seconds=7))
    found = values(fleet)
    assert (found["pam_schedule_lag_seconds"], found["pam_schedules_due"]) == ({(): 7}, {(): 1})


def test_the_audit_log_says_what_is_not_sealed_and_not_delivered(fleet: Fleet, tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    keys.ensure()
    wanted = siem.NewSink(name="files", kind="json", settings={"path": str(tmp_path / "log")})
    with fleet.database.transaction() as session:
        uid = siem.add(session, fleet.clock, keys, OPERATOR, wanted).uid
    fleet.clock.advance(timedelta(seconds=9))
    found = values(fleet)
    events = found["pam_audit_unsealed"][()]
    assert events > 1
    assert found["pam_audit_sealing_lag_seconds"] == {(): 9}
    assert found["pam_sink_lag_seconds"] == {(uid, "files", "json"): 9}
    seal_once(fleet.database, fleet.clock)
    found = values(fleet)
    assert (found["pam_audit_unsealed"], found["pam_audit_sealing_lag_seconds"]) == ({(): 0}, {(): 0})
    assert found["pam_sink_lag_events"] == {(uid, "files", "json"): events}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_reading_goes_through_a_table_that_grows(sqlite_database: Database, name: str) -> None:
    now = "2026-01-01 00:00:00"
    statement = str(STATEMENTS[name].compile(sqlite_database.engine, compile_kwargs={"render_postcompile": True}))
    count = statement.count("?")
    with sqlite_database.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (now,) * count).all()
    scanned = {row[3] for row in rows if row[3].startswith("SCAN")}
    # gateways, rotated credentials and targets set aside are as many as there are; the outbox is read from its end, one row; the index of
    # undecided values holds no others
    bounded = {
        "SCAN rotation_settings USING COVERING INDEX ix_rotation_settings_drift",
        "SCAN gateways",
        "SCAN targets_set_aside",
        "SCAN outbox",
        "SCAN anon_1",
    }
    assert scanned <= {*bounded, "SCAN credential_versions USING INDEX uq_versions_unresolved"}, rows
    assert "TEMP B-TREE" not in " ".join(row[3] for row in rows) or name == "open"


def test_the_past_costs_postgresql_nothing(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The planner, which knows how many jobs have ended, reads them not."""
    copy = (
        "INSERT INTO jobs (uid, kind, state, trigger, gateway_uid, configuration_uid, record_uid, parameters,"
        " requested_by, created_at, finished_at, epoch, attempts, timings)"
        " SELECT 'old' || n, kind, 'succeeded', trigger, gateway_uid, configuration_uid, record_uid, parameters,"
        " requested_by, created_at - n * interval '1 second', created_at, 1, 1, timings"
        " FROM jobs, generate_series(1, 10000) AS n"
    )
    with new_database_url(request, tmp_path, "postgresql") as url:
        fleet = new_fleet(Database(url))
        record = fleet.add_record()
        fleet.put(record)
        ask(fleet, record)
        engine = fleet.database.engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(copy))
            connection.execute(text("VACUUM ANALYZE jobs"))
            statement = STATEMENTS["open"].compile(engine, compile_kwargs={"literal_binds": True})
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}"))
            assert "Seq Scan on jobs" not in plan, plan
        assert values(fleet)["pam_gateway_jobs_waiting"] == {(fleet.gateway_uid, "office"): 1}
        fleet.database.dispose()
