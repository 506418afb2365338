"""The JSON body of a KMS request, with its SHA-256, which the signature needs. No I/O.

An attested request is one kilobyte of parameters at most, and seven kilobytes of attestation
document, the same in every request for two minutes. Encoding and hashing the document for each
request would cost a fifth of an RSA decryption: `Recipient` stands first, and both are kept.
"""

from __future__ import annotations

import functools
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from hashlib import _Hash

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Body(NamedTuple):
    """A request's body.

    Attributes:
        data: the JSON object.
        digest: its SHA-256, in hex.
    """

    data: bytes
    digest: str


def encode_body(operation: str, parameters: Mapping[str, Any]) -> Body:
    """Encode the parameters of an operation.

    Args:
        operation: for messages.
        parameters: JSON types only.

    Raises:
        ConfigurationError: a parameter is not a JSON type.
    """
    try:
        match parameters.get("Recipient"):
            case {
                "AttestationDocument": str(document),
                "KeyEncryptionAlgorithm": str(name),
                **more,
            } if not more:
                start, hashed = _recipient(document, name)
                others = {key: parameters[key] for key in parameters if key != "Recipient"}
                rest = f",{_encode(others)[1:]}".encode() if others else b"}"
                hashed = hashed.copy()
                hashed.update(rest)
                return Body(start + rest, hashed.hexdigest())
        data = _encode(parameters).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise ConfigurationError(
            f"parameters of {operation} that are not JSON: {e}",
            hint="as on the wire: text, numbers, lists and objects; binary values in base64",
        ) from e
    return Body(data, sha256(data).hexdigest())


@functools.lru_cache(maxsize=4)
def _recipient(document: str, algorithm: str) -> tuple[bytes, _Hash]:
    """Return the start of a body, up to the end of ``Recipient``, and its hash so far."""
    value = {"AttestationDocument": document, "KeyEncryptionAlgorithm": algorithm}
    start = _encode({"Recipient": value}).encode()[:-1]
    return start, sha256(start)
