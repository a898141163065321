from __future__ import annotations

import re
import threading
from collections.abc import Sequence

import pytest

from connectors.base import Target
from pam_jobs.jobs.wire import MOST_TAGS, Exclusive
from workers.target_tags import TargetTags

pytestmark = pytest.mark.unit

KEY = bytes(range(32))
NAMES = {
    "db1.example.com": ["10.0.0.5", "2001:db8::5"], "rescue": ["::ffff:10.0.0.5"], "own": ["127.0.1.1"],
    "other": ["10.0.0.6"], "dc1": ["10.0.0.7"], "many": [f"10.1.0.{number}" for number in range(60)],
    "a.okta.example": ["10.9.9.9"], "b.okta.example": ["10.9.9.9"],
}  # fmt: skip


def look_up(host: str) -> Sequence[str]:
    try:
        return NAMES[host]
    except KeyError:
        raise OSError("no such name") from None


def tags(host: str, port: int = 5432, key: bytes = KEY, *, protocol: str = "postgresql", **options: str) -> set[str]:
    made = TargetTags(key, look_up=look_up).of(Target(host=host, port=port, protocol=protocol, options=options))
    assert len(set(made)) == len(made) <= MOST_TAGS
    return set(made)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("db1.example.com", "10.0.0.5"), ("db1.example.com", "2001:db8::5"), ("DB1.Example.com.", "db1.example.com"),
        ("db1.example.com", "rescue"), ("10.0.0.5", "::ffff:10.0.0.5"), ("2001:DB8:0:0::5", "[2001:db8::5]"),
        ("localhost", "127.0.0.1"), ("LOCALHOST.", "::1"), ("db.localhost", "127.0.0.1"), ("own", "localhost"),
        ("fe80::1%eth0", "fe80::1%en1"), ("unknown.example.com", "Unknown.example.com."), (" 10.0.0.5 ", "10.0.0.5"),
    ],
)  # fmt: skip
def test_one_server_has_a_tag_in_common_however_it_is_written(one: str, other: str) -> None:
    assert tags(one) & tags(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("db1.example.com", "other"), ("10.0.0.5", "10.0.0.6"), ("unknown", "nowhere"), ("localhost.example.com", "::1")],
)
def test_different_servers_have_none(one: str, other: str) -> None:
    assert not tags(one) & tags(other)


def test_another_port_is_another_server() -> None:
    assert not tags("db1.example.com", 5432) & tags("db1.example.com", 5433)


def test_every_instance_of_an_application_makes_the_same_tags_and_no_other_does() -> None:
    assert tags("db1.example.com") == tags("db1.example.com")
    assert not tags("db1.example.com") & tags("db1.example.com", key=bytes(32))


def test_the_router_sees_no_part_of_the_place() -> None:
    told = Exclusive(epoch=1, instance="i", tags=sorted(tags("db1.example.com"))).model_dump_json()
    assert not re.search(r"db1|example|10\.0\.0\.5|2001|5432", told)


def test_the_controllers_of_a_directory_and_its_domain_count() -> None:
    by_name = tags("dc1", 636, directory_type="active_directory", domain_name="Corp.example.com")
    assert by_name & tags("dc2", 636, directory_type="active_directory", domain_name="corp.example.com.")
    assert by_name & tags("dc3", 636, alternative_ips="10.0.0.9, 10.0.0.7")
    machine = tags("other", 636, domain_name="corp.example.com")
    assert not by_name & machine, "a machine of the domain has accounts of its own"


def test_services_that_share_an_address_are_told_apart_by_their_names() -> None:
    assert not tags("a.okta.example", 443, protocol="saas") & tags("b.okta.example", 443, protocol="saas")
    assert tags("a.okta.example", 443, protocol="saas") == tags("A.okta.example", 443, protocol="saas")


def test_a_name_with_very_many_addresses_has_the_same_tags_each_time() -> None:
    assert tags("many") == tags("many")


def test_a_name_service_that_is_silent_is_waited_for_within_a_bound() -> None:
    silent = threading.Event()

    def wait(host: str) -> Sequence[str]:
        silent.wait(30)
        return NAMES[host]

    slow = TargetTags(KEY, look_up=wait, seconds=0.05)
    found = set(slow.of(Target(host="db1.example.com", port=5432, protocol="postgresql")))
    silent.set()
    assert len(found) == 1
    assert found < tags("db1.example.com"), "the name alone still tells"
