"""The lockout budget of an administrator over several instances of a gateway, with a real router on both databases."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from connectors.base import Connector, Credential, Deadline, Target, VerdictState
from connectors.fake import FakeAccount, FakeSession, FakeTarget
from pam_jobs.errors import AuthRejected
from pam_jobs.records.record import Record
from tests.support.gateway_site import GatewaySite
from tests.support.kept_fake import KeptFakeConnector
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration
_ADMIN = "root"
_INSTANCES, _THREADS = 2, 4


class _Gateways(KeptFakeConnector):
    """What all instances reach the target by; logins of the administrator meet there, so that none is refused before others."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0
        self._lock = threading.Lock()
        self._meeting: threading.Barrier | None = None

    def chain_for(self, protocol: str, kind: str | None = None) -> Sequence[Connector]:
        return [self]

    def recognisers(self) -> Sequence[Connector]:
        return []

    def meet(self, most: int) -> None:
        """From now on, let so many logins wait for each other; where fewer come, they go on after half a second."""
        self.close_idle()
        self._meeting = threading.Barrier(most)

    def log_in(self, target: Target, rotator: Credential | None, deadline: Deadline) -> FakeSession:
        if rotator is not None:
            self._wait()
        try:
            session = super().log_in(target, rotator, deadline)
        except AuthRejected:
            self._count()
            raise
        probe = session.probe

        def watched(account, credential):  # type: ignore[no-untyped-def]
            if credential.login != _ADMIN:
                return probe(account, credential)
            self._wait()
            verdict = probe(account, credential)
            if verdict.state is VerdictState.REFUSED:
                self._count()
            return verdict

        session.probe = watched  # type: ignore[method-assign]
        return session

    def _wait(self) -> None:
        if self._meeting is not None:
            with suppress(threading.BrokenBarrierError):
                self._meeting.wait(0.5)

    def _count(self) -> None:
        with self._lock:
            self.refused += 1


def test_an_administrator_is_never_refused_more_often_than_its_budget_allows(
    router: RunningRouter, tmp_path: Path
) -> None:
    """Given two instances with four threads each, when the password was changed by hand, then it is refused three times."""
    gateways, target = _Gateways(), FakeTarget()
    site = GatewaySite(router, tmp_path, port_mapping="9999=ssh")
    site.registry = gateways  # type: ignore[assignment]
    gateways.add("db.test", 9999, target)
    target.accounts[_ADMIN] = FakeAccount(password="Admin-Secret-4", is_admin=True)
    admin = site.add_user(_ADMIN, "Admin-Secret-1")
    for number in (2, 3, 4):  # each leaves an older value that is tried as well
        _edit(site, admin, f"Admin-Secret-{number}")
    resource = site.add_resource("pamMachine", "db.test", 9999, admin)
    site.rotate_by(admin, resource)
    users = []
    for number in range(_INSTANCES * _THREADS):
        target.accounts[f"app{number}"] = FakeAccount(password="Old-Secret-1")
        users.append(site.add_user(f"app{number}", "Old-Secret-1"))
        site.rotate_by(users[-1], resource)
    engines = [site.engine() for _ in range(_INSTANCES)]
    for engine, user in zip(engines, users, strict=False):
        assert site.run("rotate", user, engine)["state"] == "succeeded"  # who was let in a moment ago is in no hurry
    target.accounts[_ADMIN].password = "changed-by-hand"
    gateways.meet(_INSTANCES * _THREADS)
    jobs = [site.submit("verify", admin), *(site.submit("rotate", user) for user in users[:-1])]
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(lambda numbered: engines[numbered[0] % _INSTANCES].run(numbered[1]), enumerate(jobs)))
    assert gateways.refused == 3
    ends = {(job["state"], job["cause"]) for job in map(site.opened, jobs)}
    assert any(cause in {"admin_refused", "lockout_budget"} for _, cause in ends), ends


def _edit(site: GatewaySite, uid: str, password: str) -> None:
    def change(record: Record) -> Record:
        return record.set_field("password", password)

    site.vault.records.update(uid, change)
