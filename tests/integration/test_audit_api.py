from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pam_jobs.access import tokens
from pam_jobs.access.tokens import NewToken
from pam_jobs.api import audit, siem
from pam_jobs.audit.delivery import serve_once
from pam_jobs.audit.log import record_event
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import SiemSink, User
from pam_jobs.errors import AccessDenied, AlreadyExists, InvalidInput, NotFound
from pam_jobs.ids import new_uid
from tests.support.audit import ALICE
from tests.support.database import dump
from tests.support.small_router import SmallRouter, small_router

pytestmark = pytest.mark.integration

EVENTS = "/api/v1/audit/events"
SINKS = "/api/v1/siem/sinks"
TOKEN = "canary-5f1c-hec"


@pytest.fixture
def router(database: Database, tmp_path: Path) -> Iterator[SmallRouter]:
    with small_router(database, tmp_path, audit.router, siem.router) as running:
        yield running


def write(database: Database, *names: str, **fields: str) -> None:
    for name in names:
        with database.transaction() as session:
            record_event(session, SystemClock(), ALICE, name, **fields)


def test_what_was_committed_before_is_in_the_answer(router: SmallRouter) -> None:
    write(router.database, "record_add", "record_update", record_uid="R")
    events = router.client("auditor").get(EVENTS)["events"]
    assert [(event["position"], event["audit_event"]) for event in events] == [(1, "record_add"), (2, "record_update")]
    assert events[0]["username"] == "alice"
    assert events[0]["remote_address"] == "192.0.2.7"
    assert isinstance(events[0]["enterprise_id"], int)


def test_pages_end_with_none(router: SmallRouter) -> None:
    write(router.database, *["open_record"] * 5)
    client = router.client("admin")
    first = client.get(EVENTS, limit=3)
    second = client.get(EVENTS, limit=3, after_position=first["next_position"])
    assert [event["position"] for event in first["events"] + second["events"]] == [1, 2, 3, 4, 5]
    assert second["next_position"] is None
    newest = client.get(EVENTS, limit=2, newest=True)
    assert [event["position"] for event in newest["events"]] == [4, 5]


def test_filters_are_taken_from_the_query(router: SmallRouter) -> None:
    write(router.database, "record_add", record_uid="A")
    write(router.database, "record_add", record_uid="B")
    client = router.client("operator")
    assert len(client.get(EVENTS, record_uid="A")["events"]) == 1
    assert len(client.get(EVENTS, event="record_add", username="alice")["events"]) == 2
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert client.get(EVENTS, created_from=later)["events"] == []
    assert len(client.get(EVENTS, created_to=later)["events"]) == 2


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"after_position": -1}, {"created_from": "soon"}])
def test_a_wrong_query_is_refused_with_the_name_of_its_member(router: SmallRouter, query: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(query))):
        router.client("auditor").get(EVENTS, **query)


def test_a_time_without_a_zone_is_refused(router: SmallRouter) -> None:
    with pytest.raises(InvalidInput, match="zone"):
        router.client("auditor").get(EVENTS, created_from="2025-01-01T00:00:00")


def test_who_may_read_the_log_and_who_may_manage_sinks(router: SmallRouter) -> None:
    for path in (EVENTS, SINKS):
        with pytest.raises(AccessDenied, match="bearer token"):
            router.client(None).get(path)
    for role in ("operator", "auditor"):
        with pytest.raises(AccessDenied, match="siem"):
            router.client(role).get(SINKS)
    assert router.client("admin").get(SINKS) == {"sinks": []}


def test_an_api_token_reads_the_log_with_its_scope_alone(router: SmallRouter) -> None:
    def token(scope: str) -> str:
        with router.database.transaction() as session:
            user = session.query(User).filter_by(username="auditor").one()
            new = NewToken(name=scope, scopes=[scope], expires_in_seconds=3600)
            return tokens.create(session, SystemClock(), ALICE, user.uid, new)[1]

    assert router.client(None, token=token("audit:read")).get(EVENTS)["events"]
    with pytest.raises(AccessDenied, match="audit_read"):
        router.client(None, token=token("jobs:read")).get(EVENTS)


@pytest.fixture
def add(router: SmallRouter, tmp_path: Path) -> Callable[..., dict[str, object]]:
    def add_sink(**changes: object) -> dict[str, object]:
        body = {"name": "files", "kind": "json", "settings": {"path": str(tmp_path / "audit.jsonl")}}
        return router.client("admin").post(SINKS, {**body, **changes})

    return add_sink


