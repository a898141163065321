"""Which parts of a credential rotate, and the new values for them."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.base import Capability, Connector, Preflight
from pam_jobs.errors import InvalidInput, Unsupported
from pam_jobs.records.complexity import Complexity
from pam_jobs.records.generator import TargetLimits, generate_password
from pam_jobs.records.keys import generate_key, rotates_key, wanted_algorithm
from pam_jobs.records.record import Record
from workers.values import Value

__all__ = ["Parts", "new_value", "parts_of"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a rotation of this record changes."""

    password: bool
    algorithm: str | None  # of the new SSH key; None leaves the key alone

    def names(self) -> list[str]:
        """Return the parts for a person."""
        return [
            *(["password"] if self.password else []),
            *([f"SSH key ({self.algorithm})"] if self.algorithm else []),
        ]


def parts_of(record: Record, connector: Connector) -> Parts:
    """Return what rotates: a password where the record has one or should have one, a key where it has one.

    Raises:
        InvalidInput: nothing is left to rotate, or the key's type is not one that can be made.
        Unsupported: the target cannot have what the record holds.
    """
    has_key = record.private_key is not None
    turns_key = rotates_key(record)
    password = record.password is not None or not has_key
    if has_key and Capability.KEYS not in connector.capabilities:
        if not password:
            raise Unsupported(
                f"the record holds an SSH key only, and {connector.name} has no keys",
                remedy="store a password in the record",
            )
        turns_key = False
    if not password and not turns_key:
        raise InvalidInput(
            "the record holds a private key only, and its custom field 'Private Key Rotate' forbids to change it",
            remedy="set 'Private Key Rotate' to TRUE, or disable the rotation of this record",
        )
    return Parts(password=password, algorithm=wanted_algorithm(record) if turns_key else None)


def new_value(parts: Parts, record: Record, complexity: Complexity, limits: Preflight) -> Value:
    """Return new values for the parts.

    Raises:
        InvalidInput: complexity and the target's limits contradict each other.
    """
    password = None
    if parts.password:
        password = generate_password(
            complexity,
            TargetLimits(
                max_length=limits.max_length,
                min_length=limits.min_length,
                forbidden_characters=limits.forbidden_characters,
                forbidden_words=limits.forbidden_words,
                min_classes=limits.min_classes,
            ),
        )
    if parts.algorithm is None:
        return Value(password=password)
    pair = generate_key(parts.algorithm, like=record.private_key)
    return Value(password=password, private_key=pair.private_pem, public_key=pair.public)
