from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.errors import InvalidInput
from pam_jobs.records.record import PamResources, Record, ReRun, ScriptRef
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

CANARY = "canary-5ecret"
USER = {
    "uidHint": "kept",
    "title": "alice on db1",
    "type": "pamUser",
    "fields": [
        {"type": "login", "value": ["alice"], "required": True, "privacyScreen": False},
        {"type": "password", "value": [CANARY], "enforceGeneration": False},
        {
            "type": "script",
            "label": "rotationScripts",
            "value": [
                {"fileRef": "F1", "recordRef": ["R1", "R2"], "command": "/bin/sh", "newKey": 7},
                {"fileRef": "F2", "recordRef": [], "command": ""},
            ],
        },
        {"type": "secret", "label": "privatePEMKey", "value": []},
        {"type": "fileRef", "value": ["F1", "F2"]},
        {"type": "somethingNew", "value": [{"a": 1}], "x": None},
    ],
    "custom": [
        {"type": "text", "label": "Private Key Type", "value": ["ssh-ed25519"]},
        {"type": "text", "label": "noop", "value": ["TRUE"]},
        {"type": "checkbox", "label": "Kerberos", "value": [False]},
        {"type": "text", "label": "Empty", "value": [""]},
        {"type": "text", "value": ["no label"]},
        {"type": "text", "label": "Shell", "value": []},
        {"type": "text", "label": "Shell", "value": ["/bin/bash"]},
        {"type": "address", "label": "Where", "value": [{"street": "x"}]},
    ],
    "notes": "by hand",
}


@pytest.fixture
def user() -> Record:
    return Record.parse(json.dumps(USER))


def machine(host: object, port: object) -> Record:
    value = {"hostName": host, "port": port}
    return Record.parse({"type": "pamMachine", "title": "m", "fields": [{"type": "pamHostname", "value": [value]}]})


def test_a_record_comes_back_exactly_as_it_was_written(user: Record):
    assert user.to_json() == json.dumps(USER, separators=(",", ":"))
    assert list(user.to_dict()) == list(USER)


def test_the_usual_fields_are_read(user: Record):
    assert (user.type, user.title, user.notes, user.login) == ("pamUser", "alice on db1", "by hand", "alice")
    assert user.password == SecretValue(CANARY)
    assert user.private_key is None
    assert user.host is None
    assert user.port is None
    assert user.file_uids() == ["F1", "F2"]


def test_a_change_returns_a_new_record_and_leaves_the_rest_in_place(user: Record):
    changed = user.set_field("login", "bob")
    assert user.login == "alice"
    expected = copy.deepcopy(USER)
    expected["fields"][0]["value"] = ["bob"]
    assert changed.to_json() == json.dumps(expected, separators=(",", ":"))


def test_what_is_handed_out_or_in_is_a_copy(user: Record):
    user.values("somethingNew")[0]["a"] = 2
    user.to_dict()["title"] = "other"
    value = {"hostName": "h"}
    changed = user.set_field("pamHostname", [value])
    value["hostName"] = "changed"
    assert user.field("somethingNew") == {"a": 1}
    assert user.title == "alice on db1"
    assert changed.host == "h"


def test_a_missing_field_is_added_with_its_label():
    record = Record.parse({"type": "pamUser", "title": "t"}).set_field("text", "cn=a", "distinguishedName")
    record = record.set_field("login", "a").set_field("text", "True", "NOOP", custom=True)
    assert json.loads(record.to_json()) == {
        "type": "pamUser",
        "title": "t",
        "fields": [
            {"type": "text", "label": "distinguishedName", "value": ["cn=a"]},
            {"type": "login", "value": ["a"]},
        ],
        "custom": [{"type": "text", "label": "NOOP", "value": ["True"]}],
    }


def test_none_empties_a_field(user: Record):
    assert user.set_field("password", None).password is None


def test_a_label_matches_whatever_its_case_and_spaces():
    record = Record.parse({"type": "x", "fields": [{"type": "checkbox", "label": "Use SSL", "value": [True]}]})
    assert record.field("checkbox", "useSSL") is True
    assert record.field("checkbox", "other") is None
    assert record.field("checkbox") is True


