"""Condition operators on every kind of value, as the IAM User Guide has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parent.policy import evaluate
from parent.policy.actions import find
from parent.policy.evaluate import Outcome, Request
from tests.parent.policy.policies import KEY, OLD, SESSION, compares, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping


def outcome(statement: dict[str, object], context: Mapping[str, tuple[str, ...]]) -> Outcome:
    request = Request(find("Decrypt"), SESSION, KEY, OLD, context)
    return evaluate.outcome(parsed(statement), request)


@pytest.mark.parametrize(
    ("operator", "expected", "outcomes"),
    [
        # Outcomes for the values a; b; A; a and b; b and c; none; not known.
        ("StringEquals", "a", "+--+--?"),
        ("StringNotEquals", "a", "-+++++?"),
        ("StringEqualsIgnoreCase", "A", "+-++--?"),
        ("StringNotEqualsIgnoreCase", "A", "-+-+++?"),
        ("StringLike", "?", "+++++-?"),
        ("StringLike", "a*", "+--+--?"),
        ("StringNotLike", "a*", "-+++++?"),
        ("StringEqualsIfExists", "a", "+--+-+?"),
        ("StringNotEqualsIfExists", "a", "-+++++?"),
        ("ForAnyValue:StringEquals", "a", "+--+--?"),
        ("ForAnyValue:StringNotEquals", "a", "-++++-?"),
        ("ForAllValues:StringEquals", "a", "+----+?"),
        ("ForAllValues:StringNotEquals", "a", "-++-++?"),
        ("ForAllValues:StringEqualsIfExists", "a", "+----+?"),
        ("Bool", "A", "+-++--?"),
        ("Null", "true", "-----+?"),
        ("Null", "FALSE", "+++++-?"),
        ("Null", ["true", "false"], "+++++++"),
        ("Null", "maybe", "-------"),
        # Policy variables have values that are not known here.
        ("StringEquals", "${aws:username}", "?????-?"),
        ("StringEqualsIgnoreCase", "${aws:username}", "?????-?"),
        ("StringNotEquals", "${aws:username}", "?????+?"),
        ("StringLike", "${aws:username}*", "?????-?"),
        ("StringEquals", ["${aws:username}", "a"], "+??+?-?"),
        ("ArnEquals", "arn:aws:s3:::${aws:username}", "?????-?"),
    ],
)
def test_operators(operator: str, expected: object, outcomes: str) -> None:
    told = {Outcome.ALLOWED: "+", Outcome.NOT_ALLOWED: "-", Outcome.UNKNOWN: "?"}
    tags = compares(expected, key="aws:TagKeys", operator=operator)
    values = ("a",), ("b",), ("A",), ("a", "b"), ("b", "c"), ()
    contexts: list[Mapping[str, tuple[str, ...]]] = [{"aws:tagkeys": each} for each in values]
    found = [outcome(tags, each) for each in (*contexts, {})]
    assert "".join(told[each] for each in found) == outcomes


@pytest.mark.parametrize(
    ("value", "expected", "is_met"),
    [
        ("arn:aws:lambda:eu:1:function:x:2", "arn:aws:lambda:eu:1:function:x:2", True),
        ("arn:aws:lambda:eu:1:function:x:2", "arn:aws:lambda:*:1:function:*", True),
        ("arn:aws:lambda:eu:1:function:x", "arn:aws:*:function:x", False),
        ("arn:aws:lambda:eu:1:function:x", "arn:*:function:x", False),
        ("arn", "arn:*:*:*:*:*", False),
        ("arn:aws:iam::1:role/x", "arn:aws:iam::1", False),
        ("arn:aws:iam::1:role/X", "arn:aws:iam::1:role/x", False),
        ("arn:aws:iam::1:role/x", "arn:aws:iam::?:role/?", True),
    ],
)
def test_arns_are_compared_part_by_part(value: str, expected: str, is_met: bool) -> None:
    known = {"aws:sourcearn": (value,)}
    for operator in ("ArnLike", "ArnEquals", "ArnNotLike", "ArnNotEquals"):
        met = is_met != ("Not" in operator)
        arn = compares(expected, key="aws:SourceArn", operator=operator)
        allowed = Outcome.ALLOWED if met else Outcome.NOT_ALLOWED
        assert outcome(arn, known) is allowed, operator
