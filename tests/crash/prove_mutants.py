"""Runs a short form of the suite against each deliberate break of the protocol: each run has to fail.

``python -m tests.crash.prove_mutants``
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

from tests.crash.mutants import MUTANTS

# The tests that are there to notice; what else fails then is not counted.
_GATEWAY, _WALK = "tests/crash/test_gateway.py", "tests/crash/test_walk.py"
WATCHERS = {
    "stage_after_change": (_GATEWAY,),
    "promote_without_probe": (_GATEWAY,),
    "drop_epoch_check": ("tests/crash/test_zombie.py",),
    "purge_unresolved": (_GATEWAY, _WALK),
    "retry_with_a_new_value": (_GATEWAY,),
}
_SECONDS = 900
_NOT_BEGUN = "jobs reach their boundary"  # what does not come about where a break breaks everything: that shows nothing
_WALK_MINUTES, _WALK_SEED = "4", "1"


def _run(mutant: str, tests: Sequence[str]) -> tuple[bool | None, str]:
    """Return whether the tests pass and what they said; None where a test could not even begin."""
    environment = {
        **os.environ, "PAM_CRASH_MUTANT": mutant, "PAM_CRASH_MINUTES": _WALK_MINUTES if mutant != "-" else "0.5", "PAM_CRASH_SEED": _WALK_SEED,
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
    noticed = re.search(r"^E\s+(.*)$", done.stdout, re.MULTILINE)
    said = noticed.group(1)[:150] if noticed else done.stdout[-300:]
    if done.returncode not in {0, 1} or re.search(r"^ERROR ", done.stdout, re.MULTILINE) or _NOT_BEGUN in said:
        return None, said
    return done.returncode == 0, said


def main() -> int:
    """Return 0 when the suite noticed every break, and passes without one."""
    wrong = []
    for mutant in ("-", *MUTANTS):
        everybody = {test for tests in WATCHERS.values() for test in tests}
        for tests in [sorted(everybody)] if mutant == "-" else [[test] for test in WATCHERS[mutant]]:
            passes, said = _run(mutant, tests)
            what = "as it is" if mutant == "-" else f"{mutant}, seen by {tests[0].rpartition('/')[2]}"
            print(f"{what}: {'passes' if passes else f'fails: {said}'}", flush=True)
            if passes != (mutant == "-"):
                wrong.append(mutant)
    print("the suite notices every break" if not wrong else f"NOT AS EXPECTED: {', '.join(wrong)}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
