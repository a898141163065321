"""What runs on a fake target as an account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from connectors.base import Dependant, DependantOutcome, DependantState, RunAs

__all__ = ["FakeService", "update"]

LivePassword = Callable[[str], str | None]
"""Returns the password of an account as the machine shows it."""


@dataclass(kw_only=True)
class FakeService:
    """A service; it starts only while the password that it keeps is the account's."""

    kind: str = "service"
    name: str
    account: str
    password: str = field(default="", repr=False)
    is_running: bool = False
    depends_on: tuple[str, ...] = ()  # names of services that must run before
    refuses: bool = False  # the target does not take a new password
    is_broken: bool = False  # does not start, whatever its password
    updates: int = 0  # passwords that were set
    starts: int = 0

    def start(self, live: LivePassword) -> bool:
        """Start it; False when it does not come up."""
        self.is_running = not self.is_broken and (not self.password or self.password == live(self.account))
        self.starts += 1
        return self.is_running


def update(
    services: Sequence[FakeService], live: LivePassword, dependant: Dependant, run_as: RunAs
) -> DependantOutcome:
    """Set the password of one service and, where it runs, restart it with what runs on top of it."""
    wanted = dependant.kind, dependant.name.casefold()
    found = next((each for each in services if (each.kind, each.name.casefold()) == wanted), None)
    if found is None:
        return DependantOutcome(state=DependantState.NOT_FOUND, cause="not_found", detail="there is no such service")
    if not run_as.is_meant(found.account):
        detail = f"it runs as {found.account}"
        return DependantOutcome(state=DependantState.OTHER_ACCOUNT, cause="not_running_as_user", detail=detail)
    if found.refuses:
        return DependantOutcome(state=DependantState.REFUSED, cause="forbidden", detail="the fake target refuses it")
    new = run_as.password.reveal()
    if found.password == new and found.is_running:
        return DependantOutcome(state=DependantState.ALREADY)
    found.password = new
    found.updates += 1
    if not found.is_running:
        return DependantOutcome(state=DependantState.UPDATED)
    return _restart(services, live, found)


def _restart(services: Sequence[FakeService], live: LivePassword, found: FakeService) -> DependantOutcome:
    chain = [found]
    for service in services:  # they stand after what they depend on
        if service.is_running and any(below.name in service.depends_on for below in chain):
            chain.append(service)
    for service in reversed(chain):
        service.is_running = False
    for service in chain:
        if not service.start(live):
            detail = f"{service.name} did not start again"
            return DependantOutcome(state=DependantState.NOT_STARTED, cause="not_started", detail=detail)
    return DependantOutcome(state=DependantState.RESTARTED, restarted=tuple(service.name for service in chain))
