"""The PowerShell programs: an independent parser reads them, they are short enough, and hold nothing that varies."""

from __future__ import annotations

import base64
import json

import pytest
import tree_sitter
import tree_sitter_powershell
from hypothesis import given
from hypothesis import strategies as st

from connectors.activedirectory.winrm_search import RESET, SEARCH
from connectors.windows import programs
from connectors.windows.programs import PROGRAMS as PLAIN_PROGRAMS
from connectors.windows.programs import Answer, command_line, encode_input, read_answer
from connectors.windows.service_programs import SERVICE_PROGRAMS
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit
PROGRAMS = (*PLAIN_PROGRAMS, *SERVICE_PROGRAMS, SEARCH, RESET)

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))


def has_error(text: str) -> bool:
    return PARSER.parse(text.encode()).root_node.has_error


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_is_powershell(program):
    assert not has_error(program.text)
    assert has_error(program.text.replace("}catch{", "catch{"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_fits_a_command_of_cmd_and_is_ascii(program):
    line = command_line(program, "C:\\Program Files\\PowerShell\\7\\pwsh.exe")
    assert len(line) < programs.COMMAND_LIMIT
    assert program.text.isascii()
    assert base64.b64decode(line.split()[-1]).decode("utf-16-le") == program.text


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_secret_is_given_to_methods_only(program):
    """Module logging writes down the parameters of commands, and what is piped to them."""
    for line in program.body.splitlines():
        assert "$p|" not in line.replace(" ", "")
        assert not any(
            f" -{name} $p" in line for name in ("Password", "String", "InputObject", "Value", "ArgumentList")
        )


@pytest.mark.parametrize(
    "shell", ["a;b", "x & y", 'q"q', "$(id)", "-Command", "a\nb", "%COMSPEC%", "`x", "x" * 300, "|"]
)
def test_a_shell_that_is_more_than_a_path_is_refused(shell):
    with pytest.raises(Unsupported) as caught:
        command_line(programs.LOOK, shell)
    assert "Shell" in str(caught.value.remedy)


@given(login=st.text(max_size=30), secret=st.text(max_size=60))
def test_input_is_ascii_and_comes_back_as_it_was(login, secret):
    rows = encode_input({"login": login}, SecretValue(secret)).decode("ascii").split("\r\n")
    assert json.loads(base64.b64decode(rows[0])) == {"login": login}
    assert base64.b64decode(rows[1]).decode() == secret


def answer(value: object) -> str:
    return programs.ANSWER + base64.b64encode(json.dumps(value).encode()).decode()


def test_an_answer_is_found_among_what_else_is_printed():
    told = answer({"ok": True, "value": [1]})
    assert read_answer(f"Microsoft Windows\r\n{told}\r\nbye") == Answer(ok=True, value=[1])
    refused = answer({"ok": False, "kind": "X", "code": 0x800708C5 - (1 << 32), "text": "no"})
    assert read_answer(refused) == Answer(ok=False, kind="X", code=2245, text="no")


@pytest.mark.parametrize("text", ["", "pam-jobs:%%%", "pam-jobs:aGVsbG8=", answer([1]), answer({"ok": 1})])
def test_what_is_no_answer_is_none(text):
    assert read_answer(text) is None
