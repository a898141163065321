"""``make demo``: the real system, real targets, real rotations; ends by itself, or stays with ``STAY=1``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from deploy.demo_targets import DatabaseTarget, MachineTarget, Target
from deploy.lab import LabError, postgres, sshd

__all__ = ["Demo", "Expectation", "main"]

_FOLDER = Path(".demo")
_COMMAND_SECONDS = 90.0
_SCHEDULED_RUNS = 3
_SCHEDULE_SECONDS = 60.0

_SCRIPT = """#!/usr/bin/env python3
# A post-rotation script: one line of base64 JSON on standard input, exit code 0 for success.
import base64, json, sys
given = json.loads(base64.b64decode(sys.stdin.read()))
print("user         ", given["user"])
print("old password ", given["oldPassword"])
print("new password ", given["newPassword"])
for record in json.loads(base64.b64decode(given["records"])):
    print("record       ", record["title"])
"""


class Expectation(Exception):
    """Something did not go as the demo says it goes."""


class Demo:
    """One run of the demo."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.state = self.folder / "state"
        self.lab = self.folder / "lab"
        self._screen = Console(highlight=False, soft_wrap=True)
        self._pam = str(Path(sys.executable).with_name("pam"))
        self._begin = time.monotonic()

    # saying

    def title(self, text: str) -> None:
        """Begin a part."""
        self._screen.print(
            f"\n[bold cyan]{escape(text)}[/bold cyan]  [dim]{time.monotonic() - self._begin:.0f} s[/dim]"
        )

    def say(self, text: str) -> None:
        """Say a line."""
        self._screen.print("  " + escape(text))

    def good(self, text: str) -> None:
        """Say what was proven."""
        self._screen.print(f"  [green]ok[/green]  {escape(text)}")

    def quote(self, text: str) -> None:
        """Show output of a command."""
        for line in text.rstrip().splitlines():
            self._screen.print(f"  [dim]|[/dim] {escape(line)}")

    def expect(self, is_so: object, text: str) -> None:
        """Say what is true.

        Raises:
            Expectation: it is not.
        """
        if not is_so:
            raise Expectation(text)
        self.good(text)

    # doing

    def run(self, *arguments: str, stdin: str = "", show: bool = False, fails: bool = False) -> str:
        """Run ``pam`` as a person would and return its standard output.

        Args:
            arguments: of the command line; secrets go by ``stdin``.
            stdin: standard input.
            show: print command and output.
            fails: a failure is expected.

        Raises:
            Expectation: it failed, or did not although a failure was expected.
        """
        if show:
            self._screen.print(f"  [bold]$ pam {escape(' '.join(_shell(part) for part in arguments))}[/bold]")
        done = subprocess.run(
            [self._pam, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
            env={**os.environ, "PAM_DATA_DIR": str(self.state), "PAM_MINIMUM_INTERVAL_SECONDS": "0"},
        )
        if (done.returncode != 0) != fails:
            raise Expectation(f"pam {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        if show:
            self.quote(done.stdout or done.stderr)
        return done.stdout

    def json(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run ``pam … --format json`` and return what it prints."""
        value: dict[str, Any] = json.loads(self.run(*arguments, "--format", "json", stdin=stdin))
        return value

    def password_of(self, uid: str) -> str:
        """Return the password that the vault has now."""
        record = self.json("record", "get", uid, "--reveal")
        return next(str(field["value"][0]) for field in record["fields"] if field["type"] == "password")

    # parts

    def up(self) -> list[Target]:
        """Start targets and system."""
        self.title("Real targets")
        targets: list[Target] = [DatabaseTarget(postgres.start(self.lab))]
        obstacles = sshd.obstacles()
        if obstacles:
            self.say("no SSH server, the demo goes on with PostgreSQL alone: " + "; ".join(obstacles))
        else:
            targets.append(MachineTarget(sshd.start(self.lab)))
        for target in targets:
            self.say(f"{target.kind} at {target.host}:{target.port}")
        self.title("pam up: broker, router, beat, control, gateway, Flower")
        self.run("up", "--detach")
        self.run("status", show=True)
        return targets

    def set_up(self, targets: Sequence[Target]) -> dict[str, str]:
        """Make folder, share, configuration, resources, admins and users; return the users' record UIDs by login."""
        self.title("Vault: encrypted here, before anything is sent")
        self.run("folder", "new", "Demo", show=True)
        self.run("app", "share", "Embedded", "Demo", "--can-edit")
        mapping = [part for target in targets for part in ("-pm", f"{target.port}={target.protocol}")]
        self.run("config", "new", "-t", "Demo network", "-sf", "Demo", *mapping, show=True)
        users: dict[str, str] = {}
        for target in targets:
            self._record("-rt", target.record_type, "-t", target.title, *target.fields())
            admin = f"{target.title} admin"
            self._record("-rt", "pamUser", "-t", admin, f"login={target.admin_login}", "password=-", *target.user_fields(),
                         secret=target.admin_password)  # fmt: skip
            for login, password in target.make_users().items():
                users[login] = self._record("-rt", "pamUser", "-t", login, f"login={login}", "password=-",
                                            *target.user_fields(), secret=password)  # fmt: skip
                self.run("rotation", "edit", "-r", login, "-rs", target.title, "-a", admin, "-od")
        self.run("record", "list", show=True)
        self.run("rotation", "list", show=True)
        return users

    def _record(self, *arguments: str, secret: str = "") -> str:
        return str(self.json("record", "add", "--folder", "Demo", *arguments, stdin=secret)["uid"])

    def attach_script(self, record: str) -> None:
        """Attach the script to a record."""
        self.title("A post-rotation script")
        script = self.folder / "tell.py"
        script.write_text(_SCRIPT)
        self.run("rotation", "script", "add", record, "--script", str(script))
        self.run("rotation", "script", "list", show=True)

    def rotate(self, target: Target, login: str, uid: str) -> str:
        """Rotate one user on demand, and log in at the target with the old and the new password."""
        self.title(f"Rotate {login} on {target.title}, on demand")
        old = self.password_of(uid)
        self.expect(target.logs_in(login, old), f"{login} logs in with the password it has")
        result = self.json("action", "rotate", "--record-uid", uid, "--wait")
        self.say(f"job {result['job']}: {result['status']}, effect {result['effect']}, in {result['duration']}")
        new = self.password_of(uid)
        self.expect(new != old, f"the vault holds a new password of {len(new)} characters")
        self.expect(target.logs_in(login, new), f"{login} logs in with the new password")
        self.expect(not target.logs_in(login, old), f"{login} is refused with the old one")
        return str(result["job"])

    def show_script(self, job: str, secrets: Sequence[str]) -> None:
        """Show what the script received: everything but the secrets, which never leave the gateway."""
        self.title("What the script received, scrubbed by the gateway before it was stored")
        shown = self.run("action", "job-info", job)
        self.quote(shown)
        self.expect("exit code 0" in shown and "new password" in shown, "the script ran and its output came back")
        self.expect(not any(secret in shown for secret in secrets), "no password is in its output")

    def schedule(self, target: Target, login: str, uid: str) -> None:
        """Rotate on a schedule of seconds, by beat."""
        self.title(f"Rotate {login} every 3 seconds, by beat")
        first = self.password_of(uid)
        self.run("rotation", "edit", "-r", login, "-sc", "*/3 * * * * ?", show=True)
        end = time.monotonic() + _SCHEDULE_SECONDS
        seen: dict[str, dict[str, Any]] = {}
        while len(seen) < _SCHEDULED_RUNS:
            if time.monotonic() > end:
                raise Expectation(f"{len(seen)} of {_SCHEDULED_RUNS} scheduled rotations came")
            time.sleep(0.5)
            for job in reversed(self.json("job", "list", "-r", uid)["jobs"]):
                if job["trigger"] == "scheduled" and job["state"] == "succeeded" and job["uid"] not in seen:
                    seen[job["uid"]] = job
                    self.say(f"due {job['due_at'][11:19]}  done {job['finished_at'][11:19]}  {job['status']}")
        self.run("rotation", "edit", "-r", login, "-od")
        self._wait_until_quiet(uid)
        last = self.password_of(uid)
        self.expect(last != first, f"{len(seen)} scheduled rotations changed the password")
        self.expect(target.logs_in(login, last), f"{login} logs in with the password of the last one")
        self.expect(not target.logs_in(login, first), f"{login} is refused with the one before the first")

    def _wait_until_quiet(self, uid: str) -> None:
        open_states = {"created", "queued", "leased", "running", "unknown"}
        end = time.monotonic() + _SCHEDULE_SECONDS
        while any(job["state"] in open_states for job in self.json("job", "list", "-r", uid)["jobs"]):
            if time.monotonic() > end:
                raise Expectation("a job does not end")
            time.sleep(0.2)

    def evidence(self) -> None:
        """Show proofs, the audit trail, and where to look."""
        self.title("pam prove --all: a kept credential logs in, and this is the evidence")
        self.run("prove", "--all", "--format", "table", show=True)
        self.good("every rotated credential is proven")
        self.title("The audit trail")
        events = self.json("audit", "list", "-n", "1000")["events"]
        kinds = ("record_rotation_created", "record_rotation_on_demand_ok", "record_rotation_scheduled_ok")
        rows = [event for event in events if event["audit_event"] in kinds]
        for event in rows[-12:]:
            self.say(f"{event['timestamp'][11:19]}  {event['audit_event']:<30}  {event.get('record_uid')}")
        for kind in kinds:
            self.expect(any(row["audit_event"] == kind for row in rows), f"it tells of {kind}")
        status = self.json("status")
        self.title("Where to look")
        self.say(f"API     {status['router']}/api/v1/openapi.json   (CA: {status['ca']})")
        self.say(f"Flower  {status['flower']}   (user pam, password in {status['flower_password_file']})")
        self.say(f"CLI     export PAM_DATA_DIR={self.state}; {self._pam} gateway list")

    def down(self) -> None:
        """Stop everything that the demo started."""
        subprocess.run(
            [self._pam, "down", "--data-dir", str(self.state)], capture_output=True, check=False, timeout=120
        )
        sshd.stop(self.lab)
        postgres.stop(self.lab)


def _shell(part: str) -> str:
    return f"'{part}'" if " " in part or "*" in part else part


def _play(demo: Demo) -> None:
    targets = demo.up()
    users = demo.set_up(targets)
    database = targets[0]
    demo.attach_script("app_reader")
    before = demo.password_of(users["app_reader"])
    job = demo.rotate(database, "app_reader", users["app_reader"])
    demo.show_script(job, [before, demo.password_of(users["app_reader"])])
    for target in targets[1:]:
        demo.rotate(target, "deployer", users["deployer"])
    demo.schedule(database, "app_writer", users["app_writer"])
    demo.evidence()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Play the demo and return the exit code: 0 when everything that was said is true."""
    signal.signal(signal.SIGTERM, _interrupt)
    demo = Demo(_FOLDER)
    complaint = Console(stderr=True, highlight=False, soft_wrap=True)
    code = 0
    try:
        if demo.folder.exists():
            demo.down()  # what an interrupted demo left
            shutil.rmtree(demo.folder)
        demo.folder.mkdir(mode=0o755)
        _play(demo)
        if os.environ.get("STAY"):
            demo.title("It stays up until Ctrl-C")
            signal.pause()
    except (Expectation, LabError) as error:
        complaint.print(f"\n[red]the demo failed:[/red] {escape(str(error))}")
        code = 1
    except KeyboardInterrupt:
        code = 0 if os.environ.get("STAY") else 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is under way already
        demo.title("Stopping everything")
        demo.down()
    if code == 0:
        demo.good("done; the logs are in .demo/state/logs")
    return code


if __name__ == "__main__":
    sys.exit(main())
