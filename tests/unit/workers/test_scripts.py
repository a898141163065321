from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput, ScriptTimeout
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.ports import EngineSettings
from workers.script_host import argv_for, clean_environment, run_script, safe_name, sweep
from workers.script_input import ScriptInput, records_member

pytestmark = pytest.mark.unit


def run(content: str, *, command: str = "", stdin: bytes = b"", **options: object) -> tuple[int, str, str]:
    settings = {"time_limit_seconds": 10.0, "output_limit": 1000, **options}
    done = run_script(content.encode(), "script.sh", command, stdin, **settings)  # type: ignore[arg-type]
    return done.exit_code, done.stdout, done.stderr


USER = Record.parse({
    "type": "pamUser", "title": "App user",
    "fields": [
        {"type": "login", "label": "", "value": ["app"]},
        {"type": "password", "value": ['n€w"1']},
        {"type": "script", "label": "rotationScripts", "value": [{"fileRef": "F", "recordRef": [], "command": ""}]},
    ],
    "custom": [
        {"type": "text", "label": "Note", "value": ["one"]},
        {"type": "text", "label": "Note", "value": ["two"]},
        {"type": "text", "label": "Note", "value": []},
        {"type": "text", "label": "uid", "value": ["taken"]},
        {"type": "multiline", "value": ["a", "b"]},
    ],
})  # fmt: skip


def test_the_input_is_the_contract_to_the_byte() -> None:
    records = [("CONF", Record.parse({"type": "pamNetworkConfiguration", "title": "Lab"})), ("USER", USER)]
    made = ScriptInput(
        configuration_uid="CONF", resource_uid="RES", user_uid="USER", login="app",
        new_password=SecretValue('n€w"1'), old_password=SecretValue("old"), records=records,
    ).encode()  # fmt: skip
    member = base64.b64encode(
        b'[{"uid": "CONF", "title": "Lab"}, {"uid": "USER", "title": "App user", "login": "app", '
        b'"password": "n\\u20acw\\"1", "Note": "one", "Note2": "two", "Note3": "", "uid2": "taken", '
        b'"multiline": ["a", "b"]}]'
    ).decode()
    assert records_member(records) == member
    plain = (
        '{"providerRecordUid": "CONF", "resourceRecordUid": "RES", "userRecordUid": "USER", '
        '"newPassword": "n\\u20acw\\"1", "oldPassword": "old", "user": "app", "records": "' + member + '"}'
    )
    assert made == base64.b64encode(plain.encode()) + b"\n"


def test_a_script_reads_its_input_and_its_exit_code_decides() -> None:
    assert run("#!/bin/sh\ncat; echo out; echo err >&2; exit 3", stdin=b"in\n") == (3, "in\nout\n", "err\n")


def test_a_script_without_a_shebang_runs_as_a_shell_does() -> None:
    assert run("echo plain") == (0, "plain\n", "")


def test_the_command_names_the_interpreter_without_a_shell() -> None:
    assert run("import sys; print(sys.flags.isolated)", command="python3 -I")[1] == "1\n"
    assert argv_for("/x/script", "'/opt/my python' -u; rm") == ["/opt/my python", "-u;", "rm", "/x/script"]
    assert argv_for("/x/script", "", "/bin/bash") == ["/bin/bash", "/x/script"]
    with pytest.raises(InvalidInput, match="unclosed quote"):
        argv_for("/x/script", "'open")


def test_a_missing_interpreter_is_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="cannot be started"):
        run("#!/no/such/program\n")


def test_the_environment_holds_nothing_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAM_BROKER_URL", "KSM_CONFIG", "GATEWAY_CONFIG", "AWS_SECRET_ACCESS_KEY", "CELERY_X"):
        monkeypatch.setenv(name, "x")
    names = {line.split("=")[0] for line in run("#!/bin/sh\nenv")[1].splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME", "LANG"}
    assert clean_environment(Path("/h"), {})["PATH"]


def test_the_folder_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    _, out, _ = run('#!/bin/sh\npwd; echo "$HOME"; stat -c %a . "$0"; touch left', work_dir=tmp_path)
    folder, home, folder_mode, script_mode = out.split()
    assert folder == home
    assert (folder_mode, script_mode) == ("700", "700")
    assert list(tmp_path.iterdir()) == []


def test_a_script_that_runs_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(ScriptTimeout):
        run(
            f"#!/bin/sh\nsleep 60 & echo $! > {pid}; trap '' TERM; wait; wait",
            time_limit_seconds=0.5,
            work_dir=tmp_path,
        )
    assert time.monotonic() - started < 10
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]


