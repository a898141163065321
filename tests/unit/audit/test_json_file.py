from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from pam_jobs.audit.sinks import DeliveryRefused, SinkEvent
from pam_jobs.audit.sinks.json_file import JsonFileSink
from pam_jobs.errors import DeliveryFailed
from tests.support.audit import START

pytestmark = pytest.mark.unit


def events(*positions: int) -> list[SinkEvent]:
    return [
        SinkEvent(
            position=number, name="record_add", created_at=START, body={"position": number, "é": "x" * 50}, sentence=""
        )
        for number in positions
    ]


def positions(path: Path) -> list[int]:
    return [json.loads(line)["position"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    JsonFileSink(path).deliver(events(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_renamed_file_is_left_alone_and_a_new_one_begun(path: Path) -> None:
    sink = JsonFileSink(path)
    sink.deliver(events(1, 2))
    path.rename(path.with_suffix(".1"))
    sink.deliver(events(3))
    assert positions(path.with_suffix(".1")) == [1, 2]
    assert positions(path) == [3]


def test_a_line_that_a_crash_cut_off_is_written_anew(path: Path) -> None:
    sink = JsonFileSink(path)
    sink.deliver(events(1, 2))
    whole = path.stat().st_size
    sink.deliver(events(3, 4))
    with path.open("r+b") as file:
        file.truncate(whole + 20)  # the crash came in the middle of the third line
    sink.deliver(events(3, 4))
    assert positions(path) == [1, 2, 3, 4]


def test_somebody_elses_unfinished_line_is_ended_and_kept(path: Path) -> None:
    path.write_bytes(b"not ours")
    JsonFileSink(path).deliver(events(1))
    lines = path.read_text().splitlines()
    assert lines[0] == "not ours"
    assert json.loads(lines[1])["position"] == 1


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeliveryFailed):
        JsonFileSink(path).deliver(events(1))
    assert not (tmp_path / "elsewhere").exists()


def test_a_device_is_refused() -> None:
    with pytest.raises(DeliveryRefused, match="regular file"):
        JsonFileSink(Path("/dev/null")).deliver(events(1))


def test_a_missing_folder_is_a_failure_that_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="No such file"):
        JsonFileSink(tmp_path / "none" / "a.jsonl").deliver(events(1))
