"""The store of idle connections."""

from __future__ import annotations

import threading

import pytest

from connectors.base import Credential, Target
from connectors.kept import KeptConnections, kept_key
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

HERE = Target(host="h", port=1, protocol="x")


class Link:
    def __init__(self) -> None:
        self.is_up = True
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def store(**bounds) -> tuple[KeptConnections[Link], Time]:
    time = Time()
    return KeptConnections(is_usable=lambda link: link.is_up, close=Link.close, monotonic=time, **bounds), time


def key(login: str = "admin", password: str = "pw", **more: str):  # noqa: S107
    return kept_key(HERE, Credential(login=login, password=SecretValue(password), **more))


def test_connection_is_taken_by_the_same_credential_only():
    kept, _ = store()
    link = Link()
    kept.give(key(), link)
    assert kept.take(key(password="other")) is None
    assert kept.take(key(login="other")) is None
    assert kept.take(key(database="other")) is None
    assert kept.take(key()) is link
    assert kept.take(key()) is None


def test_key_shows_no_secret():
    assert "pw" not in repr(key())


def test_dead_connection_is_closed_and_not_handed_out():
    kept, _ = store()
    dead, alive = Link(), Link()
    kept.give(key(), alive)
    kept.give(key(), dead)
    dead.is_up = False
    assert kept.take(key()) is alive
    assert dead.is_closed


def test_idle_connection_ends_with_its_time():
    kept, time = store(idle_seconds=10)
    link = Link()
    kept.give(key(), link)
    time.now = 11
    assert kept.take(key()) is None
    assert link.is_closed


def test_age_counts_through_use():
    kept, time = store(idle_seconds=10, age_seconds=25)
    link = Link()
    for _ in range(3):
        kept.give(key(), link)
        time.now += 9
        if time.now < 25:
            assert kept.take(key()) is link
    assert kept.take(key()) is None
    assert link.is_closed


def test_bounds_are_kept():
    kept, time = store(max_total=3, max_per_key=2)
    links = [Link() for _ in range(4)]
    for number, link in enumerate(links):
        time.now = number
        kept.give(key(login="a" if number < 3 else "b"), link)
    assert len(kept) == 3
    assert [link.is_closed for link in links] == [True, False, False, False]
    time.now = 9
    kept.give(key(login="c"), Link())
    assert len(kept) == 3
    assert links[1].is_closed


def test_zero_keeps_nothing():
    kept, _ = store(max_total=0)
    link = Link()
    kept.give(key(), link)
    assert link.is_closed
    assert len(kept) == 0


def test_changed_credential_is_forgotten():
    kept, _ = store()
    mine, other = Link(), Link()
    kept.give(key(), mine)
    kept.give(key(login="other"), other)
    kept.forget("h", 1, "admin")
    assert mine.is_closed
    assert kept.take(key(login="other")) is other


def test_shutdown_closes_everything():
    kept, _ = store()
    links = [Link(), Link()]
    for link in links:
        kept.give(key(), link)
    kept.close_idle()
    assert all(link.is_closed for link in links)
    assert len(kept) == 0


def test_threads_never_share_one_connection():
    kept, _ = store()
    held: set[int] = set()
    clashes = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(200):
            link = kept.take(key()) or Link()
            with lock:
                if id(link) in held:
                    clashes.append(link)
                held.add(id(link))
            with lock:
                held.discard(id(link))
            kept.give(key(), link)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert len(kept) <= 16
