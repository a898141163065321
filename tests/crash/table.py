"""What was tried and what came of it: noted by the runs, shown as a table, and kept in the README by ``make crash``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / ".crash"
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table: made by `make crash` -->", "<!-- end of table -->"


def add(fault: str, connector: str, outcome: str, *, where: str = "", attempts: int = 1) -> None:
    """Note one fault that was survived; a failed check raises before this."""
    _write({"fault": fault, "connector": connector, "outcome": outcome, "where": where, "attempts": attempts})


def fail(kind: str, test: str) -> None:
    """Note a check that did not hold."""
    _write({"failed": kind, "test": test})


def note_seconds(seconds: float) -> None:
    """Note how long a round took."""
    _write({"seconds": round(seconds, 1)})


def _run() -> str:
    """Return the name of this run, the same in every process of it."""
    return os.environ.get("PAM_CRASH_RUN") or os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"pid{os.getpid()}"


def _write(row: dict[str, Any]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{_run()}.{os.getpid()}.jsonl").open("a") as out:
        out.write(json.dumps(row) + "\n")


def _notes() -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(FOLDER.glob(f"{_run()}.*.jsonl")) for line in path.open()]


def rows() -> list[dict[str, Any]]:
    """Return the faults of this run that were survived."""
    return [row for row in _notes() if "fault" in row]


def markdown() -> str:
    """Return the table: a line for each fault, and for each connector how many cases had which outcome."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    attempts: Counter[str] = Counter()
    places: dict[str, set[str]] = defaultdict(set)
    for row in rows():
        counts[row["fault"]][row["connector"]][row["outcome"]] += 1
        attempts[row["fault"]] = max(attempts[row["fault"]], row["attempts"])
        places[row["fault"]].add(row["where"])
    connectors = sorted({name for line in counts.values() for name in line})
    lines = [
        f"| fault | places | {' | '.join(connectors)} | most attempts |",
        f"|---|---|{'---|' * len(connectors)}---|",
    ]
    for fault, line in sorted(counts.items()):
        cells = [
            "; ".join(f"{count} {outcome}" for outcome, count in sorted(line[name].items())) for name in connectors
        ]
        lines.append(f"| {fault} | {len(places[fault])} | {' | '.join(cells)} | {attempts[fault]} |")
    failed = [row["failed"] for row in _notes() if "failed" in row]
    lines += ["", f"{len(rows())} faults survived. {counted(failed)}"]
    return "\n".join(lines)


def counted(kinds: Iterable[str]) -> str:
    """Return the sentence of what must be 0, from the kinds of checks that did not hold."""
    failed = Counter(kinds)
    numbers = {
        "Credentials lost": failed.pop("CredentialLost", 0),
        "Scripts run twice": failed.pop("ScriptRanTwice", 0),
        "Stuck without a human being told": failed.pop("Stuck", 0),
        "Other checks that failed": failed.total(),
    }
    return " ".join(f"{name}: {number}." for name, number in numbers.items())


def save() -> None:
    """Write the table to a file beside the notes."""
    if rows():
        (FOLDER / "table.md").write_text(markdown() + "\n")


def update_readme() -> None:
    """Put the table between the README's marks."""
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{markdown()}\n{END}{after}")


if __name__ == "__main__":
    {"update": update_readme, "show": lambda: print(markdown())}[sys.argv[1]]()
