"""What a failed rotation does about what it has changed: custom fields of the user, the resource and the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pam_jobs.records.record import Record

__all__ = ["RollbackFlags"]

_LABELS: Final = {
    "on_private_key_fail": "Rollback On Private Key Fail",
    "on_password_fail": "Rollback On Password Fail",
    "on_post_rotation_fail": "Rollback On Post Rotation Fail",
    "on_saas_fail": "Rollback On SaaS Fail",
    "re_run": "Re-run On Post Rotation Fail",
}


@dataclass(frozen=True, kw_only=True)
class RollbackFlags:
    """The settings, with the vendor's labels and defaults.

    Source: KeeperPAM documentation, "Rotation Rollback".
    """

    on_private_key_fail: bool = True  # the key was refused: the password is set back
    on_password_fail: bool = True  # the password was refused: the key is set back
    on_post_rotation_fail: bool = False  # a script failed: the whole credential is set back
    on_saas_fail: bool = True  # a plugin failed
    re_run: bool = False  # after a script failed and the credential was set back, the scripts run once more

    @classmethod
    def of(cls, *records: Record | None) -> RollbackFlags:
        """Return the settings; of each field the first record that has it decides.

        Args:
            records: user, resource and configuration, in this order; None is left out.

        Raises:
            InvalidInput: a field says neither true nor false. It is better told before anything is changed than
                guessed after it failed.
        """
        found: dict[str, bool] = {}
        for name, label in _LABELS.items():
            default = bool(getattr(cls, name))
            owner = next((record for record in records if record is not None and record.custom(label)), None)
            found[name] = default if owner is None else owner.flag(label, default)
        return cls(**found)
