"""``/metrics`` as Prometheus asks for it: closed without a token for it, and nothing secret in the answer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pam_jobs.access import tokens
from pam_jobs.access.tokens import NewToken
from pam_jobs.api.metrics import KEPT_SECONDS
from pam_jobs.audit.sealing import seal_once
from pam_jobs.db.engine import Database
from pam_jobs.metrics.catalogue import METRICS
from pam_jobs.metrics.totals import count_once
from tests.support.attempts import ask, begin, register
from tests.support.fleet import OPERATOR, Fleet, new_fleet
from tests.support.pam_api import PamApi, call, new_api

pytestmark = pytest.mark.unit


@pytest.fixture
def fleet(sqlite_database: Database) -> Fleet:
    made = new_fleet(sqlite_database)
    register(made)
    return made


@pytest.fixture
def api(fleet: Fleet, tmp_path: Path) -> PamApi:
    return new_api(fleet, tmp_path)


def scrape(api: PamApi, scope: str = "metrics:read", accept: str = "") -> httpx.Response:
    fleet = api.fleet
    new = NewToken(name="prometheus", scopes=[scope], expires_in_seconds=3600)
    with fleet.database.transaction() as session:
        secret = tokens.create(session, fleet.clock, OPERATOR, fleet.user_uid, new)[1]
    return call(api.app, "GET", "/metrics", headers={"Authorization": f"Bearer {secret}", "Accept": accept})


def samples(answer: httpx.Response) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_it_is_closed_to_all_but_those_who_may_read_metrics(api: PamApi) -> None:
    assert call(api.app, "GET", "/metrics").status_code == 401
    assert scrape(api, "jobs:read").status_code == 403
    assert scrape(api, "audit:read").status_code == 403
    assert scrape(api).status_code == 200


def test_a_token_for_metrics_opens_nothing_else(api: PamApi) -> None:
    new = NewToken(name="prometheus", scopes=["metrics:read"], expires_in_seconds=3600)
    with api.fleet.database.transaction() as session:
        secret = tokens.create(session, api.fleet.clock, OPERATOR, api.fleet.user_uid, new)[1]
    for path in ("/api/v1/jobs", "/api/v1/audit/events", "/api/v1/gateways"):
        assert call(api.app, "GET", path, headers={"Authorization": f"Bearer {secret}"}).status_code == 403


def test_prometheus_reads_the_answer(api: PamApi, record: str) -> None:
    fleet = api.fleet
    begin(fleet, ask(fleet, record).uid).report(cause="old_in_grace")
    other = fleet.add_record()
    fleet.put(other)
    ask(fleet, other)
    fleet.clock.advance(timedelta(seconds=30))
    seal_once(fleet.database, fleet.clock)
    count_once(fleet.database)
    answer = scrape(api)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer)
    gateway = {"gateway": fleet.gateway_uid, "name": "office"}
    assert found["pam_gateway_jobs_waiting"] == [(gateway, 1)]
    assert found["pam_gateway_oldest_job_seconds"] == [(gateway, 30)]
    outcome = {"kind": "rotate", "outcome": "succeeded", "cause": "old_in_grace"}
    assert found["pam_job_outcomes_total"] == [(outcome, 1)]
    assert set(found) <= set(METRICS)
    assert record not in answer.text


def test_openmetrics_is_spoken_too(api: PamApi) -> None:
    answer = scrape(api, accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_an_answer_is_given_again_for_some_seconds(api: PamApi, record: str) -> None:
    def waiting() -> float:
        return samples(scrape(api))["pam_gateway_jobs_waiting"][0][1]

    assert waiting() == 0
    ask(api.fleet, record)
    assert waiting() == 0
    api.fleet.clock.advance(timedelta(seconds=KEPT_SECONDS))
    assert waiting() == 1
