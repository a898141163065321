"""The vendor's JavaScript SDK, unmodified, through its whole cycle (``js/cycle.mjs``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration

JS = Path(__file__).parent / "js"
PACKAGE = JS / "node_modules" / "@keeper-security" / "secrets-manager-core"


@pytest.fixture(scope="session")
def node() -> str:
    """Return Node, with the SDK installed beside the script."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.fail("Node.js is not installed; `make test` installs it, or: apt-get install nodejs npm")
    if not PACKAGE.exists():
        subprocess.run([npm, "ci", "--silent"], cwd=JS, check=True, timeout=240)
    return program


def test_the_whole_cycle(router: RunningRouter, node: str, tmp_path: Path) -> None:
    operator = router.operator
    folder = operator.folder("root")
    uid = operator.record(folder, "first", login="app", password="canary-js-1")
    config = operator.device(operator.application(folder))
    names = ("first", "second", "third", "fourth", "created")
    secrets = {name: f"canary-js-{number}" for number, name in enumerate(names, 1)}
    given = tmp_path / "input.json"
    given.write_text(json.dumps({"config": config, "folderUid": folder.uid, "recordUid": uid, "secrets": secrets}))
    done = subprocess.run(
        [node, "cycle.mjs", str(given)],
        cwd=JS,
        env={"PATH": os.environ["PATH"], "NODE_EXTRA_CA_CERTS": str(router.tls.ca)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    password = operator.vault.records.get(uid).record.password
    assert password is not None
    assert password.reveal() == "canary-js-3rotation"
    assert {event.fields["record_uid"] for event in router.events("app_client_record_create")} == {told["created"]}
    assert {event.fields["folder_uid"] for event in router.events("app_client_folder_delete")} == set(told["folders"])
    assert {event.client_version for event in router.events("app_client_access")} == {"ms17.5.0"}
    assert b"canary-js" not in router.dump()
