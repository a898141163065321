from __future__ import annotations

import json

import pytest

from pam_jobs.errors import InvalidInput
from pam_jobs.records.catalogue import FieldSpec, fields_of
from pam_jobs.records.record import PamResources, Record
from pam_jobs.records.types import (
    PAM_USER,
    TYPES,
    assign,
    is_configuration,
    is_resource,
    new_record,
    split_assignment,
    validate,
)
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

CONFIGURATIONS = [name for name in TYPES if name.endswith("Configuration") and name != "saasConfiguration"]
LEAST = {
    PAM_USER: [("login", "alice")],
    "pamMachine": [("host", "h")],
    "pamAwsConfiguration": [("awsId", "1")],
    "pamAzureConfiguration": [("azureId", "1"), ("subscriptionId", "2"), ("tenantId", "3")],
}


@pytest.mark.parametrize("record_type", list(TYPES))
def test_every_type_has_a_least_record_that_is_valid(record_type: str):
    record = new_record(record_type, "t", LEAST.get(record_type, []), complete=False)
    if is_configuration(record_type):
        record = record.with_resources(PamResources(controller_uid="G"))
    validate(record)
    labels = [(entry["type"], entry.get("label", "")) for entry in record.to_dict()["fields"]]
    assert labels == [(spec.kind, spec.label) for spec in TYPES[record_type] if not spec.legacy]
    assert record == Record.parse(record.to_json())


def test_types_know_what_they_are():
    assert [name for name in TYPES if is_resource(name)] == [
        "pamMachine",
        "pamDatabase",
        "pamDirectory",
        "pamRemoteBrowser",
        "pamCloudResource",
    ]
    assert [name for name in TYPES if is_configuration(name)] == CONFIGURATIONS
    assert not is_configuration("pamOtherConfiguration")
    assert not is_resource(PAM_USER)


def test_a_user_is_built_from_what_a_person_types():
    record = new_record(
        PAM_USER,
        " alice on db1 ",
        [
            ("login", "alice"),
            ("password", "old=secret"),
            ("secret.privatePEMKey", "PEM"),
            ("connectDatabase", "shop"),
            ("f.text.distinguishedName", "cn=alice,dc=x"),
            ("managed", "yes"),
            ("c.text.NOOP", "True"),
            ('custom.text."Private Key Type"', "ssh-ed25519"),
            ("text.Shell", "/bin/sh"),
            ("c.secret.my.dotted.label", "x"),
            ("notes", "hello"),
        ],
    )
    assert record.title == "alice on db1"
    assert record.login == "alice"
    assert record.password == SecretValue("old=secret")
    assert record.private_key == SecretValue("PEM")
    assert record.field("text", "connectDatabase") == "shop"
    assert record.field("text", "distinguishedName") == "cn=alice,dc=x"
    assert record.field("checkbox", "managed") is True
    assert record.custom("private key type") == "ssh-ed25519"
    assert record.custom("Shell") == "/bin/sh"
    assert record.field("secret", "my.dotted.label") == "x"
    assert record.flag("NOOP", False)
    assert record.notes == "hello"


@pytest.mark.parametrize(
    "assignments",
    [
        [("host", "db1"), ("port", "5432")],
        [("hostName", "db1"), ("PORT", "5432")],
        [("pamHostname.hostName", "db1"), ("pamHostname.port", "5432")],
        [("f.pamHostname.host", "db1"), ("pamhostname.port", "5432")],
        [("pamHostname", "db1:5432")],
        [("pamHostname", '$JSON:{"hostName":"db1","port":"5432"}')],
    ],
)
def test_host_and_port_have_several_spellings(assignments):
    record = new_record("pamDatabase", "t", [*assignments, ("databaseType", "postgresql"), ("useSSL", "true")])
    assert record.field("pamHostname") == {"hostName": "db1", "port": "5432"}
    assert record.field("databaseType") == "postgresql"
    assert record.field("checkbox", "useSSL") is True


def test_an_ipv6_address_is_not_cut_into_host_and_port():
    record = new_record("pamMachine", "t", [("pamHostname", "fe80::1"), ("port", "22")])
    assert (record.host, record.port) == ("fe80::1", 22)


def test_a_legacy_field_is_there_only_when_given():
    record = new_record("pamMachine", "t", [("host", "h"), ("login", "root"), ("privatePEMKey", "PEM")])
    assert record.login == "root"
    assert record.private_key == SecretValue("PEM")
    assert "password" not in record.to_json()


def test_a_multiline_field_given_again_gets_another_line():
    record = new_record(
        "pamNetworkConfiguration",
        "t",
        [
            ("portMapping", "2222=ssh"),
            ("portMapping", "5433=postgresql"),
            ("c.multiline.Plan", "a"),
            ("c.multiline.Plan", "b"),
        ],
        complete=False,
    )
    assert record.field("multiline", "portMapping") == "2222=ssh\n5433=postgresql"
    assert record.custom("Plan") == "a\nb"


def test_assigning_to_an_old_record_replaces_a_multiline_field():
    record = new_record("pamNetworkConfiguration", "t", [("portMapping", "2222=ssh")], complete=False)
    changed = assign(record, [("portMapping", "23=ssh")])
    assert changed.field("multiline", "portMapping") == "23=ssh"


