"""Turns and limits with real gateway processes, over every kind of broker: the message is a hint, the claim decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from pam_jobs.db.tables import Job, JobKind, JobState
from pam_jobs.ids import new_uid
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.submission import SCHEDULED, submit
from pam_jobs.jobs.trail import BEAT
from tests.support.broker import RedisBroker
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from tests.support.servers import rabbitmq

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rabbitmq_url() -> Iterator[str]:
    with rabbitmq() as url:
        yield url


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    if request.param == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_url"))
    broker: RedisBroker = request.getfixturevalue("broker")
    return broker.url


@pytest.fixture
def site(sqlite_router: RunningRouter, broker_url: str, tmp_path: Path) -> GatewaySite:
    made = GatewaySite(sqlite_router, tmp_path)
    publisher = made.publish(broker_url)
    publisher.declare_queues([made.gateway_uid])
    return made


def user(site: GatewaySite) -> str:
    uid = site.add_user(f"u{new_uid()[:6]}", "First-Secret-1")
    site.rotate_by(uid, None, profile="scripts_only")
    return uid


def scheduled(site: GatewaySite, kind: JobKind) -> str:
    """Do as beat does."""
    context, record_uid = site.router.context, user(site)
    with context.database.transaction() as session:
        job, _ = submit(
            session, context.clock, kind=kind, record_uid=record_uid, configuration_uid=site.configuration_uid,
            gateway_uid=site.gateway_uid, trigger=SCHEDULED, requested_by=BEAT, schedule_uid=new_uid(),
            due_at=context.clock.now(),
        )  # fmt: skip
    context.after_commit([job.uid])
    return job.uid


def jobs(site: GatewaySite) -> list[Job]:
    with site.router.database.transaction(read_only=True) as session:
        return list(session.scalars(select(Job).order_by(Job.started_at)))


def test_on_demand_overtakes_in_the_queue_and_a_limit_holds_over_instances(site: GatewaySite, broker_url: str) -> None:
    # Given messages that were sent in the wrong order, while no gateway was there
    planned = [scheduled(site, JobKind.ROTATE) for _ in range(3)]
    asked = [site.submit("rotate", user(site)) for _ in range(3)]
    one = {"PAM_GATEWAY_CONCURRENCY": "1"}
    # When a gateway with one place comes
    with site.process(broker_url, **one) as process:
        for uid in (*asked, *planned):
            assert site.vault.jobs.wait(uid, seconds=40)["state"] == "succeeded", process.log()
    # Then what somebody asked for began first
    assert [job.uid for job in jobs(site)] == [*asked, *planned]

    # Given a limit of one job for three instances with four places each
    site.vault.pam.edit_gateway(site.gateway_uid, job_limit=1)
    four = {"PAM_GATEWAY_CONCURRENCY": "4"}
    with (
        site.process(broker_url, **four) as a,
        site.process(broker_url, **four) as b,
        site.process(broker_url, **four) as c,
    ):
        for process in (a, b, c):
            process.wait_for("gateway_ready")
        # When eight jobs come at once, and one that was planned
        more = [site.submit("rotate", user(site)) for _ in range(8)]
        for uid in more:
            assert site.vault.jobs.wait(uid, seconds=40)["state"] == "succeeded", (a.log(), b.log(), c.log())
        refused = sum(line["event"] == "not_claimed" for process in (a, b, c) for line in process.lines())
    # Then they followed each other, and nobody asked again and again
    ran = [job for job in jobs(site) if job.uid in more]
    assert all(later.started_at >= earlier.finished_at for earlier, later in itertools.pairwise(ran))  # type: ignore[operator]
    assert refused <= 2 * len(more)


def test_a_drained_gateway_ends_its_jobs_and_begins_none_until_it_is_resumed(
    site: GatewaySite, broker_url: str
) -> None:
    with site.process(broker_url) as process:
        process.wait_for("gateway_ready")
        site.vault.pam.set_gateway_drained(site.gateway_uid, drained=True)
        uid = site.submit("rotate", user(site))
        process.wait_for("not_claimed")
        assert any("is drained since" in reason for reason in site.vault.jobs.explain(uid)["reasons"])
        context = site.router.context
        reconcile_once(context.database, context.clock, context.settings)
        assert jobs(site)[0].state in (JobState.CREATED, JobState.QUEUED)
        site.vault.pam.set_gateway_drained(site.gateway_uid, drained=False)
        assert site.vault.jobs.wait(uid, seconds=40)["state"] == "succeeded", process.log()
