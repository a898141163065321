from __future__ import annotations

import threading

import pytest

from pam_jobs.db.engine import Database, assert_no_transaction
from pam_jobs.errors import StateError


@pytest.mark.parametrize("read_only", [False, True])
def test_nobody_else_is_contacted_while_a_transaction_is_open(sqlite_database: Database, read_only: bool) -> None:
    elsewhere: list[str] = []

    def contact() -> None:
        assert_no_transaction()
        elsewhere.append("contacted")

    assert_no_transaction()
    with sqlite_database.transaction(read_only=read_only):
        with pytest.raises(StateError, match="transaction is open"):
            assert_no_transaction()
        other = threading.Thread(target=contact)
        other.start()
        other.join()
    assert elsewhere == ["contacted"], "a transaction is of one thread"
    assert_no_transaction()


def test_a_transaction_that_failed_is_no_longer_open(sqlite_database: Database) -> None:
    with pytest.raises(ZeroDivisionError), sqlite_database.transaction():
        raise ZeroDivisionError
    assert_no_transaction()
