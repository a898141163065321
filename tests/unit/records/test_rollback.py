"""Which record decides about a roll-back."""

from __future__ import annotations

import pytest

from pam_jobs.errors import InvalidInput
from pam_jobs.records.record import Record
from pam_jobs.records.rollback import RollbackFlags

pytestmark = pytest.mark.unit
POST = "Rollback On Post Rotation Fail"


def record(kind: str, **labels: str) -> Record:
    custom = [{"type": "text", "label": label.replace("_", " "), "value": [text]} for label, text in labels.items()]
    return Record.parse({"type": kind, "title": kind, "fields": [], "custom": custom})


def test_without_any_field_the_vendors_defaults_count():
    flags = RollbackFlags.of(record("pamUser"), None, record("pamNetworkConfiguration"))
    assert (flags.on_private_key_fail, flags.on_password_fail, flags.on_saas_fail) == (True, True, True)
    assert (flags.on_post_rotation_fail, flags.re_run) == (False, False)


@pytest.mark.parametrize(
    ("user", "resource", "configuration", "decided"),
    [
        ("TRUE", "FALSE", "FALSE", True),
        ("FALSE", "TRUE", "TRUE", False),
        ("", "TRUE", "FALSE", True),  # a field without a value is no answer
        ("", "", "TRUE", True),
        ("", "", "", False),
    ],
)
def test_user_then_resource_then_configuration_decide(user: str, resource: str, configuration: str, decided: bool):
    label = POST.replace(" ", "_")
    flags = RollbackFlags.of(
        record("pamUser", **{label: user}),
        record("pamMachine", **{label: resource}),
        record("pamNetworkConfiguration", **{label: configuration}),
    )
    assert flags.on_post_rotation_fail is decided


def test_each_field_is_looked_up_by_itself():
    flags = RollbackFlags.of(
        record("pamUser", Rollback_On_Password_Fail="false"),
        record("pamMachine", Rollback_On_Private_Key_Fail="No", Rollback_On_Password_Fail="true"),
        record("pamNetworkConfiguration", rollback_on_saas_fail="0", **{"re-run_on_post_rotation_fail": "yes"}),
    )
    assert flags == RollbackFlags(
        on_private_key_fail=False, on_password_fail=False, on_post_rotation_fail=False, on_saas_fail=False, re_run=True
    )


def test_a_value_that_says_neither_is_named():
    with pytest.raises(InvalidInput, match=POST):
        RollbackFlags.of(record("pamUser", **{POST.replace(" ", "_"): "perhaps"}))
