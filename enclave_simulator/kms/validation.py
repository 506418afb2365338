"""Checks a request's JSON against KMS's service model, with the front end's own texts.

The model is botocore's: types, required members, ranges, lengths, patterns and enumerations of
every operation stand in it, so none of them is repeated here.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from typing import TYPE_CHECKING, Any

import botocore.session

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache
def service_model() -> Any:
    """Return botocore's model of KMS."""
    return botocore.session.Session().get_service_model("kms")


def parse_parameters(operation: str, document: Any) -> dict[str, Any]:
    """Return an operation's parameters, blobs decoded, unknown members left out.

    Raises:
        KmsError: SerializationException for wrong types, ValidationException for wrong values.
    """
    shape = _input_shape(operation)
    parameters = _convert(shape, document)
    errors = list(_violations(shape, parameters, ""))
    if errors:
        noun = "error" if len(errors) == 1 else "errors"
        raise KmsError(
            "ValidationException",
            f"{len(errors)} validation {noun} detected: " + "; ".join(errors),
        )
    return parameters  # type: ignore[no-any-return] # a structure converts to a dict


@functools.cache
def _input_shape(operation: str) -> Any:
    return service_model().operation_model(operation).input_shape


_EXPECTED: dict[str, type] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "blob": str,
    "boolean": bool,
    "integer": int,
    "long": int,
}


def _convert(shape: Any, value: Any) -> Any:
    kind = shape.type_name
    expected: Any = _EXPECTED[kind]
    if type(value) is not expected:  # `isinstance` would take true for 1
        raise KmsError("SerializationException", _mismatch(kind, value))
    match kind:
        case "structure":
            return {
                name: _convert(member, value[name])
                for name, member in shape.members.items()
                if value.get(name) is not None
            }
        case "map":
            return {key: _convert(shape.value, item) for key, item in value.items()}
        case "list":
            return [_convert(shape.member, item) for item in value]
        case "blob":
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise KmsError("SerializationException", "Invalid base64 in a blob") from None
    return value


def _mismatch(kind: str, value: Any) -> str:
    match value:
        case dict():
            return "Start of structure or map found where not expected."
        case list():
            return "Start of list found where not expected"
    token = {bool: f"{str(value).upper()}_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE"}
    found = token.get(type(value), "STRING_VALUE")
    return f"{found} can not be converted to {kind.capitalize()}"


def _violations(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        for name in shape.required_members:
            if name not in value:
                yield _violation("Value null", _join(path, name), "Member must not be null")
        for name, item in value.items():
            yield from _violations(shape.members[name], item, _join(path, name))
        return
    if kind == "list":
        for number, item in enumerate(value, 1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    if kind == "boolean":
        return
    noun, size = ("value", value) if kind in ("integer", "long") else ("length", len(value))
    rules = shape.metadata
    shown = _shown(value, sensitive=rules.get("sensitive", False))
    if size > rules.get("max", size):
        yield _violation(
            shown, path, f"Member must have {noun} less than or equal to {rules['max']}"
        )
    if size < rules.get("min", size):
        yield _violation(
            shown, path, f"Member must have {noun} greater than or equal to {rules['min']}"
        )
    if "enum" in rules and value not in rules["enum"]:
        members = ", ".join(rules["enum"])
        yield _violation(shown, path, f"Member must satisfy enum value set: [{members}]")
    if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
        yield _violation(
            shown, path, f"Member must satisfy regular expression pattern: {rules['pattern']}"
        )


def _join(path: str, name: str) -> str:
    name = name[0].lower() + name[1:]
    return f"{path}.{name}" if path else name


def _shown(value: Any, *, sensitive: bool) -> str:
    if sensitive:
        return "Value"
    # Blobs show as their buffer, never as what is in them.
    return f"Value '{'a blob' if isinstance(value, bytes) else value}'"


def _violation(shown: str, path: str, constraint: str) -> str:
    return f"{shown} at '{path}' failed to satisfy constraint: {constraint}"
