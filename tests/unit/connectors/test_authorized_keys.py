"""Editing the text of authorized_keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.ssh.authorized_keys import KEY_TYPES, with_key
from pam_jobs.errors import InvalidInput
from pam_jobs.records.keys import generate_key

pytestmark = pytest.mark.unit

MARK = "keeper-security-abc"
ONE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO+gtnWJLxJEX9H4FlmvblUBtRzwNWBunbWLhoceHLdi"
TWO = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1jWWwX3QeSH+WFJhHzQlVc7zbbQMNcmb/8iu3tvuYk"
LINE_ONE = f"{ONE} {MARK}\n".encode()
LINE_TWO = f"{TWO} {MARK}\n".encode()
THEIRS = b"# google keys\nssh-rsa AAAAB3Nza= provider\n\n  \tecdsa-sha2-nistp256 AAAA old key  \n"


def test_first_key_is_appended_and_everything_else_stays():
    assert with_key(THEIRS, ONE, MARK) == THEIRS + LINE_ONE


def test_missing_file_becomes_one_line():
    assert with_key(b"", ONE, MARK) == LINE_ONE


def test_later_key_replaces_our_line_alone():
    assert with_key(THEIRS + LINE_ONE + THEIRS, TWO, MARK) == THEIRS + LINE_TWO + THEIRS


def test_same_key_changes_nothing():
    assert with_key(THEIRS + LINE_ONE, ONE, MARK) == THEIRS + LINE_ONE


def test_missing_last_line_break_is_added_before_our_line():
    assert with_key(b"ssh-rsa AAAA x", ONE, MARK) == b"ssh-rsa AAAA x\n" + LINE_ONE


def test_our_last_line_keeps_its_missing_line_break():
    assert with_key(THEIRS + LINE_ONE.rstrip(b"\n"), TWO, MARK) == THEIRS + LINE_TWO.rstrip(b"\n")


def test_second_line_of_ours_is_dropped_because_it_keeps_an_old_key_alive():
    assert with_key(LINE_ONE + THEIRS + LINE_ONE, TWO, MARK) == LINE_TWO + THEIRS


def test_line_of_another_record_is_not_ours():
    other = f"{ONE} {MARK}2\n".encode()
    assert with_key(other, TWO, MARK) == other + LINE_TWO


def test_comment_line_that_ends_with_the_mark_is_not_ours():
    note = f"# rotated by {MARK}\n".encode()
    assert with_key(note, ONE, MARK) == note + LINE_ONE


def test_options_of_our_line_stay_in_force():
    options = b'from="10.0.0.0/8,ssh-rsa AAAA",command="echo \\"hi there\\"",no-pty '
    assert with_key(options + LINE_ONE, TWO, MARK) == options + LINE_TWO
    old_kind = b"no-pty ssh-dss AAAAB3 " + MARK.encode() + b"\n"
    assert with_key(old_kind, TWO, MARK) == b"no-pty " + LINE_TWO


def test_line_endings_of_windows_stay():
    ours = LINE_ONE.replace(b"\n", b"\r\n")
    assert with_key(b"ssh-rsa AAAA x\r\n" + ours, TWO, MARK) == b"ssh-rsa AAAA x\r\n" + LINE_TWO.replace(b"\n", b"\r\n")


@given(st.binary(max_size=200))
def test_other_bytes_stay_whatever_they_are(junk):
    result = with_key(junk, ONE, MARK)
    joint = b"" if not junk or junk.endswith(b"\n") else b"\n"
    assert result == junk + joint + LINE_ONE
    assert with_key(result, TWO, MARK) == junk + joint + LINE_TWO


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_every_algorithm_makes_a_line(kind):
    public = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB" if kind == "ssh-rsa" else generate_key(kind).public
    assert with_key(b"", public, MARK) == f"{public} {MARK}\n".encode()


@pytest.mark.parametrize(
    ("public", "comment"),
    [
        ("", MARK), ("ssh-ed25519", MARK), (f"{ONE}\nssh-rsa AAAA", MARK), (f"{ONE} more", MARK), ("ssh-rsa !!!", MARK),
        (ONE.replace("ssh-ed25519", "ssh-rsa"), MARK), (ONE, ""), (ONE, "two words"), (ONE, "a\nb"), (ONE, "ünicode"),
    ],
)  # fmt: skip
def test_what_makes_no_clean_line_is_refused(public, comment):
    with pytest.raises(InvalidInput):
        with_key(THEIRS, public, comment)
