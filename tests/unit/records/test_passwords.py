from __future__ import annotations

import json
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_jobs.errors import InvalidInput
from pam_jobs.records.complexity import ALLOWED_SPECIALS, DEFAULT_SPECIALS, Complexity
from pam_jobs.records.generator import TargetLimits, generate_password

pytestmark = pytest.mark.unit

CLASSES = {"caps": string.ascii_uppercase, "lowercase": string.ascii_lowercase, "digits": string.digits}


def classes_of(text: str, rule: Complexity) -> Counter[str]:
    alphabets = CLASSES | {"special": rule.specials}
    return Counter(next(name for name, alphabet in alphabets.items() if char in alphabet) for char in text)


def test_the_default_is_twenty_characters_with_one_of_each_class():
    rule = Complexity()
    assert rule.to_line() == "20,1,1,1,1"
    assert rule.to_json() == '{"length":20,"caps":1,"lowercase":1,"digits":1,"special":1}'
    password = generate_password().reveal()
    assert len(password) == 20
    assert set(classes_of(password, rule)) == {"caps", "lowercase", "digits", "special"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("20,1,1,1,1", Complexity()),
        ("32,5,5,5,5", Complexity(length=32, caps=5, lowercase=5, digits=5, special=5)),
        (" 16,2,2,-4,0 ", Complexity(length=16, caps=2, lowercase=2, digits=-4, special=0)),
        ("16,,,2,", Complexity(length=16, caps=None, lowercase=None, digits=2, special=None)),
        ("16,1,1,1,1,!,.", Complexity(length=16, special_chars="!,.")),
        ("16,1,1,1,1,", Complexity(length=16)),
    ],
)
def test_the_command_line_form_is_read(line: str, expected: Complexity):
    assert Complexity.parse(line) == expected
    assert Complexity.parse(expected.to_line()) == expected


def test_the_json_form_is_read_with_absent_classes_as_filler():
    rule = Complexity.parse('{"length":24,"caps":2,"digits":0,"specialChars":"#%","extra":1}')
    assert rule == Complexity(length=24, caps=2, lowercase=None, digits=0, special=None, special_chars="#%")
    assert Complexity.parse(json.loads(rule.to_json())) == rule
    assert Complexity.parse({}) == Complexity(caps=None, lowercase=None, digits=None, special=None)


