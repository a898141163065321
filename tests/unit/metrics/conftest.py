from __future__ import annotations

import pytest

from pam_jobs.db.engine import Database
from tests.support.attempts import register
from tests.support.fleet import Fleet, new_fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    made = new_fleet(database)
    register(made)
    return made


@pytest.fixture
def record(fleet: Fleet) -> str:
    uid = fleet.add_record()
    fleet.put(uid)
    return uid