def test_an_empty_standard_field_does_not_hide_a_filled_custom_one():
    record = Record.parse(
        {
            "type": "pamMachine",
            "fields": [{"type": "secret", "label": "privatePEMKey", "value": []}],
            "custom": [{"type": "secret", "label": "Private PEM Key", "value": ["PEM"]}],
        }
    )
    assert record.private_key == SecretValue("PEM")


def test_a_custom_text_is_found_without_regard_to_case(user: Record):
    assert user.custom("private key type") == "ssh-ed25519"
    assert user.custom(" Shell ") == "/bin/bash"
    assert user.custom("Kerberos") == "False"
    assert user.custom("Empty") is None
    assert user.custom("Where") is None
    assert user.custom("absent") is None


def test_all_custom_texts_are_listed_by_label(user: Record):
    assert user.customs() == {"Private Key Type": "ssh-ed25519", "noop": "TRUE", "Shell": "/bin/bash"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("True", True), ("true", True), ("1", True), ("YES", True), ("on", True), (" FALSE ", False), ("0", False)],
)
def test_a_flag_is_read_in_all_its_spellings(text: str, expected: bool):
    record = Record.parse({"type": "pamUser"}).set_field("text", text, "NOOP", custom=True)
    assert record.flag("NOOP", not expected) is expected


def test_a_flag_that_is_absent_has_its_default(user: Record):
    assert user.flag("absent", True) is True
    assert user.flag("Empty", False) is False


def test_a_flag_that_says_neither_is_refused():
    record = Record.parse({"type": "pamUser"}).set_field("text", "maybe", "NOOP", custom=True)
    with pytest.raises(InvalidInput, match="NOOP"):
        record.flag("NOOP", False)


@pytest.mark.parametrize(("port", "expected"), [("22", 22), (2222, 2222), ("", None), (None, None), ("65535", 65535)])
def test_a_port_is_a_number_or_absent(port: object, expected: int | None):
    record = machine("db1 ", port)
    assert record.port == expected
    assert record.host == "db1"


@pytest.mark.parametrize("port", ["0", "65536", "ssh", "-1", "\uff12\uff12", "22.0", True])
def test_a_port_that_is_none_is_refused(port: object):
    with pytest.raises(InvalidInput, match="is not a port"):
        _ = machine("db1", port).port


def test_scripts_are_read_in_order(user: Record):
    assert user.scripts == [
        ScriptRef(file_uid="F1", record_uids=("R1", "R2"), command="/bin/sh"),
        ScriptRef(file_uid="F2"),
    ]


def test_whether_a_script_runs_again_is_kept_beside_the_vendors_keys(user: Record):
    first, _ = user.scripts
    assert first.re_run is ReRun.NEVER
    changed = user.with_scripts([replace(first, re_run=ReRun.IF_UNKNOWN)])
    [value] = changed.values("script")
    assert value["reRun"] == "if-unknown"
    assert changed.scripts[0].re_run is ReRun.IF_UNKNOWN
    back = changed.with_scripts([first])
    assert back.scripts == [first]
    odd = user.set_field("script", [{**value, "reRun": "always"}], "rotationScripts")
    assert odd.scripts[0].re_run is ReRun.NEVER, "what is not known is not run twice"


def test_scripts_are_replaced_and_keep_what_we_do_not_know(user: Record):
    first, second = user.scripts
    changed = user.with_scripts([second, ScriptRef(file_uid="F1", command="/bin/bash"), ScriptRef(file_uid="F3")])
    assert changed.values("script") == [
        {"fileRef": "F2", "recordRef": [], "command": ""},
        {"fileRef": "F1", "recordRef": [], "command": "/bin/bash", "newKey": 7},
        {"fileRef": "F3", "recordRef": [], "command": ""},
    ]
    assert user.scripts == [first, second]


@pytest.mark.parametrize("value", [{}, {"fileRef": ""}, {"fileRef": 3}, "F1"])
def test_a_script_without_a_file_is_refused_instead_of_never_running(value: object):
    with pytest.raises(InvalidInput, match="names no file"):
        _ = Record.parse({"type": "pamUser"}).set_field("script", [value], "rotationScripts").scripts


