"""Runs a short form of the suite against each deliberate break of the protocol: each run has to fail.

``python -m tests.crash.prove_mutants``
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.crash.mutants import MUTANTS

# The tests that are there to notice; what else fails then is not counted.
WATCHERS = {
    "stage_after_change": "tests/crash/test_gateway.py",
    "promote_without_probe": "tests/crash/test_gateway.py",
    "drop_epoch_check": "tests/crash/test_zombie.py",
    "purge_unresolved": "tests/crash/test_gateway.py",
    "retry_with_a_new_value": "tests/crash/test_gateway.py",
}
_SECONDS = 600


def main() -> int:
    """Return 0 when the suite noticed every break, and passes without one."""
    wrong = []
    for mutant in ("-", *MUTANTS):
        tests = sorted(set(WATCHERS.values())) if mutant == "-" else [WATCHERS[mutant]]
        environment = {**os.environ, "PAM_CRASH_MUTANT": mutant}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
        noticed = re.search(r"^E\s+(.*)$", done.stdout, re.MULTILINE)
        verdict = (
            "passes" if done.returncode == 0 else f"fails: {noticed.group(1)[:150] if noticed else done.stdout[-300:]}"
        )
        print(f"{'as it is' if mutant == '-' else mutant}: {verdict}", flush=True)
        if done.returncode not in ({0} if mutant == "-" else {1}):
            wrong.append(mutant)
    print("the suite notices every break" if not wrong else f"NOT AS EXPECTED: {', '.join(wrong)}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
