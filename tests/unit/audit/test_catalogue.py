from __future__ import annotations

from pathlib import Path

import pytest

from pam_jobs.audit.aram import enterprise_id, event_json, event_sentence, timestamp
from pam_jobs.audit.catalogue import EVENTS, sentence
from pam_jobs.audit.log import record_event
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent
from pam_jobs.errors import AuditError
from tests.support.audit import ALICE, START, new_clock
from tests.support.event_scan import emitted

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
PACKAGES = ("pam_jobs", "scheduler", "workers", "connectors")


def test_every_event_that_code_writes_is_in_the_catalogue() -> None:
    unknown = [(name, where) for name, where in emitted(ROOT, PACKAGES) if name not in EVENTS]
    assert unknown == []


def test_the_catalogue_promises_no_event_that_nothing_writes() -> None:
    sources = [
        path.read_text()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "catalogue.py"
    ]
    computed = {f"record_rotation_{trigger}_{end}" for trigger in ("on_demand", "scheduled") for end in ("ok", "fail")}
    unused = [name for name in EVENTS if not any(f'"{name}"' in source for source in sources)]
    assert set(unused) <= computed


def test_the_scan_sees_the_events_of_this_package() -> None:
    names = {name for name, _ in emitted(ROOT, PACKAGES)}
    assert {"audit_sync_failed", "audit_sync_restored", "audit_sync_setup", "audit_sync_test"} <= names


def test_an_unknown_event_is_refused_when_it_is_written(sqlite_database: Database) -> None:
    with pytest.raises(AuditError, match="no event of the catalogue"), sqlite_database.transaction() as session:
        record_event(session, new_clock(), ALICE, "record_ad")


def test_names_fit_into_a_syslog_message_id() -> None:
    assert [name for name in EVENTS if len(name) > 32] == []


def test_a_sentence_names_its_fields_and_shows_a_dash_for_one_it_lacks() -> None:
    assert sentence("record_add", {"username": "alice", "record_uid": "R"}) == "User alice added record UID R"
    assert sentence("record_add", {"username": "alice"}) == "User alice added record UID -"
    assert sentence("from_the_future", {}) == "from_the_future"


def test_fields_cannot_pose_as_members_of_every_event() -> None:
    row = AuditEvent(
        uid="U",
        position=3,
        event="app_client_connected",
        created_at=START,
        username="client:x",
        remote_address=None,
        client_version=None,
        fields={"device_name": "ci", "app_uid": "A", "username": "forged", "position": 99},
    )
    assert event_json(row, 5) == {
        "audit_event": "app_client_connected",
        "category": "secrets_manager",
        "timestamp": "2025-03-01T12:00:00.123Z",
        "username": "client:x",
        "enterprise_id": 5,
        "event_uid": "U",
        "position": 3,
        "app_uid": "A",
        "device_name": "ci",
    }
    assert event_sentence(row) == "KSM device ci performed initial connect to application A"


def test_an_installation_keeps_its_number() -> None:
    assert enterprise_id("BKey") == enterprise_id("BKey") != enterprise_id("BOther")
    assert 0 < enterprise_id("BKey") < 2**48


def test_a_timestamp_has_milliseconds_even_when_they_are_zero() -> None:
    assert timestamp(START.replace(microsecond=0)) == "2025-03-01T12:00:00.000Z"