def test_a_sink_lives_from_set_up_to_removal(
    router: SmallRouter, add: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    client = router.client("admin")
    write(router.database, *["open_record"] * 3)
    sink = add()
    uid = sink["uid"]
    assert (sink["state"], sink["has_secret"], sink["cursor"]) == ("delivering", False, 0)
    assert sink["lag_events"] == 4  # the set-up is an event too
    assert sink["lag_seconds"] > 0

    assert client.post(f"{SINKS}/{uid}/pause")["state"] == "paused"
    seal_once(router.database, SystemClock())
    assert serve_once(router.database, router.keys, SystemClock()) == 0
    assert client.post(f"{SINKS}/{uid}/resume")["state"] == "delivering"
    seal_once(router.database, SystemClock())
    assert serve_once(router.database, router.keys, SystemClock()) == 6
    listed = client.get(SINKS)["sinks"]
    assert [(one["lag_events"], one["lag_seconds"], one["cursor"]) for one in listed] == [(0, 0.0, 6)]
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 6

    client.delete(f"{SINKS}/{uid}")
    with pytest.raises(NotFound):
        client.get(f"{SINKS}/{uid}")
    names = [event["audit_event"] for event in client.get(EVENTS, newest=True, limit=4)["events"]]
    assert names == ["audit_sync_setup", "audit_sync_paused", "audit_sync_resumed", "audit_sync_removed"]


def test_a_failure_is_told_and_the_next_try_is_known(
    router: SmallRouter, add: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    uid = add(settings={"path": str(tmp_path / "missing" / "audit.jsonl")})["uid"]
    client = router.client("admin")
    assert client.post(f"{SINKS}/{uid}/test") == {"position": 2}
    serve_once(router.database, router.keys, SystemClock())
    state = client.get(f"{SINKS}/{uid}")
    assert (state["state"], state["failures"]) == ("failing", 1)
    assert "No such file" in state["last_error"]
    assert state["next_try_at"] is not None

    (tmp_path / "missing").mkdir()
    client.post(f"{SINKS}/{uid}/resume")  # does not wait for the next try
    assert serve_once(router.database, router.keys, SystemClock()) == 2
    assert client.get(f"{SINKS}/{uid}")["state"] == "delivering"


def test_a_test_event_goes_the_way_of_every_event(
    router: SmallRouter, add: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    uid = add()["uid"]
    client = router.client("admin")
    position = client.post(f"{SINKS}/{uid}/test")["position"]
    serve_once(router.database, router.keys, SystemClock())
    assert client.get(f"{SINKS}/{uid}")["cursor"] == position
    assert "audit_sync_test" in (tmp_path / "audit.jsonl").read_text().splitlines()[-1]
    client.post(f"{SINKS}/{uid}/pause")
    with pytest.raises(InvalidInput, match="paused"):
        client.post(f"{SINKS}/{uid}/test")


def test_a_sink_may_begin_with_what_comes_next(
    router: SmallRouter, add: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    write(router.database, *["open_record"] * 3)
    seal_once(router.database, SystemClock())
    add(from_now=True)
    seal_once(router.database, SystemClock())
    assert serve_once(router.database, router.keys, SystemClock()) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "pigeon"}, "pigeon"),
        ({"settings": {}}, "path"),
        ({"settings": {"path": "relative"}}, "absolute"),
        ({"name": " "}, "name"),
        ({"secret": "x"}, "takes no token"),
        ({"kind": "splunk", "settings": {"url": "http://splunk.example"}, "secret": TOKEN}, "https"),
        ({"kind": "syslog", "settings": {"host": "h", "port": 514, "ca": "x"}}, "PEM"),
    ],
)
def test_a_wrong_sink_is_refused_and_nothing_is_written(
    router: SmallRouter, add: Callable[..., dict[str, object]], changes: dict[str, object], word: str
) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        add(**changes)
    assert caught.value.remedy
    assert TOKEN not in caught.value.sentence()
    assert router.client("admin").get(SINKS) == {"sinks": []}
    assert router.client("admin").get(EVENTS) == {"events": [], "next_position": None}


def test_a_name_is_taken_once_and_an_unknown_sink_is_said_to_be(
    router: SmallRouter, add: Callable[..., dict[str, object]]
) -> None:
    add()
    with pytest.raises(AlreadyExists, match="files"):
        add()
    client = router.client("admin")
    for call in (client.get, client.delete):
        with pytest.raises(NotFound):
            call(f"{SINKS}/{new_uid()}")
    for verb in ("pause", "resume", "test"):
        with pytest.raises(NotFound):
            client.post(f"{SINKS}/{new_uid()}/{verb}")


def test_a_receivers_token_is_kept_sealed_and_never_told(
    router: SmallRouter, add: Callable[..., dict[str, object]], database_url: str
) -> None:
    sink = add(kind="splunk", settings={"url": "https://127.0.0.1:1"}, secret=TOKEN)
    assert sink["has_secret"] is True
    seal_once(router.database, SystemClock())
    serve_once(router.database, router.keys, SystemClock())
    client = router.client("admin")
    told = repr((sink, client.get(SINKS), client.get(EVENTS)))
    assert "cannot be reached" in client.get(SINKS)["sinks"][0]["last_error"]
    assert TOKEN not in told
    with router.database.transaction(read_only=True) as session:
        sealed = session.query(SiemSink).one().secret
    assert sealed is not None
    assert router.keys.open(sealed) == TOKEN.encode()
    assert TOKEN.encode() not in dump(database_url)
