from __future__ import annotations

import pytest

from pam_jobs.vault.throttle import RequestWindow

pytestmark = pytest.mark.unit


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_may_ask_so_often_in_a_window() -> None:
    seconds = Seconds()
    window = RequestWindow(2, 10.0, seconds)
    assert window.admit("a").is_admitted
    seconds.now = 4.0
    assert window.admit("a").is_admitted
    refused = window.admit("a")
    assert (refused.retry_after_seconds, refused.is_first_refusal) == (6.0, True)
    assert window.admit("a").is_first_refusal is False
    assert window.admit("b").is_admitted
    seconds.now = 10.0
    assert window.admit("a").is_admitted
    assert window.admit("a").is_first_refusal is True


def test_keys_not_heard_of_are_forgotten() -> None:
    seconds = Seconds()
    window = RequestWindow(2, 10.0, seconds)
    for number in range(5000):
        seconds.now = number * 0.1
        window.admit(str(number))
    assert len(window._keys) < 1200
