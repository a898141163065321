from __future__ import annotations

from pathlib import Path

import pytest

from pam_jobs.client.values import MASK, is_secret_field, masked, read_assignments
from pam_jobs.errors import InvalidInput

pytestmark = pytest.mark.unit


def test_values_come_from_the_line_standard_input_files_and_a_person(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN-----\nx\n-----END-----\n")

    found = read_assignments(
        ["login=alice", "password=-", f"privatePEMKey=@{key}", "c.secret.pin=?", "notes=@@home", "url=https://a?b=c"],
        stdin=lambda: " pass word \n",
        ask=lambda question: f"typed for {question}",
    )

    assert found == [
        ("login", "alice"),
        ("password", " pass word "),
        ("privatePEMKey", "-----BEGIN-----\nx\n-----END-----"),
        ("c.secret.pin", "typed for c.secret.pin: "),
        ("notes", "@home"),
        ("url", "https://a?b=c"),
    ]


def test_a_secret_on_the_command_line_is_warned_of_and_not_repeated() -> None:
    told: list[str] = []

    read_assignments(["password=visible", "login=alice", "password=$GEN"], warn=told.append)

    assert len(told) == 1
    assert "visible" not in told[0]


def test_standard_input_serves_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="standard input"):
        read_assignments(["password=-", "notes=-"], stdin=lambda: "x")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_assignments([f"password=@{tmp_path / 'missing'}"])


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("password", True),
        ("secret.privatePEMKey", True),
        ("c.secret.x", True),
        ("login", False),
        ("c.text.NOOP", False),
    ],
)
def test_secret_fields_are_known_by_name(name: str, is_secret: bool) -> None:
    assert is_secret_field(name) is is_secret


def test_masking_hides_secrets_and_nothing_else() -> None:
    data = {
        "type": "pamUser",
        "fields": [
            {"type": "login", "value": ["alice"]},
            {"type": "password", "value": ["s3cret"]},
            {"type": "secret", "label": "privatePEMKey", "value": []},
        ],
        "custom": [{"type": "text", "label": "API token", "value": ["t0ken"]}, {"type": "text", "value": ["x"]}],
    }

    shown = masked(data)

    assert [entry["value"] for entry in shown["fields"]] == [["alice"], [MASK], []]
    assert [entry["value"] for entry in shown["custom"]] == [[MASK], ["x"]]
    assert data["fields"][1]["value"] == ["s3cret"]
