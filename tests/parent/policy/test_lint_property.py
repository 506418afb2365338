"""What lint lets pass, for requests of every kind: no secret leaves without an image."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from parent.policy.actions import GUARDED, Action
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.evaluate import outcome as evaluated
from parent.policy.language import parse
from parent.policy.lint import lint
from parent.policy.measured import Measured
from tests.parent.policy.lint_cases import (
    IMAGE_GUARD,
    NULL_GUARD,
    SECRETS,
    denies,
)
from tests.parent.policy.policies import (
    A0,
    ACCOUNT,
    ADMINISTRATION,
    ADMINISTRATOR,
    B0,
    DEFAULT,
    IMAGE,
    KEY,
    PCR,
    PRINCIPALS,
    ROLE,
    ROOT,
    statement,
    text,
)
from tests.parent.policy.policies import (
    statements as any_statements,
)

# What lint lets pass holds for every request: the property that people rely on.

_PINS: list[dict[str, Any]] = [
    {"StringEquals": {IMAGE: A0}},
    {"StringEqualsIgnoreCase": {f"{PCR}0": [A0, B0.upper()]}},
    {"StringEquals": {f"{PCR}1": A0, f"{PCR}2": A0}},
    {"StringEquals": {f"{PCR}1": A0}, "StringLike": {f"{PCR}2": A0}},
    {"ForAnyValue:StringEquals": {f"{PCR}8": A0}},
    {"StringEquals": {IMAGE: A0}, "StringNotEquals": {f"{PCR}16": B0}},
    {"StringEquals": {IMAGE: A0}, "Null": {f"{PCR}1": "false"}},
]
_UNLIKE: list[dict[str, Any]] = [
    {"StringNotEquals": {IMAGE: A0}},
    {"StringNotEqualsIgnoreCase": {f"{PCR}0": A0}},
    {"StringNotLike": {f"{PCR}1": A0}},
    {"ForAllValues:StringNotEquals": {f"{PCR}2": A0}},
    {"StringNotEqualsIfExists": {f"{PCR}8": A0}},
    {"Null": {IMAGE: "true"}},
    {"StringNotEquals": {IMAGE: A0, f"{PCR}16": A0}},
]
_CALLERS: list[dict[str, Any]] = [
    {"ArnNotLike": {"aws:PrincipalArn": ADMINISTRATOR}},
    {"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:*"}},
    {"StringEqualsIgnoreCase": {"kms:CallerAccount": ACCOUNT}},
    {"StringNotEquals": {"aws:PrincipalArn": ROLE}},
]
"""On whom a Deny is for, beside what a document must not be."""
_KEYS = st.sampled_from(["*", "*", "*", KEY, f"{KEY}x", "arn:aws:kms:*", [f"{KEY}x", KEY]])
_SOME_ACTIONS = st.lists(
    st.sampled_from([*SECRETS, "kms:*", "kms:GenerateDataKey*", "kms:Re*"]), min_size=1, max_size=4
)
_likely = st.lists(
    st.one_of(
        st.builds(
            lambda condition, actions, who, keys: statement(
                Condition=condition, Action=actions, Principal=who, Resource=keys
            ),
            st.sampled_from(_PINS) | st.none(), _SOME_ACTIONS,
            st.sampled_from([{"AWS": ROLE}, {"AWS": [ROLE, ADMINISTRATOR]}, ROOT]), _KEYS,
        ),
        st.builds(
            lambda condition, callers, actions, keys: denies(
                {**condition, **callers}, Action=actions, Resource=keys
            ),
            st.sampled_from(_UNLIKE), st.just({}) | st.sampled_from(_CALLERS),
            _SOME_ACTIONS | st.just(SECRETS), _KEYS,
        ),
        st.sampled_from([DEFAULT, ADMINISTRATION, IMAGE_GUARD, NULL_GUARD]),
        any_statements(),
    ),
    min_size=1,
    max_size=4,
).map(lambda s: text(*s))  # fmt: skip
"""Policies near to right ones: entirely random ones hardly ever pass."""

_IMAGES = st.sampled_from([b"\xa0" * 48, b"\xb0" * 48, b"\xc0" * 48])


@settings(max_examples=150)
@given(
    _likely, st.sampled_from(GUARDED), st.sampled_from(PRINCIPALS), st.none() | _IMAGES,
    st.dictionaries(st.sampled_from([3, 4, 16, 17]), _IMAGES), st.sampled_from([None, 1, 2]),
)  # fmt: skip
def test_what_passes_lets_no_secret_out(
    given_text: str,
    action: Action,
    principal: str,
    image: bytes | None,
    chosen: dict[int, bytes],
    same: int | None,
) -> None:
    policy = parse(given_text)
    errors = {f.rule for f in lint(policy) if f.is_error or f.rule == "data-keys"}
    if errors - {"locked", "always-denied", "no-key", "resource", "principal"}:
        return
    document: Document | Measured = Document.NONE
    if image is not None:
        # Another image than those the policy names, but for its kernel or its program, with PCRs
        # that its owner chooses.
        names = {v.lower() for s in policy.statements for c in s.conditions for v in c.values}
        if image.hex() in names:
            return
        pcrs = {0: image, 1: image, 2: image, 8: image, **chosen}
        if same is not None:
            pcrs[same] = b"\xa0" * 48
        document = Measured(pcrs, "stranger")
    found = evaluated(policy, Request(action, principal, KEY, document))
    assert found not in (Outcome.ALLOWED, Outcome.DELEGATED)
