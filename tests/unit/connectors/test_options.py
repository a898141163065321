"""Fields of a record that say yes or no."""

from __future__ import annotations

import pytest

from connectors.options import is_wanted
from pam_jobs.errors import Unsupported

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("text", "wanted"), [("TRUE", True), (" yes ", True), ("on", True), ("", False), ("0", False)])
def test_a_field_says_yes_or_no_in_any_case(text, wanted):
    assert is_wanted({"Unlock": text}, "Unlock") is wanted


def test_a_field_that_is_not_there_is_a_no():
    assert is_wanted({}, "Unlock") is False


def test_a_field_that_says_neither_is_refused_by_its_name():
    with pytest.raises(Unsupported, match="Unlock Account") as caught:
        is_wanted({"unlock_account": "maybe"}, "unlock_account", "Unlock Account")
    assert caught.value.remedy
