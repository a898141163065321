"""The gateway's journal: durable, bounded, shared, and of use although parts of it are damaged."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.gateway import GatewayWorld
from workers.journal import Journal
from workers.journal_lines import Kept

pytestmark = pytest.mark.unit

RECORD, OTHER = "RecordRecordRecordRecA", "OtherOtherOtherOtherOB"


def keep(journal: Journal, seq: int, *, record: str = RECORD, current: bool = False) -> bytes:
    value = b"ciphertext-%d" % seq
    journal.applying(record, f"job{seq}", epoch=seq, seq=seq, ciphertext=value)
    if current:
        journal.current(record, f"job{seq}", epoch=seq, seq=seq, ciphertext=value)
    return value


def seen(values: tuple[Kept, ...]) -> list[tuple[int, str]]:
    return [(each.seq, each.state) for each in values]


def test_a_value_outlives_the_process(tmp_path: Path) -> None:
    value = keep(Journal(tmp_path), 7)
    (again,) = Journal(tmp_path).of(RECORD)
    assert (again.ciphertext, again.seq, again.epoch, again.state, again.job_uid) == (value, 7, 7, "applying", "job7")
    assert Journal(tmp_path).epoch_of(RECORD) == 7
    assert Journal(tmp_path).epoch_of(OTHER) == 0
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_newest_few_values_are_kept_and_always_the_current_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for seq in range(1, 7):
        keep(journal, seq, current=seq <= 3)
    for each in (journal, Journal(tmp_path)):
        assert seen(each.of(RECORD)) == [(6, "applying"), (5, "applying"), (4, "applying"), (3, "current")]


def test_what_was_given_up_is_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    keep(journal, 1, current=True)
    keep(journal, 2)
    journal.abandoned(RECORD, "job2", epoch=2, seq=2)
    assert seen(Journal(tmp_path).of(RECORD)) == [(1, "current")]
    assert Journal(tmp_path).epoch_of(RECORD) == 2


def test_a_value_that_comes_back_under_another_number_is_one_value(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = keep(journal, 5, current=True)
    journal.current(RECORD, "job9", epoch=9, seq=3, ciphertext=first)
    assert seen(Journal(tmp_path).of(RECORD)) == [(3, "current")]


def test_a_torn_last_line_costs_that_line_alone_and_is_told(tmp_path: Path) -> None:
    keep(Journal(tmp_path), 1, current=True)
    keep(Journal(tmp_path), 2)
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    with capture_logs() as logs:
        journal = Journal(tmp_path)
    assert [entry["event"] for entry in logs] == ["journal_line_torn"]
    assert seen(journal.of(RECORD)) == [(1, "current")]
    keep(journal, 3)
    assert seen(Journal(tmp_path).of(RECORD)) == [(3, "applying"), (1, "current")]


def test_a_damaged_line_in_the_middle_is_left_out_and_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for seq in (1, 2, 3):
        keep(journal, seq)
    file = tmp_path / "journal.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b"epoch", b"epohc") + lines[2])
    with capture_logs() as logs:
        assert [each.seq for each in Journal(tmp_path).of(RECORD)] == [3, 1]
    assert [(entry["event"], entry["line"]) for entry in logs] == [("journal_line_damaged", 2)]


def test_the_file_stays_small_and_loses_nothing_by_it(tmp_path: Path) -> None:
    journal, reader = Journal(tmp_path, least_lines=40), Journal(tmp_path)
    for seq in range(1, 60):
        keep(journal, seq, current=True)
    journal.abandoned(OTHER, "job", epoch=12, seq=1)
    for seq in range(60, 100):
        keep(journal, seq, current=True)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert len(lines) <= 45
    for each in (journal, reader, Journal(tmp_path)):
        assert seen(each.of(RECORD)) == [(99, "current"), (98, "previous"), (97, "previous"), (96, "previous")]
        assert each.epoch_of(OTHER) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "journal.lock"]


def test_a_crash_while_the_file_is_made_anew_leaves_the_old_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path, least_lines=4)
    (tmp_path / f"journal.{os.getpid()}").mkdir()  # in the way of the new file
    with capture_logs() as logs:
        for seq in range(1, 30):
            keep(journal, seq, current=True)
    assert "journal_not_made_anew" in {entry["event"] for entry in logs}
    assert journal.trouble is None
    assert seen(Journal(tmp_path).of(RECORD))[0] == (29, "current")


def test_a_full_disk_is_told_and_stops_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    keep(journal, 1, current=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (tmp_path / "journal.jsonl").stat().st_size + 20  # the next line is cut off in its middle
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))
    try:
        with capture_logs() as logs:
            keep(journal, 2)
            keep(journal, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry["event"] for entry in logs] == ["journal_not_written"], "told once"
    assert journal.trouble == "File too large"
    assert seen(journal.of(RECORD))[:2] == [(3, "applying"), (2, "applying")], "this process still knows them"
    journal.current(RECORD, "job3", epoch=3, seq=3, ciphertext=b"ciphertext-3")
    assert journal.trouble is None
    assert seen(Journal(tmp_path).of(RECORD)) == [(3, "current"), (1, "previous")], "written as soon as it can be"


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "in-no-folder")
    assert journal.trouble == "Not a directory"
    keep(journal, 1)
    assert seen(journal.of(RECORD)) == [(1, "applying")]


def test_without_a_folder_it_lasts_as_long_as_the_process() -> None:
    journal = Journal()
    keep(journal, 1, current=True)
    assert seen(journal.of(RECORD)) == [(1, "current")]


def test_a_process_that_was_stopped_with_the_lock_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    journal = Journal(tmp_path)
    monkeypatch.setattr("workers.journal._LOCK_SECONDS", 0.05)
    with (tmp_path / "journal.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        keep(journal, 1)
        assert journal.trouble == "another process holds the lock"
    keep(journal, 2)
    assert (journal.trouble, journal.of(RECORD)[0].seq) == (None, 2)


def test_two_processes_share_one_file_and_one_is_killed_in_the_middle(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, name, 150)) for name in ("w1", "w2")]
    for writer in writers:
        writer.start()
    killed = context.Process(target=_write, args=(tmp_path, "w3", 100_000))
    killed.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join(10)
    journal = Journal(tmp_path)
    for name in ("w1", "w2"):
        assert seen(journal.of(name))[0] == (150, "current")
        assert journal.epoch_of(name) == 150
    keep(journal, 1)
    assert seen(Journal(tmp_path).of(RECORD)) == [(1, "applying")]


def test_a_rotation_is_in_the_journal_before_its_target_hears_of_it(tmp_path: Path) -> None:
    world = GatewayWorld(journal=Journal(tmp_path))
    found: list[tuple[Kept, ...]] = []
    world.at["before:intend"] = lambda: found.append(Journal(tmp_path).of(world.user))
    world.run()
    assert seen(found[0]) == [(2, "applying")]
    assert found[0][0].ciphertext == world.router.ledger[world.user][-1].ciphertext, "the very bytes that were staged"
    assert seen(Journal(tmp_path).of(world.user)) == [(2, "current")]


def test_a_value_that_a_policy_refused_is_not_kept(tmp_path: Path) -> None:
    world = GatewayWorld(journal=Journal(tmp_path))
    world.target.refuse_every, world.target.changes = 2, 1
    assert world.run().state == "succeeded"
    assert world.states() == ["previous", "abandoned", "current"]
    assert seen(Journal(tmp_path).of(world.user)) == [(3, "current")]


def test_a_journal_that_cannot_be_written_does_not_stop_a_rotation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world = GatewayWorld(journal=Journal(tmp_path / "file" / "in-no-folder"))
    assert world.run().state == "succeeded"


def _write(folder: Path, record: str, most: int) -> None:
    journal = Journal(folder, least_lines=60)
    for seq in range(1, most + 1):
        keep(journal, seq, record=record, current=True)


def test_a_line_holds_identifiers_and_ciphertext_only(tmp_path: Path) -> None:
    value = keep(Journal(tmp_path), 1)
    line: dict[str, Any] = json.loads((tmp_path / "journal.jsonl").read_text().split(" ", 1)[1])
    assert base64.b64decode(line.pop("value")) == value
    assert sorted(line) == ["at", "epoch", "job", "record", "seq", "state"]
