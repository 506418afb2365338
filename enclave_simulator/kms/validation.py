"""Check a request's JSON against KMS's service model, with the texts of KMS's front end.

The model is botocore's: it has the types, required members, ranges, lengths, patterns and
enumerations of every operation. What KMS is recorded to do otherwise is in the tables below
(docs/simulated-kms.md says where the recordings are from).
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from typing import TYPE_CHECKING, Any

import botocore.loaders
import botocore.model

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ENUMERATIONS: dict[str, tuple[str, ...]] = {
    # The order in which KMS lists an enumeration, where it is not the model's; members that the
    # recording is too old for come last.
    "EncryptionAlgorithmSpec": (
        "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE", "SYMMETRIC_DEFAULT",
    ),
    "KeySpec": (
        "RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
        "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519", "SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256",
        "HMAC_384", "HMAC_512", "SM2", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87",
    ),
    "KeyUsageType": ("ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC"),
    "MacAlgorithmSpec": ("HMAC_SHA_384", "HMAC_SHA_256", "HMAC_SHA_224", "HMAC_SHA_512"),
    "SigningAlgorithmSpec": (
        "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
        "RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
        "ECDSA_SHA_256", "ECDSA_SHA_384", "ECDSA_SHA_512", "ED25519_SHA_512",
        "ED25519_PH_SHA_512", "SM2DSA", "ML_DSA_SHAKE_256",
    ),
}  # fmt: skip

_LISTED_AS = {"CustomerMasterKeySpec": "KeySpec", "DataKeySpec": "KeySpec"}
"""Enumerations for which KMS lists the members of another one."""

_ASCII = {"KeyIdType": r"^\p{ASCII}+$"}
"""Patterns that KMS has and the model has not; these take ASCII only."""


@functools.cache
def service_model() -> Any:
    """Return botocore's model of KMS."""
    # Not by a session: that needs the profile of AWS_PROFILE, which is the developer's.
    loader = botocore.loaders.create_loader()
    return botocore.model.ServiceModel(loader.load_service_model("kms", "service-2"), "kms")


def parse_parameters(operation: str, document: Any) -> dict[str, Any]:
    """Return an operation's parameters, blobs decoded, unknown members dropped.

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
_NUMBERS = ("integer", "long", "timestamp")


def _convert(shape: Any, value: Any) -> Any:
    kind = shape.type_name
    if kind == "timestamp" and type(value) in (int, float):
        return value
    expected: Any = _EXPECTED.get(kind)
    if type(value) is not expected:  # `isinstance` would accept true for 1
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
                secret = shape.members[name].metadata.get("sensitive", False)
                shown = "Value" if secret else "Value null"
                yield _violation(shown, _join(path, name), "Member must not be null")
        for name, item in value.items():
            yield from _violations(shape.members[name], item, _join(path, name))
        return
    if kind == "list":
        rules = shape.member.metadata
        wrong = [item for item in value if "enum" in rules and item not in rules["enum"]]
        if wrong:
            yield _violation(
                f"Value '[{', '.join(map(str, value))}]'",
                path,
                f"Member must satisfy constraint: [{_among(shape.member)}]",
            )
        for number, item in enumerate(() if "enum" in rules else value, 1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    if kind in ("boolean", "timestamp"):
        return
    noun, size = ("value", value) if kind in _NUMBERS else ("length", len(value))
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
        yield _violation(shown, path, _among(shape))
    pattern = rules.get("pattern", "")
    if pattern and not re.fullmatch(pattern, value):
        yield _violation(shown, path, f"Member must satisfy regular expression pattern: {pattern}")
    if shape.name in _ASCII and not (value and value.isascii()):
        yield _violation(
            shown, path, f"Member must satisfy regular expression pattern: {_ASCII[shape.name]}"
        )


def _among(shape: Any) -> str:
    listed = service_model().shape_for(_LISTED_AS.get(shape.name, shape.name))
    members = _in_order(listed.metadata["enum"], _ENUMERATIONS.get(listed.name, ()))
    return f"Member must satisfy enum value set: [{', '.join(members)}]"


def _in_order(members: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return members in an order; those that it does not have come last."""
    return sorted(members, key=lambda each: order.index(each) if each in order else len(order))


def _join(path: str, name: str) -> str:
    name = name[0].lower() + name[1:]
    return f"{path}.{name}" if path else name


def _shown(value: Any, *, sensitive: bool) -> str:
    return "Value" if sensitive or isinstance(value, bytes) else f"Value '{value}'"


def _violation(shown: str, path: str, constraint: str) -> str:
    return f"{shown} at '{path}' failed to satisfy constraint: {constraint}"
