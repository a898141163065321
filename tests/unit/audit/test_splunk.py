from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pam_jobs.audit.delivery import backoff_seconds
from pam_jobs.audit.sinks import SINKS, DeliveryRefused, Sink, SinkEvent, splunk
from pam_jobs.errors import DeliveryFailed
from pam_jobs.secret import SecretValue
from tests.support.audit import START
from tests.support.hec import TOKEN, Collector

pytestmark = pytest.mark.unit


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path, tls=False)
    collector.start()
    yield collector
    collector.stop()


def sink(collector: Collector, *, token: str = TOKEN, **settings: object) -> Sink:
    secret = SecretValue(token)
    complete = SINKS["splunk"].check({"url": collector.url, **settings}, secret)
    return SINKS["splunk"].build(complete, secret)


def events(count: int = 1, size: int = 10) -> list[SinkEvent]:
    return [
        SinkEvent(position=n, name="login", created_at=START, body={"position": n, "pad": "x" * size}, sentence="")
        for n in range(count)
    ]


def test_an_event_has_the_collectors_envelope(collector: Collector) -> None:
    sink(collector, host="pam.example", index="pam_audit").deliver(events(2))
    assert collector.events[0] == {
        "time": 1740830400.123,
        "host": "pam.example",
        "source": "pam-jobs",
        "sourcetype": "_json",
        "index": "pam_audit",
        "event": {"position": 0, "pad": "x" * 10},
    }
    assert collector.requests == 1


def test_a_large_batch_goes_in_requests_of_bounded_size(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splunk, "_BODY_BYTES", 2000)
    sink(collector).deliver(events(20, size=300))
    assert [event["event"]["position"] for event in collector.events] == list(range(20))
    assert collector.requests == 5


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, 9, DeliveryFailed),
        (500, 8, DeliveryFailed),
        (429, 9, DeliveryFailed),
        (408, None, DeliveryFailed),
        (400, 7, DeliveryRefused),
        (401, 2, DeliveryRefused),
        (403, 1, DeliveryRefused),
        (413, None, DeliveryRefused),
        (200, 9, DeliveryRefused),
        (200, None, DeliveryRefused),
        (302, None, DeliveryRefused),
    ],
)
def test_only_200_with_code_0_counts(
    collector: Collector, status: int, code: int | None, kind: type[DeliveryFailed]
) -> None:
    collector.answer_next = [(status, {} if code is None else {"text": "x", "code": code})]
    with pytest.raises(DeliveryFailed) as caught:
        sink(collector).deliver(events())
    assert type(caught.value) is kind
    assert str(status) in caught.value.message
    assert collector.events == []


def test_a_wrong_token_is_named_as_the_cause_and_not_shown(collector: Collector) -> None:
    with pytest.raises(DeliveryRefused, match="token") as caught:
        sink(collector, token="wrong-canary").deliver(events())
    assert "canary" not in caught.value.sentence()


def test_a_collector_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "one", tls=True)
    other = Collector(tmp_path / "two", tls=True)
    collector.start()
    try:
        sink(collector, ca=collector.ca).deliver(events())
        for ca in (other.ca, None):
            with pytest.raises(DeliveryFailed, match="certificate"):
                sink(collector, ca=ca).deliver(events())
    finally:
        collector.stop()
    assert len(collector.events) == 1


def test_a_defect_of_the_answer_is_a_failure(collector: Collector) -> None:
    collector.answer_next = [(200, json.loads('["not", "a", "collector"]'))]
    with pytest.raises(DeliveryRefused):
        sink(collector).deliver(events())


def test_the_wait_doubles_is_jittered_and_bounded() -> None:
    for failures, whole in ((1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (1000, 300)):
        waits = [backoff_seconds(failures) for _ in range(50)]
        assert all(whole * 0.5 <= wait <= whole for wait in waits)
        assert len(set(waits)) > 1
