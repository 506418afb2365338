"""Policies for the tests: builders, and strategies for random ones with requests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from parent.policy.actions import ACTIONS, Platform
from parent.policy.language import Policy, parse
from parent.policy.measured import Measured

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/enclave"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/a"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave/i-1"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/k"
IMAGE = "kms:RecipientAttestation:ImageSha384"
PCR = "kms:RecipientAttestation:PCR"
TPM = "kms:RecipientAttestation:NitroTPMPCR"
A0, B0 = "a0" * 48, "b0" * 48

OLD = Measured({0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48, 8: b"\xa8" * 48}, "old")
NEW = Measured({0: b"\xb0" * 48, 1: b"\xb1" * 48, 2: b"\xb2" * 48}, "new")
DEBUG = Measured({0: bytes(48), 1: bytes(48), 2: bytes(48), 8: b"\xa8" * 48}, "debug")


def statement(**changes: Any) -> dict[str, Any]:
    """One that is as it should be, but for the changes; None leaves an element out."""
    right = {
        "Sid": "use",
        "Effect": "Allow",
        "Principal": {"AWS": ROLE},
        "Action": ["kms:Decrypt"],
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {IMAGE: A0}},
    }
    return {name: value for name, value in {**right, **changes}.items() if value is not None}


def compares(
    value: object, *, key: str = IMAGE, operator: str = "StringEquals", **changes: Any
) -> dict[str, Any]:
    return statement(Condition={operator: {key: value}}, **changes)


ADMINISTRATION = statement(
    Sid="admin", Principal={"AWS": ADMINISTRATOR}, Action="kms:PutKeyPolicy", Condition=None
)
ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
DEFAULT = statement(Sid="default", Principal=ROOT, Action="kms:*", Condition=None)


def text(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=1)


def parsed(*statements: dict[str, Any]) -> Policy:
    return parse(text(*statements))


# Random policies and requests. Few values, so that they meet.

_HEX = [bytes([n]) * 48 for n in (0, 0xA0, 0xB0, 0xC0)]
KEYS = [IMAGE, IMAGE.upper(), f"{PCR}0", f"{PCR}1", f"{PCR}8", f"{PCR}16", f"{PCR}32",
        "kms:RecipientAttestation", f"{TPM}4", "kms:NoSuchKey"]  # fmt: skip
_VALUES = [value.hex() for value in _HEX] + [A0.upper(), "a0*", "?" * 96, "*", "x", ""]
_OPERATORS = [
    "StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase",
    "StringLike", "StringNotLike",
]  # fmt: skip
PRINCIPALS = [
    ROLE, ADMINISTRATOR, SESSION, f"arn:aws:iam::{ACCOUNT}:role/path/enclave",
    f"arn:aws:sts::{ACCOUNT}:assumed-role/other/i-2", "arn:aws:iam::444455556666:role/enclave",
]  # fmt: skip
_NAMES = [action.name for action in ACTIONS.values()]
_PATTERNS = [*_NAMES, "kms:*", "*", "kms:GenerateDataKey*", "kms:Re*", "KMS:decrypt", "kms:?ign"]

_values = st.lists(st.sampled_from(_VALUES), min_size=1, max_size=3)
_comparison = (
    st.tuples(
        st.sampled_from(["", "ForAnyValue:", "ForAllValues:"]),
        st.sampled_from(_OPERATORS),
        st.sampled_from(["", "IfExists"]),
    )
    .filter(lambda parts: parts[::2] != ("ForAnyValue:", "IfExists"))
    .map("".join)
)
"""Without the one combination whose meaning AWS does not document."""
_condition = st.one_of(
    st.tuples(_comparison, st.sampled_from(KEYS), _values),
    st.tuples(
        st.just("Null"), st.sampled_from(KEYS), st.sampled_from(["true", "false", True, False])
    ),
)


def _block(conditions: list[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    block: dict[str, dict[str, Any]] = {}
    for operator, key, values in conditions:
        block.setdefault(operator, {})[key] = values
    return block


@st.composite
def statements(draw: st.DrawFn, *, of_key: bool = True) -> dict[str, Any]:
    """Draw a statement that KMS takes."""
    document: dict[str, Any] = {
        "Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])),
        draw(st.sampled_from(["Action", "Action", "NotAction"])): draw(
            st.lists(st.sampled_from(_PATTERNS), min_size=1, max_size=3)
        ),
        "Resource": draw(st.sampled_from(["*", "*", KEY, f"{KEY}x", "arn:aws:kms:*"])),
        "Condition": _block(draw(st.lists(_condition, max_size=2))),
    }
    if of_key:
        document["Principal"] = draw(
            st.sampled_from(["*", {"AWS": "*"}, {"AWS": ACCOUNT}, ROOT, {"Service": "x.aws"}])
            | st.lists(st.sampled_from(PRINCIPALS), min_size=1, max_size=2).map(
                lambda names: {"AWS": names}
            )
        )
    return document


def policies(*, of_key: bool = True) -> st.SearchStrategy[str]:
    """Return policies that KMS takes."""
    return st.lists(statements(of_key=of_key), min_size=1, max_size=3).map(lambda s: text(*s))


_pcrs = st.dictionaries(
    st.sampled_from([0, 1, 8, 16, 4]), st.sampled_from(_HEX), min_size=1, max_size=4
)
documents = st.builds(
    lambda pcrs, platform: Measured(pcrs, "random", platform), _pcrs, st.sampled_from(Platform)
)
"""Documents of which everything is known."""
