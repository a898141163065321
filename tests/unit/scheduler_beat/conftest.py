from __future__ import annotations

import pytest

from pam_jobs.db.engine import Database
from tests.support.fleet import Fleet, new_fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return new_fleet(database)