def test_what_a_configuration_holds_together_is_read_and_written():
    record = Record.parse({"type": "pamNetworkConfiguration", "title": "c"})
    assert record.resources() == PamResources()
    filled = record.with_resources(PamResources(controller_uid="G", folder_uid="F", resource_uids=("A", "B")))
    assert filled.field("pamResources") == {"controllerUid": "G", "folderUid": "F", "resourceRef": ["A", "B"]}
    full = PamResources(
        controller_uid="G2",
        folder_uid="F",
        resource_uids=("A",),
        admin_credential_uid="U",
        allowed_settings={"rotation": True},
    )
    kept = filled.set_field("pamResources", filled.field("pamResources") | {"unknown": 1}).with_resources(full)
    assert kept.resources() == full
    assert kept.field("pamResources")["unknown"] == 1
    emptied = kept.with_resources(PamResources())
    assert emptied.field("pamResources") == {
        "controllerUid": "",
        "folderUid": "",
        "resourceRef": [],
        "unknown": 1,
        "adminCredentialRef": "",
        "allowedSettings": {},
    }
    assert emptied.resources() == PamResources()


def test_a_promoted_credential_replaces_only_the_parts_given(user: Record):
    both = user.with_credential(password=SecretValue("new"), private_key=SecretValue("PEM"))
    assert (both.password, both.private_key) == (SecretValue("new"), SecretValue("PEM"))
    assert both.with_credential() == both
    only = both.with_credential(password=SecretValue("newer"))
    assert (only.password, only.private_key) == (SecretValue("newer"), SecretValue("PEM"))
    assert [entry["type"] for entry in both.to_dict()["fields"]] == [entry["type"] for entry in USER["fields"]]


def test_blanks_at_the_ends_belong_to_a_password():
    record = Record.parse({"type": "pamUser"}).set_field("password", " a ")
    assert record.password == SecretValue(" a ")


def test_title_and_notes_change_by_themselves(user: Record):
    changed = user.with_title("t").with_notes("n")
    assert (changed.title, changed.notes, changed.login) == ("t", "n", "alice")


def test_nothing_that_prints_a_record_shows_a_secret(user: Record):
    assert CANARY not in repr(user) + str(user) + f"{user}"
    with pytest.raises(TypeError):
        user.__reduce__()


def test_records_are_equal_by_content(user: Record):
    assert user == Record.parse(USER)
    assert hash(user) == hash(Record.parse(USER))
    assert user != user.set_field("login", "bob")
    assert user != "text"


@pytest.mark.parametrize(
    "source",
    [
        "{" + CANARY,
        '{"type":"pamUser","title":NaN}',
        b"\xff" + CANARY.encode(),
        "[" * 100_000,
        "[]",
        "{}",
        '{"type":""}',
        '{"type":"x","title":1}',
        '{"type":"x","fields":{}}',
        '{"type":"x","custom":["' + CANARY + '"]}',
        '{"type":"x","fields":[{"value":[]}]}',
        '{"type":"x","fields":[{"type":"password","value":"' + CANARY + '"}]}',
    ],
)
def test_what_is_no_record_is_refused_without_showing_it(source: str | bytes):
    with pytest.raises(InvalidInput) as refused:
        Record.parse(source)
    assert refused.value.remedy
    assert CANARY not in refused.value.sentence()
    assert refused.value.__cause__ is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.lists(
    st.builds(
        lambda kind, extra, value: extra | {"type": kind, "value": value},
        st.sampled_from(["login", "text", "odd", "secret"]),
        st.dictionaries(st.text(max_size=6), json_values, max_size=2),
        st.lists(json_values, max_size=2) | st.none(),
    ),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(extra=st.dictionaries(st.text(max_size=6), json_values, max_size=3), standard=fields, custom=fields)
def test_unknown_content_survives_a_change(extra, standard, custom):
    data = extra | {"type": "pamUser", "title": "t", "fields": standard, "custom": custom}
    changed = Record.parse(json.dumps(data)).with_credential(password=SecretValue("new"))
    result = json.loads(changed.to_json())
    assert changed.password == SecretValue("new")
    assert list(result) == list(data)
    assert result["fields"] == [*standard, {"type": "password", "value": ["new"]}]
    assert result["custom"] == custom
