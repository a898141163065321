"""Where a resource is, as its record says it."""

from __future__ import annotations

import pytest

from connectors.base import Connector
from connectors.fake import FakeConnector
from pam_jobs.errors import (
    AuthRejected,
    ConnectionLost,
    HostKeyMismatch,
    InvalidInput,
    PamJobsError,
    PolicyRefused,
    Unreachable,
    WrongAccount,
)
from pam_jobs.records.types import new_record
from workers.chain import target_of, through

pytestmark = pytest.mark.unit

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIPtwqH9AXh50FShfCLbmPUYsAv16+/LjH3suohsT8iaX"
KEY = f"ssh-ed25519 {BLOB}"


def host_keys(text: str) -> tuple[str, ...]:
    machine = new_record("pamMachine", "Host", complete=False).set_field(
        "pamHostname", {"hostName": "host", "port": "22"}
    )
    machine = machine.set_field("text", text, "Host Key", custom=True)
    return target_of(machine, new_record("pamNetworkConfiguration", "Network", complete=False)).host_keys


@pytest.mark.parametrize(
    "text", [KEY, f"{KEY} root@host", f"host,192.0.2.7 {KEY}", f"[host]:2222 {KEY}", BLOB, f"# ssh-keyscan\n\n{KEY}\n"]
)
def test_a_host_key_is_read_in_every_form_people_have_it(text: str) -> None:
    assert host_keys(text) == (KEY,)


def test_several_host_keys_are_all_known() -> None:
    assert host_keys(f"{KEY}\nhost ecdsa-sha2-nistp256 AAAA") == (KEY, "ecdsa-sha2-nistp256 AAAA")


@pytest.mark.parametrize("text", ["garbage", "SHA256:abcdef", BLOB[:12], f"@revoked host {KEY}", f"{KEY}\nnonsense"])
def test_a_host_key_that_cannot_be_read_is_refused_and_never_passed_over(text: str) -> None:
    with pytest.raises(InvalidInput, match="host key of the resource cannot be read"):
        host_keys(text)


@pytest.mark.parametrize(
    "error", [AuthRejected(), PolicyRefused(), HostKeyMismatch(), WrongAccount(), ConnectionLost()], ids=type
)
def test_the_next_way_is_taken_only_where_nobody_was_reached(error: PamJobsError) -> None:
    asked: list[Connector] = []

    def action(connector: Connector) -> str:
        asked.append(connector)
        if len(asked) == 1:
            raise error
        return "done"

    chain = [FakeConnector(), FakeConnector()]
    with pytest.raises(type(error)):
        through(chain, "fake", action)
    assert asked == chain[:1]
    error, asked[:] = Unreachable(), []
    assert through(chain, "fake", action) == "done"
