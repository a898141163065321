"""The gateway as a process: a real worker on a real broker."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kombu import Connection

from deploy.lab import PostgresServer
from pam_jobs.app import queue_name
from pam_jobs.jobs.reconciler import reconcile_once
from tests.integration.test_gateway_postgres import Targets
from tests.support.broker import RedisBroker
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from workers.agent import EXIT_CONFIGURATION, EXIT_REMOVED

pytestmark = pytest.mark.integration


@pytest.fixture
def targets(
    sqlite_router: RunningRouter, target_postgres: PostgresServer, broker: RedisBroker, tmp_path: Path
) -> Targets:
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{target_postgres.port}=postgresql")
    site.publish(broker.url)
    return Targets(site, target_postgres)


def eventually(is_so: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def status_of(targets: Targets) -> str:
    return str(targets.site.vault.pam.find_gateway(targets.site.gateway_uid)["status"])


def test_jobs_come_by_the_queue_and_a_stop_is_clean(targets: Targets, broker: RedisBroker) -> None:
    login, uid = targets.add_role()
    with targets.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        assert status_of(targets) == "ONLINE"
        job = targets.site.vault.jobs.wait(targets.site.submit("rotate", uid), seconds=20)
        assert job["state"] == "succeeded", process.log()
        new = targets.site.password(uid)
        assert targets.logs_in(login, new)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert new not in process.log()
        assert "First-Secret-1" not in process.log()
    assert status_of(targets) == "OFFLINE"
    assert broker.length(queue_name(targets.site.gateway_uid)) == 0
    ended = [line for line in process.lines() if line["event"] == "attempt_ended"]
    assert {"job", "epoch", "gateway", "status", "timings"} <= set(ended[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_lets_the_running_job_end(targets: Targets, broker: RedisBroker, number: signal.Signals) -> None:
    login, uid = targets.add_role()
    slow = {"PAM_TEST_BOUNDARY": "after:change", "PAM_TEST_PAUSE_SECONDS": "2"}
    with targets.site.process(broker.url, **slow) as process:
        process.wait_for("gateway_ready")
        job_uid = targets.site.submit("rotate", uid)
        eventually(lambda: targets.site.vault.jobs.get(job_uid)["state"] == "running")
        process.signal(number)
        assert process.wait() == 0, process.log()
    assert targets.site.vault.jobs.get(job_uid)["state"] == "succeeded"
    assert targets.logs_in(login, targets.site.password(uid))


def test_a_job_that_waited_runs_when_the_gateway_comes(targets: Targets, broker: RedisBroker) -> None:
    _, uid = targets.add_role()
    job_uid = targets.site.submit("rotate", uid)
    eventually(lambda: broker.length(queue_name(targets.site.gateway_uid)) > 0)
    with targets.site.process(broker.url):
        assert targets.site.vault.jobs.wait(job_uid, seconds=20)["state"] == "succeeded"


def test_forged_messages_run_nothing_and_stop_nothing(targets: Targets, broker: RedisBroker) -> None:
    _, uid = targets.add_role()
    queue = queue_name(targets.site.gateway_uid)
    headers = {"lang": "py", "task": "pam.rotate", "id": "forged", "argsrepr": "", "kwargsrepr": "", "eta": None}
    body = [[uid], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    forged = [
        (body, headers),  # unsigned
        (body, {**headers, "pam": {"kid": "0" * 16, "exp": 2**40, "sig": "AA=="}}),
        (body, {**headers, "task": "pam.unknown"}),
        ("no list", headers),
        (body, {"task": "pam.rotate"}),
        (body, {}),
        ([1], {**headers, "id": {"a": 1}}),
    ]
    with targets.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        with Connection(broker.url, transport_options={"priority_steps": [0]}) as connection:
            producer = connection.Producer(serializer="json")
            for content, marks in forged:
                producer.publish(content, exchange="", routing_key=queue, headers=marks)
        eventually(lambda: sum(line["event"] == "message_refused" for line in process.lines()) >= len(forged))
        assert targets.site.vault.jobs.wait(targets.site.submit("rotate", uid), seconds=20)["state"] == "succeeded"
        eventually(lambda: broker.length(queue) == 0)


def test_a_killed_gateway_is_replaced_at_once(targets: Targets, broker: RedisBroker) -> None:
    targets.site.vault.pam.edit_gateway(targets.site.gateway_uid, max_instances=1)
    publisher = targets.site.publish(broker.url)
    login, uid = targets.add_role()
    marker = targets.site.folder_path / "killed"
    cut = {"PAM_TEST_BOUNDARY": f"after:change@{marker}"}
    with targets.site.process(broker.url, **cut) as process:
        process.wait_for("gateway_ready")
        job_uid = targets.site.submit("rotate", uid)
        assert process.wait() == -signal.SIGKILL
        assert not targets.logs_in(login, "First-Secret-1")
        assert targets.site.vault.jobs.get(job_uid)["state"] == "running"
        with targets.site.process(broker.url, **cut) as second:
            second.wait_for("gateway_ready")
            context = targets.site.router.context
            reconcile_once(context.database, context.clock, context.settings, publisher=publisher)
            job = targets.site.vault.jobs.wait(job_uid, seconds=20)
            assert (job["state"], job["attempts"]) == ("succeeded", 2), second.log()
            assert targets.logs_in(login, targets.site.password(uid))


def test_a_broker_that_goes_away_is_awaited(targets: Targets, broker: RedisBroker) -> None:
    _, uid = targets.add_role()
    with targets.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        broker.stop()
        time.sleep(1)
        broker.start()
        job_uid = targets.site.submit("rotate", uid)
        assert targets.site.vault.jobs.wait(job_uid, seconds=40)["state"] == "succeeded", process.log()


def test_a_removed_gateway_ends_with_its_own_exit_code(targets: Targets, broker: RedisBroker) -> None:
    from sqlalchemy import update

    from pam_jobs.db.tables import Client

    with targets.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        with targets.site.router.database.transaction() as session:
            session.execute(update(Client).values(removed_at=targets.site.router.context.clock.now()))
        assert process.wait() == EXIT_REMOVED
        assert process.lines()[-1]["event"] == "gateway_stopped"
    with targets.site.process(broker.url) as again:
        assert again.wait() == EXIT_REMOVED
        assert "gateway: " in again.log()


def test_a_wrong_configuration_ends_with_one_sentence(targets: Targets, broker: RedisBroker) -> None:
    targets.site.config_path.chmod(0o644)
    with targets.site.process(broker.url) as process:
        assert process.wait() == EXIT_CONFIGURATION
        path = targets.site.config_path
        said = f"gateway: the gateway's configuration {path} can be read by others: chmod 600 {path}"
        assert process.log().strip() == said
