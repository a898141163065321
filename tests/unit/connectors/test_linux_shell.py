"""Quoting of commands and reading of answers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.linux.shell import (
    Privilege,
    as_root,
    as_user,
    check_login,
    check_password,
    command,
    read_chpasswd,
    read_entries,
    read_expiry,
    read_passwd,
    read_status,
    read_survey,
    sudo_input,
)
from pam_jobs.errors import AmbiguousReply, AuthRejected, Forbidden, NotApplied, PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

_WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4)


@given(_WORDS)
def test_a_shell_reads_every_word_as_it_is(words):
    line = command(["printf", "%s\\0", *words])
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_nul_in_a_command_is_refused():
    with pytest.raises(Unsupported):
        command(["echo", "a\0b"])


def test_sudo_that_asks_gets_the_password_on_its_input_and_never_in_its_words():
    argv = as_root(Privilege.SUDO_PASSWORD, ["chpasswd"])
    assert argv == ["sudo", "-k", "-S", "-p", "", "--", "chpasswd"]
    assert sudo_input(Privilege.SUDO_PASSWORD, SecretValue("pw")) == b"pw\n"
    assert sudo_input(Privilege.SUDO, SecretValue("pw")) == b""
    assert as_user(Privilege.ROOT, "joe", ["id"])[:3] == ["runuser", "-u", "joe"]
    assert as_root(Privilege.ROOT, ["id"]) == ["id"]


@pytest.mark.parametrize("login", ["joe", "svc-1", "a.b", "dom_user$", "ä", "x@corp"])
def test_logins_that_can_be(login):
    check_login(login)


@pytest.mark.parametrize("login", ["", "-rf", "#0", "+x", "a:b", "a b", "a\nb", "a/b", "a,b", "\0", "x" * 300])
def test_logins_that_cannot_be(login):
    with pytest.raises(Unsupported):
        check_login(login)


@pytest.mark.parametrize("text", ["", "a\nb", "a\rb", "a\0b", "x" * 512, "ä" * 256])
def test_passwords_that_cannot_be(text):
    with pytest.raises(PolicyRefused) as caught:
        check_password(SecretValue(text))
    assert not text or text not in caught.value.sentence()


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (0, "", type(None)),
        (1, "sudo: a password is required", Forbidden),
        (1, "Sorry, user joe is not allowed to execute '/usr/sbin/chpasswd' as root on host.", Forbidden),
        (1, "joe is not in the sudoers file.", Forbidden),
        (127, "sh: 1: chpasswd: command not found", Unsupported),
        (1, "BAD PASSWORD: it is too short\nchpasswd: (line 1, user joe) password not changed", PolicyRefused),
        (1, "chpasswd: (user x) pam_chauthtok() failed\nchpasswd: (line 1, user x) password not changed", NotApplied),
        (1, "chpasswd: line 1: user 'x' does not exist\nchpasswd: error detected, changes ignored", NotApplied),
        (1, "chpasswd: cannot lock /etc/passwd; try again later.", Forbidden),
        (-1, "", AmbiguousReply),
        (3, "something nobody has seen", AmbiguousReply),
    ],
)  # fmt: skip
def test_what_chpasswd_says(code, said, kind):
    assert type(read_chpasswd(code, said)) is kind


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (0, "passwd: password updated successfully", type(None)),
        (10, "Current password: passwd: Authentication token manipulation error\npasswd: password unchanged", AuthRejected),
        (10, "Current password: New password: Retype new password: You must choose a longer password.\n", PolicyRefused),
        (10, "Current password: New password: passwd: Authentication token manipulation error\npasswd: password unchanged",
         PolicyRefused),
        (10, "Current password: New password: BAD PASSWORD: The password is a palindrome", PolicyRefused),
        (10, "You must wait longer to change your password.", PolicyRefused),
        (10, "Current password: New password: Retype new password: Password unchanged\n", PolicyRefused),
        (127, "sh: passwd: not found", Unsupported),
        (1, "no words we know", AmbiguousReply),
    ],
)  # fmt: skip
def test_what_passwd_says(code, said, kind):
    assert type(read_passwd(code, said)) is kind


def test_secrets_in_a_tools_words_are_not_repeated():
    error = read_chpasswd(3, "line 1: joe:Geheim7", SecretValue("Geheim7"))
    assert "Geheim7" not in str(error)


def test_status_lines_of_several_distributions():
    day = datetime(2026, 11, 22, tzinfo=UTC)
    assert read_status("joe P 11/22/2026 0 99999 7 -1") == ("joe", False, day)
    assert read_status("joe L 2026-11-22 0 99999 7 -1") == ("joe", True, day)
    assert read_status("joe LK 2026-11-22 0 99999 7 -1 (Password locked.)")[1] is True
    assert read_status("joe NP") == ("", None, None)


def test_expiry_is_the_first_of_the_two():
    text = "Last password change\t: Nov 22, 2026\nPassword expires\t: Jan 02, 2027\nAccount expires\t: Dec 31, 2026\n"
    assert read_expiry(text) == datetime(2026, 12, 31, tzinfo=UTC)
    assert read_expiry("Password expires : never\nAccount expires : never") is None


def test_entries_that_are_none_are_left_out():
    entries = read_entries("root:x:0:0:root:/root:/bin/bash\nbroken\n+::::::\njoe:x:1000:1000:Joe,,,:/home/joe:/bin/sh")
    assert [(entry.login, entry.uid, entry.home) for entry in entries] == [
        ("root", 0, "/root"),
        ("joe", 1000, "/home/joe"),
    ]


def test_account_found_by_its_number_is_not_the_account():
    text = "uid=1\nentry=joe:x:1000:1000::/home/joe:/bin/sh\nsudo=0\nsaid=\n"
    assert read_survey(text, "joe").entry is not None
    assert read_survey(text, "1000").entry is None


def test_machine_that_is_no_linux_is_told_so():
    with pytest.raises(Unsupported):
        read_survey("% Invalid input detected", "joe")
