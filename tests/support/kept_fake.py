"""The fake target behind a connector that keeps its rotators' connections, as most real ones do."""

from __future__ import annotations

from connectors.base import Account, Candidate, Credential, Deadline, Fence, Preflight, Target, Verdict
from connectors.fake import FakeConnector, FakeSession
from connectors.kept import KeepingConnector, KeptConnections, KeptSession
from pam_jobs.errors import Effect

__all__ = ["KeptFakeConnector"]


class KeptFakeConnector(FakeConnector, KeepingConnector[FakeSession]):
    """Logs in once, and goes on with that."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: KeptConnections[FakeSession] = KeptConnections(
            is_usable=lambda _link: True, close=lambda link: link.close()
        )

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> _Session:  # type: ignore[override]
        return _Session(self, target, rotator, deadline).connect()

    def log_in(self, target: Target, rotator: Credential | None, deadline: Deadline) -> FakeSession:
        return super().open(target, rotator, deadline)


class _Session(KeptSession[FakeSession]):
    def __init__(
        self, connector: KeptFakeConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector

    def _log_in(self, rotator: Credential) -> FakeSession:
        return self._connector.log_in(self._target, rotator, self._deadline)

    def preflight(self, account: Account) -> Preflight:
        return self._require_link().preflight(account)

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        return self._require_link().change(account, candidate, fence)

    def probe(self, account: Account, credential: Credential) -> Verdict:
        return self._connector.log_in(self._target, None, self._deadline).probe(account, credential)