def test_a_child_in_the_background_does_not_hold_the_job(tmp_path: Path) -> None:
    started = time.monotonic()
    code, out, _ = run("#!/bin/sh\nsleep 60 &\necho done")
    assert (code, out) == (0, "done\n")
    assert time.monotonic() - started < 10


def test_a_script_that_reads_nothing_does_no_harm() -> None:
    assert run("#!/bin/sh\nexit 0", stdin=b"x" * 1_000_000)[0] == 0


def test_output_is_cut() -> None:
    _, out, _ = run("#!/bin/sh\nyes | head -c 5000000", output_limit=100)
    assert len(out) == 100


def test_folders_of_a_killed_gateway_are_swept(tmp_path: Path) -> None:
    (tmp_path / "pam-script-999999999-x").mkdir()
    mine = tmp_path / f"pam-script-{os.getpid()}-x"
    mine.mkdir()
    assert sweep(tmp_path) == 1
    assert mine.exists()


@pytest.mark.parametrize(
    ("name", "safe"), [("../../etc/x", "x"), ("a b;c", "a_b_c"), (".hidden", "hidden"), ("", "script")]
)
def test_file_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


def seen_by(path: Path) -> dict[str, str]:
    return json.loads(base64.b64decode(path.read_text()))  # type: ignore[no-any-return]


def test_the_scripts_of_a_rotation_get_old_and_new(world: GatewayWorld, tmp_path: Path) -> None:
    more = world.add_user("helper", "Helper-Secret-1")
    world.attach(world.user, f"#!/bin/sh\ncat > {tmp_path}/seen\n".encode(), records=[more])
    job = world.run()
    assert job.state == "succeeded"
    seen = seen_by(tmp_path / "seen")
    assert (seen["oldPassword"], seen["newPassword"]) == ("Old-Secret-1", world.password())
    assert (seen["user"], seen["userRecordUid"]) == ("app", world.user)
    handed = json.loads(base64.b64decode(seen["records"]))
    assert [record["uid"] for record in handed] == [world.configuration, world.resource, more, world.user]
    assert handed[-1]["password"] == world.password()


def test_user_resource_and_configuration_follow_each_other(world: GatewayWorld, tmp_path: Path) -> None:
    for uid, name in ((world.configuration, "c"), (world.user, "u1"), (world.user, "u2")):
        world.attach(uid, f"#!/bin/sh\necho {name} >> {tmp_path}/order\n".encode())
    world.edit(world.resource, lambda record: Record.parse({**record.to_dict(), "type": "pamDatabase"}))
    world.edit(world.configuration, lambda record: record.set_field("multiline", "9999=mysql", "portMapping"))
    world.attach(world.resource, f"#!/bin/sh\necho r >> {tmp_path}/order\n".encode())
    assert world.run().state == "succeeded"
    assert (tmp_path / "order").read_text().split() == ["u1", "u2", "r", "c"]


def test_a_failed_script_fails_the_job_but_not_the_rotation(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, b"#!/bin/sh\nexit 9\n")
    world.attach(world.user, f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode())
    job = world.run()
    assert job.report is not None
    assert (job.report["status"], job.report["post_rotation_status"]) == ("ok", "failed")
    assert (tmp_path / "ran").exists(), "each script stands for itself"
    assert world.states() == ["previous", "current"]


def test_a_failed_rotation_runs_no_script(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode())
    world.target.refuse_every = 1
    job = world.run()
    assert job.report is not None
    assert job.report["status"] == "failed"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("custom", ["profile", "noop"])
