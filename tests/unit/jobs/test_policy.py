from __future__ import annotations

from pam_jobs.jobs.policy import JobPolicy

POLICY = JobPolicy(backoff_seconds=10, backoff_cap_seconds=100)


def test_the_back_off_doubles_and_is_capped():
    longest = [POLICY.backoff(attempts, random=lambda: 1.0).total_seconds() for attempts in (1, 2, 3, 4, 5, 99)]
    assert longest == [10, 20, 40, 80, 100, 100]


def test_the_back_off_is_spread_over_its_second_half():
    assert POLICY.backoff(2, random=lambda: 0.0).total_seconds() == 10
    spread = {POLICY.backoff(3).total_seconds() for _ in range(20)}
    assert len(spread) > 10
    assert all(20 <= seconds <= 40 for seconds in spread)
