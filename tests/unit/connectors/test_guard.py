"""Before a rotator's login the engine may have something against it: every connector lets that through as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.activedirectory.winrm import ControllerSession
from connectors.base import Connector, Credential, Deadline, Session, Target
from connectors.kept import KeepingConnector
from connectors.registry import BUILT_IN, ConnectorRegistry
from pam_jobs.errors import LeaseLost, PamJobsError, VaultUnavailable
from pam_jobs.secret import SecretValue
from workers.breaker import TargetBusy
from workers.lease import Cancelled
from workers.lockout import LockoutBudget

pytestmark = pytest.mark.unit
_PLAIN = {"fake", "saas"}  # they keep no connections: the engine asks before it opens them


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - _PLAIN))
@pytest.mark.parametrize("kind", [LockoutBudget, TargetBusy, LeaseLost, Cancelled, VaultUnavailable])
def test_what_speaks_against_a_login_comes_through_and_nothing_is_sent(name: str, kind: type[PamJobsError]) -> None:
    connector = ConnectorRegistry([]).by_name(name)
    assert isinstance(connector, KeepingConnector)
    entered: list[str] = []

    @contextmanager
    def guard() -> Iterator[None]:
        entered.append(name)
        raise kind
        yield

    rotator = Credential(login="root", password=SecretValue("Secret-1"), guard=guard)
    with pytest.raises(kind):
        _open(connector, rotator)  # nobody listens there: a connection that was tried would be Unreachable
    assert entered == [name]


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - _PLAIN))
def test_a_login_that_fails_is_left_by_its_error(name: str) -> None:
    left: list[str] = []

    @contextmanager
    def guard() -> Iterator[None]:
        try:
            yield
        except PamJobsError as error:
            left.append(error.code)
            raise

    rotator = Credential(login="root", password=SecretValue("Secret-1"), guard=guard)
    with pytest.raises(PamJobsError) as told:
        _open(ConnectorRegistry([]).by_name(name), rotator)
    assert left == [told.value.code] == ["unreachable"]


def _open(connector: Connector, rotator: Credential) -> Session:
    options = {"directory_type": "active_directory"}
    target = Target(host="127.0.0.1", port=1, protocol=min(connector.protocols), database="orders", options=options)
    deadline = Deadline(2)
    if connector.name == "activedirectory-winrm":  # which looks before for a controller that answers
        assert isinstance(connector, KeepingConnector)
        return ControllerSession(connector.kept, target, rotator, deadline).connect()
    return connector.open(target, rotator, deadline)
