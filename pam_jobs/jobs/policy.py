"""Numbers of the job system that an operator may turn, and the back-off made of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from pam_jobs.settings import ControlSettings

__all__ = ["JobPolicy"]

_random = secrets.SystemRandom().random


class JobPolicy(BaseSettings):
    """How jobs wait, are tried again and given up; from ``PAM_*`` like the other settings."""

    model_config = SettingsConfigDict(env_prefix="PAM_", extra="ignore", frozen=True)

    lease_seconds: int = Field(60, ge=5, le=3600, description="how long a lease lasts without renewal")
    offline_seconds: int = Field(30, ge=5, description="an instance not heard of for this long is offline")
    message_seconds: int = Field(86_400, ge=60, description="how long a published message is valid")
    republish_seconds: int = Field(30, ge=1, description="a queued job not leased after this is published again")
    republish_cap_seconds: int = Field(300, ge=1, description="longest wait between two publications, gateway idle")
    offline_republish_seconds: int = Field(1800, ge=60, description="the same while the gateway is offline or busy")
    refusal_limit: int = Field(3, ge=1, le=100, description="logins an account may be refused within the window")
    refusal_window_seconds: int = Field(900, ge=1, description="the window of the lockout budget")
    backoff_seconds: float = Field(15.0, gt=0, description="first wait after an unknown outcome")
    backoff_cap_seconds: float = Field(900.0, gt=0, description="longest wait after an unknown outcome")
    attempts_limit: int = Field(12, ge=1, description="attempts after which an unresolved job waits for an operator")
    crash_limit: int = Field(5, ge=2, le=100, description="lost leases after which a job is set aside")
    patience_seconds: float = Field(300.0, gt=0, description="a job that waits longer gets every fourth turn")
    busy_seconds: float = Field(4.0, gt=0, description="wait of a job whose credential another job is working on")
    set_aside_seconds: float = Field(900.0, gt=0, description="how often a job asks again whose target is set aside")

    @property
    def patience(self) -> timedelta:
        """How long a job waits before it gets a turn whatever its priority."""
        return timedelta(seconds=self.patience_seconds)

    @classmethod
    def of(cls, settings: ControlSettings) -> JobPolicy:
        """Return the policy with what the control plane's settings say already."""
        return cls(
            lease_seconds=settings.lease_seconds,
            offline_seconds=settings.offline_seconds,
            message_seconds=settings.message_seconds,
            republish_seconds=settings.republish_seconds,
        )

    def backoff(self, attempts: int, *, random: Callable[[], float] = _random) -> timedelta:
        """Return how long to wait before the next attempt: doubled each time, capped, and spread by half.

        Args:
            attempts: made so far, at least 1.
            random: gives a number from 0 to 1.
        """
        full = min(self.backoff_cap_seconds, self.backoff_seconds * 2.0 ** min(max(attempts, 1) - 1, 30))
        return timedelta(seconds=full / 2 + random() * full / 2)
