"""Policies in the shapes that people have them in, and what is not a policy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.policy import explain, lint
from parent.policy.actions import PolicyError, find
from parent.policy.evaluate import Request
from parent.policy.language import MAX_INPUT, parse
from tests.parent.policy.policies import A0, IMAGE, OLD, ROLE, policies, statement

WHOLE = {"Version": "2012-10-17", "Statement": [statement()]}
TEXT = json.dumps(WHOLE)


@pytest.mark.parametrize(
    "document",
    [
        WHOLE,
        {"Statement": statement()},
        statement(),
        [statement()],
        {"Policy": TEXT, "PolicyName": "default"},
        {"Policy": WHOLE},
        TEXT,
        json.dumps(TEXT),
        {"KeyPolicy": WHOLE},
        {"PolicyVersion": {"Document": WHOLE, "IsDefaultVersion": True}},
        {"RoleName": "x", "PolicyDocument": WHOLE},
    ],
    ids=["whole", "one statement in it", "statement", "list", "get-key-policy", "as an object",
         "--query Policy", "twice a string", "CloudFormation", "get-policy-version",
         "get-role-policy"],
)  # fmt: skip
def test_shapes(document: Any) -> None:
    [found] = parse(json.dumps(document, indent=2)).statements
    assert (found.name, found.actions, found.principals) == ("use", ("kms:Decrypt",), (ROLE,))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(encoding: str) -> None:
    assert parse(TEXT.encode(encoding)).is_of_key


def test_only_a_whole_policy_is_taken_for_one() -> None:
    assert parse(TEXT).is_whole
    assert not parse(json.dumps([statement()])).is_whole
    assert not parse(json.dumps(statement())).is_whole


def test_a_policy_without_principals_is_of_iam() -> None:
    assert not parse(json.dumps(statement(Principal=None))).is_of_key


@given(policies(), st.sampled_from([None, 0, 1, "\t"]), st.booleans())
def test_lines(text: str, indent: int | str | None, in_response: bool) -> None:
    """A statement's line is where its brace is."""
    document = json.loads(text)
    for number, item in enumerate(document["Statement"]):
        item["Sid"] = f'\\"{{[number {number}'
    text = json.dumps(document, indent=indent)
    given = json.dumps({"Policy": text}) if in_response else text
    for number, found in enumerate(parse(given).statements):
        sid = text.index(json.dumps(f'\\"{{[number {number}'))
        begin = text.rindex("{", 0, text.rindex('"Effect"', 0, sid))
        assert found.line == text.count("\n", 0, begin) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p:1:1: not JSON"),
        ('{"Statement": [\n  {"Effect" "Allow"}]}', r"p:2:13: not JSON: Expecting ':' delimiter"),
        ('{\n"Policy": "{\\n\\n x"}', r"p \(the string in it\):3:2: not JSON"),
        ("[" * 200 + "]" * 200, "p: not JSON: nested too deeply"),
        ("{}", "p: the JSON has no Statement"),
        ("[]", "neither a policy nor a statement"),
        ("7", "neither a policy nor a statement"),
        ('{"Policy": {"Policy": {"Policy": {"Policy": 1}}}}', "p: no policy in it"),
        ('{"Statement": []}', "no statement"),
        ('{"Statement": [1]}', "p:1: statement 1 has no Effect"),
        ('{"Version": "2026-11-27", "Statement": []}', "p: the policy has a Version that"),
        ('{"Version": 1, "Statement": []}', "p: the policy has a Version that"),
        ('{"version": "2012-10-17", "Statement": []}', "p: the policy has an element 'version'"),
        ('{"AWSTemplateFormatVersion": "x"}', "a CloudFormation template"),
        ('{"Measurements": {}}', "measurements, not a policy"),
        ('{"KeyMetadata": {}}', "the response of describe-key"),
        ('resource "aws_kms_key" "k" {', "not JSON"),
        (json.dumps({"Statement": statement(Effect="allow")}), "no Effect that is Allow or Deny"),
        (json.dumps({"Statement": statement(Action=None, Principal=None)}), "has no Action"),
        ('{"Statement": [{"Fn::If": []}]}', "statement 1 is a function of CloudFormation"),
        (
            json.dumps({"Statement": statement(Principal={"AWS": {"Fn::Sub": "x"}})}),
            "such as a function of CloudFormation",
        ),
        (json.dumps({"Statement": statement(NotAction="x")}), "both Action and NotAction"),
        (
            json.dumps({"Statement": statement(NotPrincipal="*")}),
            "both Principal and NotPrincipal",
        ),
        (json.dumps({"Statement": statement(Action=[None])}), "not printable text"),
        (json.dumps({"Statement": statement(Principal=[ROLE])}), "neither [*] nor an object"),
        (json.dumps({"Statement": statement(Principal=ROLE)}), "neither [*] nor an object"),
        (json.dumps({"Statement": statement(Condition=[])}), "not an object"),
        (json.dumps({"Statement": statement(Condition={"StringEquals": A0})}), "not operators"),
        (
            json.dumps({"Statement": statement(Condition={"StringEquals": {IMAGE: "\x1b[2J"}})}),
            "not printable",
        ),
        (json.dumps({"Statement": statement(Condition={"\x1b": {IMAGE: "x"}})}), "not operators"),
        ('{"Statement": {"Effect": "Allow", "Effect": "Deny"}}', "the name 'Effect' twice"),
        # One pass over the names: counting each of them would take minutes.
        (json.dumps({f"{n:x}": 1 for n in range(20_000)})[:-1] + ', "4e1f": 1}', "'4e1f' twice"),
        (
            json.dumps({"Statement": [statement(), statement(Principal=None)]}, indent=1),
            r"p:\d+: use has no Principal, and other statements have one",
        ),
        (" " * (MAX_INPUT + 1), "more than"),
        (json.dumps([{"Effect": "Deny", "Action": "*"}] * 501), "501 statements"),
    ],
)  # fmt: skip
def test_what_is_not_a_policy(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse(text, origin="p")


@pytest.mark.parametrize(
    ("element", "hint"),
    [
        ("Conditions", "write Condition; the case counts"),
        ("condition", "write Condition; the case counts"),
        ("Resources", "write Resource; the case counts"),
        ("effect", "write Effect; the case counts"),
        ("Comment\x1b", "leave it out"),
    ],
)
def test_misspelt_element_is_named(element: str, hint: str) -> None:
    """Without it, its statement would let in more than it seems to."""
    with pytest.raises(PolicyError, match=r"p:1: statement 1 has an element") as caught:
        parse(json.dumps({"Statement": statement(**{element: {}})}), origin="p")
    assert str(caught.value).isprintable()
    assert caught.value.hint == hint


def test_what_is_not_text() -> None:
    with pytest.raises(PolicyError, match="not text"):
        parse(b'{"\xff\xff\xff')


def test_hints_fit() -> None:
    for text in ("{}", "x = 1", 'resource "aws_kms_key" "k" {'):
        with pytest.raises(PolicyError) as caught:
            parse(text)
        assert "get-key-policy" in caught.value.hint


def test_names_of_statements_are_printable() -> None:
    assert parse(json.dumps(statement(Sid="\x1b[2J"))).statements[0].name == "statement 1"
    assert parse(json.dumps(statement(Sid=None))).statements[0].name == "statement 1"


def test_unquoted_values() -> None:
    [found] = parse(
        json.dumps(statement(Condition={"Null": {IMAGE: False}, "NumericEquals": {"aws:x": 3}}))
    ).statements
    assert [condition.values for condition in found.conditions] == [("false",), ("3",)]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from([IMAGE, "Allow", "Deny", "kms:*", "*", ROLE]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Statement", "Effect", "Action", "NotAction", "Principal", "AWS", "Resource",
                     "Condition", "Null", "StringEquals", "Policy", IMAGE]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_only_the_documented_error(document: Any) -> None:
    try:
        policy = parse(json.dumps(document))
    except PolicyError:
        return
    lint.lint(policy)
    list(explain.explain(policy, Request(find("Decrypt"), ROLE, None, OLD)).lines())
