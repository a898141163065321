"""What a resource's record wants done beside the password, and the states of an account that no rotation goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from connectors.activedirectory.accounts import AccountState
from connectors.options import is_wanted
from pam_jobs.errors import Locked, Unsupported

__all__ = ["Wishes"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The custom fields ``Unlock Account`` and ``Change At Next Logon``."""

    unlocks: bool
    next_logon: str  # clear, keep, set: what becomes of the demand for another password at the next logon

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """Return what the target's options say.

        Raises:
            Unsupported: an option has no known value.
        """
        unlocks = is_wanted(options, "unlock_account", "Unlock Account")
        next_logon = options.get("change_at_next_logon", "").strip().casefold() or "clear"
        if next_logon not in {"clear", "keep", "set"}:
            raise Unsupported(
                f"{next_logon!r} is no value of Change At Next Logon", remedy="use clear (default), keep or set"
            )
        return cls(unlocks=unlocks, next_logon=next_logon)

    def check(self, state: AccountState) -> None:
        """Refuse what no login could prove.

        Raises:
            Locked: with the reason.
        """
        if state.disabled:
            raise Locked("the account is disabled", remedy="enable it, or disable the rotation of its record")
        if state.expired:
            raise Locked("the account has expired (accountExpires)", remedy="move its end, or disable the rotation")
        if state.locked and not self.unlocks:
            remedy = "unlock it, wait, or set the custom field Unlock Account of the resource to true"
            raise Locked("the account is locked", remedy=remedy)

    def beside(self, state: AccountState) -> dict[str, bytes]:
        """Return what a reset sets beside the password: by itself it ends the demand for another one at the next logon."""
        values = {}
        if self.next_logon == "set" or (self.next_logon == "keep" and state.must_change):
            values["pwdLastSet"] = b"0"
        if self.unlocks and state.locked:
            values["lockoutTime"] = b"0"
        return values