def test_special_characters_count_once_and_have_a_default():
    assert Complexity(special_chars="!!#").specials == "!#"
    assert Complexity().specials == DEFAULT_SPECIALS
    assert set(DEFAULT_SPECIALS) < set(ALLOWED_SPECIALS)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("20,1,1,1", "is not a password complexity"),
        ("long,1,1,1,1", "is not a password complexity"),
        ("20,1,x,1,1", "is not a password complexity"),
        ("", "is not a password complexity"),
        ("{", "not valid JSON"),
        ({"length": "20"}, "'length' of the complexity is not a whole number"),
        ({"caps": 1.5}, "'caps' of the complexity is not a whole number"),
        ({"digits": True}, "'digits' of the complexity is not a whole number"),
        ({"specialChars": ["!"]}, "'specialChars' of the complexity is not text"),
        ("7,1,1,1,1", "a password length of 7 is not allowed"),
        ("257,1,1,1,1", "a password length of 257 is not allowed"),
        ("20,0,0,0,0", "leaves out every class"),
        ("20,300,1,1,1", "asks for 300 characters of the class caps"),
        ("20,100,100,100,1", "add up to 301"),
        ("20,-4,-4,0,0", "fixes 8 characters but the length is 20"),
        ("20,1,1,1,1,é!", "the special characters hold 'é'"),
        ({"special": 1, "specialChars": ""}, "asks for special characters but allows none"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused_with_a_remedy(source, sentence: str):
    with pytest.raises(InvalidInput) as refused:
        Complexity.parse(source)
    assert sentence in refused.value.message
    assert refused.value.remedy


counts = st.none() | st.integers(-6, 9)
rules = st.builds(
    lambda length, caps, lowercase, digits, special, chars: {
        "length": length,
        "caps": caps,
        "lowercase": lowercase,
        "digits": digits,
        "special": special,
        "specialChars": chars,
    },
    st.integers(8, 40),
    counts,
    counts,
    counts,
    counts,
    st.none() | st.text(ALLOWED_SPECIALS, min_size=1, max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(source=rules, forbidden=st.text(ALLOWED_SPECIALS + string.digits, max_size=4))
def test_every_password_keeps_its_rule(source, forbidden: str):
    try:
        rule = Complexity.parse(source)
        password = generate_password(rule, TargetLimits(forbidden_characters=forbidden)).reveal()
    except InvalidInput as refused:
        assert refused.remedy  # noqa: PT017 - a rule that contradicts itself is refused in a sentence
        return
    assert len(password) == max(rule.length, rule.minimum)
    assert not password.startswith("-")
    assert not set(password) & set(forbidden)
    found = classes_of(password, rule)
    for name, count in rule.counts().items():
        if count is not None and count <= 0:
            assert found[name] == -count
        elif count:
            assert found[name] >= count


def test_a_class_without_a_count_only_fills():
    rule = Complexity(length=8, caps=8, lowercase=None, digits=0, special=0)
    assert classes_of(generate_password(rule).reveal(), rule) == {"caps": 8}
    longer = Complexity(length=200, caps=8, lowercase=None, digits=0, special=0)
    assert classes_of(generate_password(longer).reveal(), longer)["lowercase"] > 50


def test_a_length_below_the_counts_is_raised_to_them():
    rule = Complexity(length=8, caps=5, lowercase=5, digits=5, special=5)
    assert len(generate_password(rule)) == 20


def test_the_target_raises_a_short_length_and_refuses_a_long_one():
    assert len(generate_password(Complexity(length=8), TargetLimits(min_length=14))) == 14
    assert len(generate_password(Complexity(length=14), TargetLimits(max_length=14))) == 14
    with pytest.raises(InvalidInput, match="20 characters but the target takes at most 14"):
        generate_password(Complexity(), TargetLimits(max_length=14))


def test_a_class_that_the_target_forbids_altogether_is_refused():
    with pytest.raises(InvalidInput, match="forbids all digits"):
        generate_password(Complexity(), TargetLimits(forbidden_characters=string.digits))
    rule = Complexity(digits=None)
    password = generate_password(rule, TargetLimits(forbidden_characters=string.digits)).reveal()
    assert not set(password) & set(string.digits)


def test_fixed_counts_that_leave_a_gap_to_the_targets_length_are_refused():
    rule = Complexity(length=8, caps=-4, lowercase=-4, digits=0, special=0)
    assert len(generate_password(rule)) == 8
    with pytest.raises(InvalidInput, match="2 characters of the password may be of no class"):
        generate_password(rule, TargetLimits(min_length=10))


def test_a_password_of_dashes_alone_is_refused_and_one_other_character_goes_first():
    dashes = Complexity(length=8, caps=0, lowercase=0, digits=0, special=8, special_chars="-")
    with pytest.raises(InvalidInput, match="nothing but dashes"):
        generate_password(dashes)
    fill = Complexity(length=8, caps=0, lowercase=0, digits=None, special=-8, special_chars="-")
    with pytest.raises(InvalidInput, match="nothing but dashes"):
        generate_password(fill)
    one = Complexity(length=8, caps=0, lowercase=0, digits=-1, special=-7, special_chars="-")
    for _ in range(30):  # most first draws begin with a dash
        assert generate_password(one).reveal()[1:] == "-" * 7


def test_characters_are_spread_evenly_over_places_and_alphabet():
    rule = Complexity(length=200, caps=0, lowercase=1, digits=1, special=0)
    text = "".join(generate_password(rule).reveal() for _ in range(200))
    expected = len(text) / 36
    spread = Counter(text)
    assert len(spread) == 36
    # chi-square with 35 degrees of freedom passes 80 once in 50 000 runs of an even source
    assert sum((count - expected) ** 2 / expected for count in spread.values()) < 80 + 10


def test_passwords_do_not_repeat():
    assert len({generate_password() for _ in range(500)}) == 500


def test_words_of_the_target_are_in_no_password():
    limits = TargetLimits(forbidden_words=("A", "7"))
    made = [generate_password(Complexity.parse("8,,,,"), limits).reveal() for _ in range(50)]
    assert not any(char in "aA7" for text in made for char in text)


def test_classes_that_the_target_demands_are_in_every_password():
    made = generate_password(Complexity.parse("8,1,,,0"), TargetLimits(min_classes=3)).reveal()
    assert any(char.islower() for char in made)
    assert any(char.isdigit() for char in made)
    with pytest.raises(InvalidInput, match="fulfils"):
        generate_password(Complexity.parse("20,1,1,0,0"), TargetLimits(min_classes=3))
