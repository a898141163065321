from __future__ import annotations

from pathlib import Path

import pytest

from pam_jobs.client.vault import VaultClient
from pam_jobs.db.engine import Database
from tests.support.operator import Office, open_office


@pytest.fixture
def office(sqlite_database: Database, tmp_path: Path) -> Office:
    return open_office(sqlite_database, tmp_path)


@pytest.fixture
def client(office: Office) -> VaultClient:
    return office.client()
