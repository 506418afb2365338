"""Finds a policy within what commands, APIs and templates put around it. No I/O."""

from __future__ import annotations

import re
from typing import Any

from parent.policy.actions import PolicyError
from parent.policy.located_json import Place

GET_POLICY = "aws kms get-key-policy --key-id KEY prints a key's policy"
"""A hint: where a policy itself comes from."""

_WRAPPERS = ("Policy", "KeyPolicy", "PolicyDocument", "PolicyVersion", "Document")
"""What responses and templates call a policy, or the object that has it."""


def unwrap(text: str, origin: str) -> Place:
    """Return the policy, the statement or the list of statements within JSON.

    Raises:
        PolicyError: it is not JSON, or there is none.
    """
    place = _decoded(text, origin)
    for _ in range(4):
        match place.value:
            case str(text):
                place = _decoded(text, f"{origin} (the string in it)")
            case dict(value) if "Statement" in value or "Effect" in value:
                return place
            case [dict(value), *_] if "Effect" in value:
                return place
            case dict(value) if names := [name for name in _WRAPPERS if name in value]:
                index = dict(place.members())[names[0]]
                place = Place(place.text, index, value[names[0]])
            case value:
                raise PolicyError(f"{origin}: {_described(value)}", hint=GET_POLICY)
    raise PolicyError(f"{origin}: no policy in it", hint=GET_POLICY)


_SHAPES = {
    "AWSTemplateFormatVersion": "a CloudFormation template: give the KeyPolicy in it",
    "Resources": "a CloudFormation template: give the KeyPolicy in it",
    "resource": "Terraform's JSON: give the policy in it",
    "planned_values": "Terraform's plan: give the policy in it",
    "KeyMetadata": "the response of describe-key, which has no policy",
    "PolicyNames": "the response of list-key-policies, which has no policy",
    "Grants": "a list of grants, not a policy",
    "Measurements": "measurements, not a policy",
}


def _described(value: Any) -> str:
    if isinstance(value, dict):
        for name, text in _SHAPES.items():
            if name in value:
                return text
        return "the JSON has no Statement"
    return "the JSON is neither a policy nor a statement"


def _decoded(text: str, origin: str) -> Place:
    return Place(text, 0, None).decoded(origin, _shape(text))


def _shape(text: str) -> str:
    if re.search(r"^\s*(resource|data|variable|locals)\b[^:]*\{|\bjsonencode\(", text):
        return f"this looks like Terraform's language: {GET_POLICY}"
    return "" if text.lstrip()[:1] in ("{", "[", '"') else GET_POLICY