def test_scripts_only_hands_over_the_current_password_twice(world: GatewayWorld, tmp_path: Path, custom: str) -> None:
    world.attach(world.user, f"#!/bin/sh\ncat > {tmp_path}/seen\n".encode())
    if custom == "noop":
        world.edit(world.user, lambda record: record.set_field("text", "True", "NOOP", custom=True))
    job = world.run(profile="scripts_only" if custom == "profile" else "general")
    assert job.report is not None
    assert (job.report["status"], job.report["post_rotation_status"]) == ("skipped", "ok")
    seen = seen_by(tmp_path / "seen")
    assert seen["oldPassword"] == seen["newPassword"] == "Old-Secret-1"
    assert world.target.logins == 0


def test_a_plan_of_scripts_only_counts_them_and_runs_none(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\ncat > {tmp_path}/seen\n".encode())
    job = world.run(kind="plan", profile="scripts_only")
    assert job.report is not None
    assert (job.state, job.report["status"], job.report["post_rotation_status"]) == ("succeeded", "ok", "none")
    assert not (tmp_path / "seen").exists()
    assert world.target.logins == 0


def test_output_is_stored_scrubbed_and_sealed(world: GatewayWorld) -> None:
    world.attach(world.user, b'#!/bin/sh\nread l; echo "$l"; echo "$l" | base64 -d; echo "$l" | base64 -d | base64\n')
    job = world.run()
    step = next(iter(job.steps.values()))
    output = aes.decrypt(step["output"], world.key(world.user)).decode()
    for secret in ("Old-Secret-1", world.password() or "", "Admin-Secret-1"):
        assert secret not in output
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in output
    assert world.user in output, "identifiers stay, they are needed to find a fault"


def test_a_missing_additional_credential_fails_the_step(world: GatewayWorld) -> None:
    world.attach(world.user, b"#!/bin/sh\nexit 0\n", records=["A" * 22])
    job = world.run()
    assert [step["state"] for step in job.steps.values()] == ["failed"]
    assert "additional credential" in world.detail(job)["script"][0]["stderr"]


def test_a_vault_that_goes_away_after_the_promotion_leaves_the_scripts_for_later(
    world: GatewayWorld, tmp_path: Path
) -> None:
    more = world.add_user("helper", "Helper-Secret-1")
    for _ in range(2):
        world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode(), records=[more])
    world.at["stored:step:1"] = lambda: setattr(world.vault, "is_away", True)
    job = world.run()
    assert job.report is not None
    assert (job.report["status"], job.report["effect"], job.report["cause"]) == (
        "unknown", "applied", "vault_unavailable",
    )  # fmt: skip
    world.vault.is_away = False
    world.run(job)
    assert job.state == "succeeded", world.detail(job)
    assert (tmp_path / "ran").read_text() == "x\nx\n"
    assert world.states() == ["previous", "current"], "the second attempt does not rotate again"


def test_a_defect_after_the_promotion_says_nothing_against_the_rotation(world: GatewayWorld) -> None:
    world.attach(world.user, b"#!/bin/sh\ntrue\n")
    world.at["stored:step:1"] = lambda: 1 / 0
    job = world.run()
    assert job.report is not None
    assert (job.report["status"], job.report["effect"], job.report["cause"]) == ("unknown", "applied", "internal")
    world.run(job)
    assert job.state == "succeeded", world.detail(job)
    assert world.states() == ["previous", "current"]


def test_scripts_have_their_own_time_after_a_change_that_used_up_the_jobs(tmp_path: Path) -> None:
    world = GatewayWorld(settings=EngineSettings(settle_seconds=0.0, script_seconds=20, job_seconds=1.0))
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode())
    world.at["before:promote"] = lambda: time.sleep(1.1)
    job = world.run()
    assert job.state == "succeeded", world.detail(job)
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_script_for_which_there_is_no_room_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot write it to its disk") as told:
        run("echo never", work_dir=tmp_path / "absent")
    assert "PAM_WORK_DIR" in (told.value.remedy or "")


def test_a_step_whose_start_was_not_heard_is_run_once(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode())
    world.router.cut_after["steps/start"] = 1
    world.router.cut_after["steps/finish"] = 1
    world.router.cut_after["steps"] = 1
    assert world.run().state == "succeeded"
    assert (tmp_path / "ran").read_text() == "x\n"