def test_a_password_can_be_generated():
    first = new_record(PAM_USER, "t", [("login", "a"), ("password", "$GEN")]).password
    second = new_record(PAM_USER, "t", [("login", "a"), ("password", "$GEN")]).password
    assert first is not None
    assert len(first) == 20
    assert first != second


def test_a_configuration_begins_with_rotation_on_demand_and_takes_a_schedule():
    record = new_record("pamNetworkConfiguration", "t", complete=False)
    assert record.values("schedule") == [{"type": "ON_DEMAND"}]
    text = '[{"type":"CRON","cron":"0 30 2 ? * SUN","tz":"Etc/UTC"}]'
    changed = assign(record, [("defaultRotationSchedule", text)])
    assert changed.values("schedule", "defaultRotationSchedule") == json.loads(text)


@pytest.mark.parametrize(
    ("record_type", "assignments", "sentence"),
    [
        ("pamPrinter", [], "'pamPrinter' is not a record type"),
        (PAM_USER, [], "the pamUser record 't' has no login"),
        (PAM_USER, [("login", "  ")], "has no login"),
        ("pamMachine", [], "has no pamHostname"),
        ("pamMachine", [("port", "22")], "has no pamHostname"),
        ("pamMachine", [("host", "h"), ("port", "65536")], "'65536' of the record is not a port"),
        ("pamMachine", [("pamHostname", "h:ssh")], "'ssh' of the record is not a port"),
        ("pamNetworkConfiguration", [], "has no pamResources"),
        ("pamAwsConfiguration", [("pamResources", '{"controllerUid":"G"}')], "has no awsId"),
        (PAM_USER, [("login", "a"), ("host", "h")], "'host' is not a field of pamUser"),
        (PAM_USER, [("login", "a"), ("colour", "red")], "'colour' is not a field of pamUser"),
        (PAM_USER, [("login", "a"), ("c.text", "x")], "'c.text' is not a field"),
        (PAM_USER, [("login", "a"), ("c.spaceship.X", "x")], "'c.spaceship.X' is not a field"),
        (PAM_USER, [("login", "a"), ("f.text.Other", "x")], "'f.text.Other' is not a field"),
        (PAM_USER, [("login", "a"), ("Login", "b")], "'Login' is given twice"),
        (PAM_USER, [("login", "a"), ("notes", "x"), ("notes", "y")], "'notes' is given twice"),
        ("pamMachine", [("host", "h"), ("pamHostname.hostName", "i")], "is given twice"),
        (PAM_USER, [("login", "a"), ("managed", "perhaps")], "managed is neither true nor false"),
        ("pamDatabase", [("databaseType", "dbase")], "'dbase' is not a databaseType"),
        ("pamDirectory", [("directoryType", "nis")], "'nis' is not a directoryType"),
        ("pamDatabase", [("pamHostname", "$JSON:{")], "is not valid JSON"),
        ("pamNetworkConfiguration", [("defaultRotationSchedule", "daily")], "schedule is not valid JSON"),
        (
            "pamNetworkConfiguration",
            [("pamResources", '{"controllerUid":"G"}'), ("portMapping", "ssh")],
            "'ssh' is not a port mapping",
        ),
        (PAM_USER, [("login", "a"), ("rotationScripts", '[{"command":"sh"}]')], "names no file"),
    ],
)
def test_a_wrong_record_is_refused_with_a_remedy(record_type: str, assignments, sentence: str):
    with pytest.raises(InvalidInput) as refused:
        new_record(record_type, "t", assignments)
    assert sentence in refused.value.message
    assert refused.value.remedy


def test_a_record_needs_a_title():
    with pytest.raises(InvalidInput, match="no title"):
        new_record(PAM_USER, "  ", [("login", "a")])


def test_an_unknown_type_is_refused_with_the_list_of_known_ones():
    with pytest.raises(InvalidInput) as refused:
        fields_of("nothing")
    assert all(name in (refused.value.remedy or "") for name in TYPES)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "checkbox", "label": "managed", "value": ["yes"]}, "managed of the record is not true or false"),
        ({"type": "script", "label": "rotationScripts", "value": [{}]}, "names no file"),
    ],
)
def test_a_record_from_outside_is_checked_too(changes, sentence: str):
    data = {"type": PAM_USER, "title": "t", "fields": [{"type": "login", "value": ["a"]}, changes]}
    with pytest.raises(InvalidInput, match=sentence):
        validate(Record.parse(data))


def test_a_stored_schedule_that_never_fires_is_refused():
    record = new_record("pamNetworkConfiguration", "t", complete=False)
    record = record.with_resources(PamResources(controller_uid="G"))
    record = record.set_field("schedule", [{"type": "CRON", "cron": "0 0 31 2 *"}], "defaultRotationSchedule")
    with pytest.raises(InvalidInput, match="never fires"):
        validate(record)


def test_an_assignment_is_cut_at_the_first_equals_sign():
    assert split_assignment("password=a=b") == ("password", "a=b")
    assert split_assignment(" login =") == ("login", "")


@pytest.mark.parametrize("text", ["canary-secret", "=canary-secret"])
def test_an_assignment_without_a_name_is_refused_without_repeating_it(text: str):
    with pytest.raises(InvalidInput) as refused:
        split_assignment(text)
    assert "canary" not in refused.value.sentence()


def test_a_field_is_named_by_its_label_first():
    assert FieldSpec("text", "userMatch").name == "userMatch"
    assert FieldSpec("login").name == "login"
