"""What can be no password whichever target it is for."""

from __future__ import annotations

import pytest

from connectors.base import Candidate
from connectors.passwords import password_of, plain_password_of
from pam_jobs.errors import PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("read", [password_of, plain_password_of])
def test_a_candidate_of_a_key_alone_has_no_password(read):
    with pytest.raises(Unsupported) as caught:
        read(Candidate(public_key="ssh-ed25519 AAAA"))
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "a\0b", "half \ud800", "ééé"])
def test_what_no_target_can_hold_is_refused_without_telling_it(text):
    with pytest.raises(PolicyRefused) as caught:
        plain_password_of(Candidate(password=SecretValue(text)), most_bytes=5)
    assert caught.value.remedy
    assert not text or text not in str(caught.value)


def test_anything_else_comes_back_as_it_is():
    secret = SecretValue(" é\n'\"$")
    assert plain_password_of(Candidate(password=secret), most_bytes=8) is secret
