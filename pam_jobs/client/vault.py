"""The whole of the operator's side in one object."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Self

from pam_jobs.client.applications import Applications
from pam_jobs.client.folders import Folders
from pam_jobs.client.http import RouterClient
from pam_jobs.client.jobs import Jobs
from pam_jobs.client.pam import Pam
from pam_jobs.client.records import Records
from pam_jobs.client.session import Session

if TYPE_CHECKING:
    from pam_jobs.client.discovery import Discovery
    from pam_jobs.client.services import Services

__all__ = ["VaultClient"]


class VaultClient:
    """A signed-in user's view: what is inside is decrypted here, and leaves here encrypted only."""

    def __init__(self, router: RouterClient, session: Session) -> None:
        """Put the parts together; nothing is fetched before it is used.

        Args:
            router: signed-in connection.
            session: whose keys open the folders.
        """
        self.router = router
        self.session = session
        self.folders = Folders(router, session)
        self.records = Records(router, session, self.folders)
        self.applications = Applications(router, session, self.folders)
        self.pam = Pam(router, self.records)
        self.jobs = Jobs(router, self.records)

    @cached_property
    def discovery(self) -> Discovery:
        """Discovery jobs and their results; loaded when used, as it brings the record types and cron along."""
        from pam_jobs.client.discovery import Discovery

        return Discovery(self.router, self.records, self.pam, self.folders)

    @cached_property
    def services(self) -> Services:
        """What runs on machines as which user."""
        from pam_jobs.client.services import Services

        return Services(self.router, self.records, self.pam)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.router.close()