@pytest.mark.parametrize("re_run", ["never", "if-unknown"])
def test_a_script_whose_start_was_heard_too_late_is_not_run_beside_its_successor(
    world: GatewayWorld, tmp_path: Path, re_run: str
) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode(), re_run=re_run)
    job = world.job()

    def be_overtaken() -> None:
        world.oversleep()
        job.state = "queued"  # as the reconciler does when the lease has ended
        world.run(job)

    world.at["running:step:1"] = be_overtaken
    world.run(job)
    ran = tmp_path / "ran"
    assert (ran.read_text() if ran.exists() else "") == ("" if re_run == "never" else "x\n")
    assert job.report is not None
    assert job.report["post_rotation_status"] == ("unknown" if re_run == "never" else "ok")


def test_a_cancellation_found_by_the_repetition_of_a_start_runs_nothing(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode())
    job = world.job(profile="scripts_only")
    world.router.lost["steps/start"] = 1
    world.client._sleep = lambda _seconds: setattr(job, "cancelled", True)
    world.run(job)
    assert job.report is not None
    assert job.report["status"] == "cancelled"
    assert not (tmp_path / "ran").exists()


def test_a_cancelled_job_of_scripts_alone_runs_none(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode())
    job = world.job(profile="scripts_only")
    world.at["before:step:1"] = lambda: setattr(job, "cancelled", True)
    world.run(job)
    assert job.report is not None
    assert job.report["status"] == "cancelled"
    assert not (tmp_path / "ran").exists()


class Killed(BaseException):
    """What a test throws in place of SIGKILL: nothing of ours catches it."""


def cut_off(world: GatewayWorld, boundary: str, times: int) -> MemoryJob:
    """Run a job whose attempts are killed at the boundary so often, and then let it end."""

    def kill() -> None:
        raise Killed

    job = world.job()
    for _ in range(times):
        world.at[boundary] = kill
        with pytest.raises(Killed):
            world.run(job)
        job.state = "queued"  # as the reconciler does when the lease has ended
    world.run(job)
    return job


@pytest.mark.parametrize(("re_run", "runs", "post"), [("never", 1, "unknown"), ("if-unknown", 2, "ok")])
def test_a_script_cut_off_halfway_follows_its_re_run_setting(
    world: GatewayWorld, tmp_path: Path, re_run: str, runs: int, post: str
) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/first\n".encode())
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/second\n".encode(), re_run=re_run)
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/third\n".encode())
    job = cut_off(world, "after:step:2", times=1)
    assert job.report is not None
    assert (job.report["status"], job.report["post_rotation_status"]) == ("ok", post)
    ran = [(tmp_path / name).read_text().count("x") for name in ("first", "second", "third")]
    assert ran == [1, runs, 1], "what had finished never runs again"
    assert [step["attempts"] for step in job.steps.values()] == [1, runs, 1]


def test_a_script_that_is_cut_off_every_time_is_given_up(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode(), re_run="if-unknown")
    job = cut_off(world, "after:step:1", times=3)
    assert job.report is not None
    assert job.report["post_rotation_status"] == "unknown"
    assert (tmp_path / "ran").read_text().count("x") == 3


def test_a_script_that_failed_is_not_run_again(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran; exit 1\n".encode(), re_run="if-unknown")
    job = cut_off(world, "stored:step:1", times=1)
    assert job.report is not None
    assert job.report["post_rotation_status"] == "failed"
    assert (tmp_path / "ran").read_text().count("x") == 1


def test_a_script_does_not_run_for_a_value_that_never_became_current(world: GatewayWorld, tmp_path: Path) -> None:
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode())
    account = world.target.accounts["app"]

    def kill() -> None:
        raise Killed

    def set_old_again() -> None:
        """Let somebody set the old password again, while the target remembers the one that was just declared."""
        account.former, account.password = [str(account.password)], "Old-Secret-1"
        world.target.remember = True
        raise Killed

    job = world.job()
    for boundary, action in (("before:promote", set_old_again), ("before:stage", kill)):
        world.at[boundary] = action
        with pytest.raises(Killed):
            world.run(job)
        job.state = "queued"
    assert world.states() == ["current", "abandoned"]
    world.run(job)
    assert world.states() == ["previous", "abandoned", "current"]
    assert world.password() != "Old-Secret-1"
    assert job.report is not None
    assert (job.report["status"], job.report["post_rotation_status"]) == ("ok", "ok")
    assert (tmp_path / "ran").read_text().count("x") == 1
