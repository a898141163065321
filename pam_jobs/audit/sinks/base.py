"""What a receiver of the audit log is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pam_jobs.errors import DeliveryFailed, InvalidInput
from pam_jobs.secret import SecretValue

__all__ = ["DeliveryRefused", "Sink", "SinkEvent", "SinkSettings"]


class DeliveryRefused(DeliveryFailed):
    """The receiver will go on refusing until somebody changes its settings."""

    code = "delivery_refused"


@dataclass(frozen=True, kw_only=True)
class SinkEvent:
    """One event on its way out."""

    position: int
    name: str
    created_at: datetime
    body: Mapping[str, Any]  # the JSON document
    sentence: str


class SinkSettings(BaseModel):
    """Settings of one kind of sink; no secret is among them."""

    model_config = ConfigDict(extra="forbid")


class Sink(ABC):
    """Delivers batches to one receiver.

    A sink keeps nothing between batches. It returns when the receiver has the whole batch and raises when it cannot be
    sure of that; the batch is then sent again, whole and in the same order, so a receiver may see an event twice
    (``event_uid`` is the same then) but never misses one.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[SinkSettings]]
    needs_secret: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def build(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> Self:
        """Return a sink of settings that were validated when it was set up; nothing is connected yet."""

    @abstractmethod
    def deliver(self, events: Sequence[SinkEvent]) -> None:
        """Hand over a batch, within a minute.

        Args:
            events: in the log's order; at least one.

        Raises:
            DeliveryFailed: the receiver may not have all of it. The text names no secret.
            DeliveryRefused: the receiver said no in a way that time alone does not cure.
        """

    @classmethod
    def check(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> dict[str, Any]:
        """Return the settings complete with defaults.

        Raises:
            InvalidInput: a setting is missing, unknown or out of range; nothing was changed.
        """
        if cls.needs_secret and not secret:
            raise InvalidInput(f"a {cls.kind} sink needs a token", remedy="give the token that the receiver issued")
        if secret and not cls.needs_secret:
            raise InvalidInput(f"a {cls.kind} sink takes no token", remedy="leave the token out")
        try:
            return cls.settings_type.model_validate(settings).model_dump()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            text = first["msg"].removeprefix("Value error, ")
            known = ", ".join(sorted(cls.settings_type.model_fields))
            raise InvalidInput(
                f"{name}: {text}", remedy=f"correct it; settings of a {cls.kind} sink are {known}"
            ) from None
