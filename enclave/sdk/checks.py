"""What the SDK's own KMS client can send, and checks of what it returns. No I/O.

Its functions take fewer parameters than KMS and return only bytes: a request that they cannot make
is rejected by name, and a response is checked as far as what is left of it allows.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from enclave.errors import ConfigurationError, KmsResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "Decrypt": frozenset(
        {"CiphertextBlob", "EncryptionAlgorithm", "EncryptionContext", "KeyId"},
    ),
    "Encrypt": frozenset({"EncryptionContext", "KeyId", "Plaintext"}),
    "GenerateDataKey": frozenset({"KeyId", "KeySpec"}),
    "GenerateRandom": frozenset({"NumberOfBytes"}),
}
"""Its operations, and the parameters that each takes."""

KEY_SPEC_BYTES: Final[Mapping[str, int]] = {"AES_128": 16, "AES_256": 32}

ALGORITHMS = ("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256")
"""For Decrypt (`aws_encryption_algorithm`)."""

_REQUIRED = {
    "Decrypt": ("CiphertextBlob",),
    "Encrypt": ("KeyId", "Plaintext"),
    "GenerateDataKey": ("KeyId", "KeySpec"),
    "GenerateRandom": ("NumberOfBytes",),
}
_BINARY = ("CiphertextBlob", "Plaintext")
_HINT = "use --engine python or --engine sdk, which make every KMS call"


def check_request(operation: str, parameters: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a request that the SDK's client cannot make or crashes on."""
    if operation not in PARAMETERS:
        raise ConfigurationError(f"the SDK's own client has no {operation}", hint=_HINT)
    for name in parameters:
        if name not in PARAMETERS[operation]:
            raise ConfigurationError(
                f"the SDK's own client takes no {name} for {operation}", hint=_HINT
            )
    for name in _REQUIRED[operation]:
        if parameters.get(name) is None:
            raise ConfigurationError(
                f"{operation} without {name}",
                hint="the SDK's own client needs " + " and ".join(_REQUIRED[operation]),
            )
    number = parameters.get("NumberOfBytes", 1)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1024:
        raise ConfigurationError(
            f"the number of bytes is {number!r}", hint="KMS gives 1..1024 a call"
        )
    if parameters.get("KeySpec", "AES_256") not in KEY_SPEC_BYTES:
        raise ConfigurationError(
            f"the SDK's own client takes no KeySpec {parameters['KeySpec']!r}", hint=_HINT
        )
    if parameters.get("EncryptionAlgorithm", ALGORITHMS[0]) not in ALGORITHMS:
        raise ConfigurationError(
            f"Decrypt has no algorithm {parameters['EncryptionAlgorithm']!r}",
            hint="one of " + ", ".join(ALGORITHMS),
        )
    for name in _BINARY:
        if name in parameters:
            _check_base64(parameters[name], name)
    context = parameters.get("EncryptionContext", {})
    if not isinstance(context, dict) or not all(
        isinstance(part, str) for pair in context.items() for part in pair
    ):
        raise ConfigurationError(
            "the encryption context is not a map of text to text",
            hint='for example {"purpose": "backup"}',
        )


def read_response(
    operation: str, parameters: Mapping[str, Any], response: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content as `enclave.recipient.exchange.opened_response` does for KMS's response.

    The C code drops KMS's KeyId: the requested one takes its place, if there was one.

    Raises:
        KmsResponseError: the response does not fit the request.
    """
    content: dict[str, Any] = dict(response)
    if "KeyId" in PARAMETERS[operation]:
        content["KeyId"] = parameters.get("KeyId") or "unknown"
    if operation in ("Decrypt", "Encrypt"):
        content["EncryptionAlgorithm"] = parameters.get("EncryptionAlgorithm", ALGORITHMS[0])
    if operation == "Encrypt":
        return content
    secret = content["Plaintext"] = base64.b64decode(response["Plaintext"])
    expected = None
    if operation == "GenerateRandom":
        expected = parameters["NumberOfBytes"]
    elif operation == "GenerateDataKey":
        expected = KEY_SPEC_BYTES[parameters["KeySpec"]]
    if len(secret) != expected and (expected is not None or not secret):
        raise KmsResponseError(
            f"KMS sent {len(secret)} bytes, not the expected {expected or 'some'}",
            hint="the response is not trusted: what ended TLS may not be KMS",
        )
    return content


def _check_base64(text: Any, name: str) -> None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as e:
        raise ConfigurationError(
            f"{name} is not base64", hint="binary values are base64 text, as in KMS's JSON"
        ) from e
    if not data:
        raise ConfigurationError(f"{name} is empty", hint="KMS takes at least one byte")
