"""The JSON body of a KMS request, with its SHA-256, which the signature needs. No I/O.

An attested request is one kilobyte of parameters at most, and seven kilobytes of attestation
document, the same in every request for two minutes. Encoding and hashing the document for each
request would cost a fifth of an RSA decryption: `Recipient` stands first, and both are kept. So are
the last bodies of the operations that make something new from the same few parameters.
"""

from __future__ import annotations

import functools
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from hashlib import _Hash

_REPEATED: Final = frozenset({"GenerateDataKey", "GenerateDataKeyPair", "GenerateRandom"})
"""Operations that a program calls with the same parameters again and again."""

_PLAIN: Final = frozenset({int, str})
"""Types of such parameters. Not `bool`: True and 1 are equal, and differ in JSON."""

_MAX_PATH: Final = 8
"""Levels at which a message names what is wrong; a list may hold itself."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Body(NamedTuple):
    """A request's body.

    Attributes:
        data: the JSON object.
        digest: its SHA-256, in hex.
        is_repeated: whether the next call is likely to have the same one; there is no secret in it.
    """

    data: bytes
    digest: str
    is_repeated: bool = False


def encode_body(operation: str, parameters: Mapping[str, Any]) -> Body:
    """Encode the parameters of an operation.

    Args:
        operation: for messages.
        parameters: JSON types only.

    Raises:
        ConfigurationError: a parameter is not a JSON type.
    """
    try:
        recipient = parameters.get("Recipient")
        # `type`, not `isinstance` or a pattern, which take three times as long. A Recipient that
        # the caller has made may be anything.
        if type(recipient) is dict and len(recipient) == 2:
            document = recipient.get("AttestationDocument")
            algorithm = recipient.get("KeyEncryptionAlgorithm")
            if type(document) is type(algorithm) is str:
                others = {key: parameters[key] for key in parameters if key != "Recipient"}
                if operation in _REPEATED and _PLAIN.issuperset(map(type, others.values())):
                    return _repeated_body(document, algorithm, tuple(others.items()))
                return _attested_body(document, algorithm, others)
        data = _encode(parameters).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise ConfigurationError(
            f"parameters of {operation} that are not JSON: {_culprit(parameters) or e}",
            hint="as on the wire: str, int, float, bool, list or dict; bytes as base64 in a str",
        ) from e
    return Body(data, sha256(data).hexdigest())


def _culprit(value: Any) -> str:
    """Return which of the parameters is no JSON, and what it is; "" if that cannot be told."""
    path = ""
    for _ in range(_MAX_PATH):
        inside: Iterable[tuple[object, Any]] = ()
        if isinstance(value, dict):
            inside = value.items()
        elif isinstance(value, list | tuple):
            inside = ((f"[{number}]", each) for number, each in enumerate(value))
        for key, each in inside:
            if not isinstance(key, str | int | float | None):
                return f"{path or 'they'} cannot have a name of type {type(key).__name__}"
            if not _is_json(each):
                path += f".{key}" if path and isinstance(value, dict) else f"{key}"
                value = each
                break
        else:
            what = f"{value}" if isinstance(value, float) else type(value).__name__
            return f"{path} cannot be {what}" if path else ""
    return f"{path}... holds itself, or too many levels"


def _is_json(value: object) -> bool:
    try:
        _encode(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


@functools.lru_cache(maxsize=8)
def _repeated_body(document: str, algorithm: str, others: tuple[tuple[str, Any], ...]) -> Body:
    return _attested_body(document, algorithm, dict(others))._replace(is_repeated=True)


def _attested_body(document: str, algorithm: str, others: Mapping[str, Any]) -> Body:
    start, hashed = _recipient(document, algorithm)
    rest = f",{_encode(others)[1:]}".encode() if others else b"}"
    hashed = hashed.copy()
    hashed.update(rest)
    return Body(start + rest, hashed.hexdigest())


@functools.lru_cache(maxsize=4)
def _recipient(document: str, algorithm: str) -> tuple[bytes, _Hash]:
    """Return the start of a body, up to the end of ``Recipient``, and its hash so far."""
    value = {"AttestationDocument": document, "KeyEncryptionAlgorithm": algorithm}
    start = _encode({"Recipient": value}).encode()[:-1]
    return start, sha256(start)
