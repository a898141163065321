from __future__ import annotations

import json

import pytest

from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput, Unsupported, VaultError
from pam_jobs.records.record import Record
from pam_jobs.records.run_as import names_on
from pam_jobs.records.services import MOST_NAMES, ServiceKind, ServiceNames

pytestmark = pytest.mark.unit
SERVICE, TASK, POOL = ServiceKind.SERVICE, ServiceKind.TASK, ServiceKind.IIS_POOL


def listed(names: ServiceNames) -> list[tuple[str, str, bool]]:
    return [(entry.kind.value, entry.name, entry.via_discovery) for entry in names.entries]


def test_the_form_is_the_vendors() -> None:
    names = ServiceNames().with_manual(SERVICE, "Sql").with_discovered([(TASK, "\\Nightly"), (SERVICE, "Web")])
    assert json.loads(names.to_json()) == [
        {"type": "service", "items": [{"name": "Sql", "via_discovery": False}, {"name": "Web", "via_discovery": True}]},
        {"type": "task", "items": [{"name": "\\Nightly", "via_discovery": True}]},
    ]
    key = aes.new_key()
    assert set(listed(ServiceNames.open(names.seal(key), key))) == set(listed(names))
    with pytest.raises(VaultError):
        ServiceNames.open(names.seal(key), aes.new_key())


def test_discovery_replaces_what_it_saw_and_leaves_what_was_said() -> None:
    names = ServiceNames().with_discovered([(SERVICE, "Gone"), (SERVICE, "Sql")]).with_manual(SERVICE, "SQL")
    assert listed(names.with_discovered([(SERVICE, "sql"), (POOL, "Web"), (POOL, "web")])) == [
        ("service", "SQL", False), ("iis_pool", "Web", True),
    ]  # fmt: skip


def test_one_a_type_or_all_are_removed() -> None:
    names = ServiceNames().with_manual(SERVICE, "A").with_manual(SERVICE, "B").with_manual(TASK, "A")
    assert listed(names.without(SERVICE, "a")) == [("service", "B", False), ("task", "A", False)]
    assert listed(names.without(SERVICE)) == [("task", "A", False)]
    assert listed(names.without()) == []


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "x" * 401, "\u202eevil"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        ServiceNames().with_manual(SERVICE, name)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"type":"gadget","items":[{"name":"x"}]}]', '[{"type":"task"}]'])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        ServiceNames.parse(text) if text != "{}" else ServiceNames.parse('{"type": 1}')


def test_a_machine_has_no_more_than_fit() -> None:
    with pytest.raises(InvalidInput, match=str(MOST_NAMES)):
        ServiceNames().with_discovered((SERVICE, f"s{number}") for number in range(MOST_NAMES + 1))


def user(login: str, alternative: str | None = None) -> Record:
    record = Record.parse({"type": "pamUser", "title": "u", "fields": [{"type": "login", "value": [login]}]})
    return record.set_field("text", alternative, "Alternative Login", custom=True) if alternative else record


def place(kind: str, **texts: str) -> Record:
    fields = [{"type": "pamHostname", "value": [{"hostName": "web01.corp.test", "port": "5985"}]}]
    fields += [{"type": "text", "label": label, "value": [text]} for label, text in texts.items()]
    return Record.parse({"type": kind, "title": "p", "fields": fields})


MACHINE = place("pamMachine")


def test_a_local_account_is_meant_on_its_own_machine_only() -> None:
    assert names_on(MACHINE, user("svc"), MACHINE, is_here=True) == (".\\svc", "svc", "web01\\svc")
    with pytest.raises(Unsupported):
        names_on(MACHINE, user("svc"), place("pamMachine"), is_here=False)
    with pytest.raises(Unsupported):
        names_on(MACHINE, user("svc"), None, is_here=False)


def test_an_account_of_a_domain_has_several_spellings_and_none_is_bare() -> None:
    directory = place("pamDirectory", domainName="corp.test")
    assert names_on(MACHINE, user("svc"), directory, is_here=False) == (
        "svc@corp.test", "corp.test\\svc", "corp\\svc",
    )  # fmt: skip
    assert names_on(MACHINE, user("CORP\\svc"), None, is_here=False) == ("CORP\\svc", "svc@CORP")
    assert names_on(MACHINE, user("svc@corp.test"), MACHINE, is_here=True) == (
        "svc@corp.test", "corp.test\\svc", "corp\\svc",
    )  # fmt: skip


def test_the_other_login_counts_too() -> None:
    directory = place("pamDirectory", domainName="corp.test")
    found = names_on(MACHINE, user("service.account", "OLD\\svc"), directory, is_here=False)
    assert found[-2:] == ("OLD\\svc", "svc@OLD")
