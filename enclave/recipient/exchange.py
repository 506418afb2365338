"""The recipient exchange: attested KMS requests and their responses. No I/O.

The only place that knows what they look like: the Python API, the command line and everything else
go through it. Five operations take `Recipient` (AWS KMS API Reference); each returns its secret in
`CiphertextForRecipient` and leaves its plain field empty.

What is compared is the second line of defence against a response that belongs to another call; TLS
and the HTTP client are the first. docs/connections.md says what the comparison cannot find.
"""

from __future__ import annotations

import base64
import binascii
import functools
from typing import TYPE_CHECKING, Any, Final

from enclave.errors import ConfigurationError, KmsResponseError
from enclave.recipient.cms import MAX_ENVELOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECRET_FIELD: Final[Mapping[str, str]] = {
    "Decrypt": "Plaintext",
    "DeriveSharedSecret": "SharedSecret",
    "GenerateDataKey": "Plaintext",
    "GenerateDataKeyPair": "PrivateKeyPlaintext",
    "GenerateRandom": "Plaintext",
}
"""The operations that take `Recipient`, and the field that is the secret of each."""

MAX_DOCUMENT = 262_144
"""Bytes in an attestation document, at most (KMS service model, AttestationDocumentType)."""

MAX_NUMBER_OF_BYTES = 1024
"""Bytes that GenerateRandom and GenerateDataKey give at most; at least one."""

MAX_PLAINTEXT = 4096
"""Bytes in a secret of any of the operations (KMS service model, PlaintextType)."""

KEY_ENCRYPTION_ALGORITHM = "RSAES_OAEP_SHA_256"
"""The one that KMS has (KMS service model, KeyEncryptionMechanism)."""

_KEY_SPEC_BYTES = {"AES_128": 16, "AES_256": 32}
_SHARED_SECRET_BYTES = (32, 48, 66)
"""One coordinate on P-256 or SM2, P-384, P-521: all that ECDH in KMS has."""

_ECHOED = ("EncryptionAlgorithm", "KeyAgreementAlgorithm", "KeyPairSpec")
"""What a response repeats of the request (AWS KMS API Reference, "Response Elements")."""

_CIPHERTEXT = "CiphertextForRecipient"
_HINT_FORGED = "the response is not trusted: what ended TLS may not be KMS"


def attested_request(
    operation: str, parameters: Mapping[str, Any], document: bytes
) -> dict[str, Any]:
    """Add `Recipient` to the parameters of an operation.

    Args:
        operation: one of `SECRET_FIELD`.
        parameters: as the KMS API names them, JSON types only.
        document: attestation document, 1..262144 bytes.

    Raises:
        ConfigurationError: the operation takes no Recipient, the caller brought one, or a
            number is out of range.
    """
    if operation not in SECRET_FIELD:
        raise ConfigurationError(
            f"KMS {operation} takes no Recipient", hint=f"these do: {', '.join(SECRET_FIELD)}"
        )
    if "Recipient" in parameters:
        raise ConfigurationError(
            "the request has a Recipient of its own",
            hint="leave it out: the agent adds the attestation document",
        )
    if not 1 <= len(document) <= MAX_DOCUMENT:
        raise ConfigurationError(
            f"attestation document of {len(document)} bytes", hint=f"KMS takes 1..{MAX_DOCUMENT}"
        )
    check_number_of_bytes(operation, parameters)
    return {
        **parameters,
        "Recipient": {
            "AttestationDocument": _base64(document),
            "KeyEncryptionAlgorithm": KEY_ENCRYPTION_ALGORITHM,
        },
    }


@functools.lru_cache(maxsize=4)
def _base64(document: bytes) -> str:
    """Encode a document, which many calls share."""
    return base64.b64encode(document).decode()


def check_number_of_bytes(operation: str, parameters: Mapping[str, Any]) -> None:
    """Reject a NumberOfBytes that KMS would refuse, before anything is sent.

    Raises:
        ConfigurationError: it is not in 1..1024, or missing where it must be.
    """
    number = parameters.get("NumberOfBytes")
    if number is None and operation != "GenerateRandom":
        return
    if (
        not isinstance(number, int)
        or isinstance(number, bool)
        or not 1 <= number <= MAX_NUMBER_OF_BYTES
    ):
        raise ConfigurationError(
            "the number of bytes is missing"
            if number is None
            else f"the number of bytes is {number!r}",
            hint=f"KMS gives 1..{MAX_NUMBER_OF_BYTES} a call",
        )


def ciphertext_for_recipient(operation: str, response: Mapping[str, Any]) -> bytes:
    """Return the envelope of a response; reject a response to a request that was not attested.

    Args:
        operation: one of `SECRET_FIELD`.
        response: KMS's response; binary values in base64, or as bytes if a library has decoded
            them.

    Raises:
        KmsResponseError: the secret is in the open, or there is no usable envelope.
    """
    secret_field = SECRET_FIELD[operation]
    if response.get(secret_field) not in (None, "", b""):
        raise KmsResponseError(
            f"KMS sent {secret_field} in the open though Recipient was sent", hint=_HINT_FORGED
        )
    encoded = response.get(_CIPHERTEXT)
    if encoded in (None, "", b""):
        raise KmsResponseError(f"KMS sent no {_CIPHERTEXT}", hint=_HINT_FORGED)
    if isinstance(encoded, bytes):
        return encoded
    if not isinstance(encoded, str) or len(encoded) > 4 * -(-MAX_ENVELOPE // 3):
        raise KmsResponseError(f"{_CIPHERTEXT} is not text of up to {MAX_ENVELOPE} bytes")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as e:
        raise KmsResponseError(f"{_CIPHERTEXT} is not base64") from e


def opened_response(
    operation: str,
    parameters: Mapping[str, Any],
    response: Mapping[str, Any],
    open_: Callable[[bytes], bytes],
) -> dict[str, Any]:
    """Return the response that an unattested caller would have had.

    Args:
        operation: one of `SECRET_FIELD`.
        parameters: of the request, as given to `attested_request`.
        response: KMS's response, as `ciphertext_for_recipient` takes it.
        open_: decrypts the envelope, `Recipient.open`.

    Returns:
        The response with the secret field filled, as bytes, and without CiphertextForRecipient.

    Raises:
        KmsResponseError: the response does not fit the request.
        DecodingError: the envelope is malformed.
        DecryptionError: the envelope does not open.
    """
    envelope = ciphertext_for_recipient(operation, response)
    _check_key_id(parameters.get("KeyId"), response.get("KeyId"))
    for name in _ECHOED:
        requested, received = parameters.get(name), response.get(name)
        if None not in (requested, received) and requested != received:
            raise KmsResponseError(
                f"KMS's response has another {name} than the request", hint=_HINT_FORGED
            )
    secret = open_(envelope)
    _check_secret(operation, parameters, secret)
    opened = {name: value for name, value in response.items() if name != _CIPHERTEXT}
    opened[SECRET_FIELD[operation]] = secret
    return opened


def _check_secret(operation: str, parameters: Mapping[str, Any], secret: bytes) -> None:
    """Check that a secret has the requested length, or the form that its operation gives."""
    if not secret:
        raise KmsResponseError("KMS gave an empty secret", hint=_HINT_FORGED)
    if len(secret) > MAX_PLAINTEXT:
        raise KmsResponseError(f"KMS gave {len(secret)} bytes, over {MAX_PLAINTEXT}")
    match operation:
        case "GenerateRandom" | "GenerateDataKey":
            expected = parameters.get("NumberOfBytes")
            if expected is None:
                expected = _KEY_SPEC_BYTES.get(str(parameters.get("KeySpec")))
            if expected is not None and len(secret) != expected:
                raise KmsResponseError(
                    f"KMS gave {len(secret)} bytes where {expected} were asked for",
                    hint=_HINT_FORGED,
                )
        case "GenerateDataKeyPair":
            if not _is_one_der_sequence(secret):
                raise KmsResponseError("KMS's private key is not PKCS #8", hint=_HINT_FORGED)
        case "DeriveSharedSecret":
            if len(secret) not in _SHARED_SECRET_BYTES:
                raise KmsResponseError(
                    f"KMS gave {len(secret)} bytes, the length of no curve's shared secret",
                    hint=_HINT_FORGED,
                )


def _is_one_der_sequence(data: bytes) -> bool:
    """Return whether this is one DER SEQUENCE, from the first byte to the last (X.690).

    DER has one length for a size, the shortest: none of indefinite form, none with zeros before it.
    """
    head = 2 if data[1:2] < b"\x80" else 2 + (data[1] & 0x7F)
    size = len(data) - head
    if size < 0x80:
        return data[:head] == bytes([0x30, max(size, 0)])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return data[:head] == bytes([0x30, 0x80 | len(octets)]) + octets


def _check_key_id(requested: object, received: object) -> None:
    """Check that the response's KeyId is the requested key, as far as its name allows.

    KMS always sends the key's ARN. An alias does not tell which key is meant, so of an alias only
    the partition, region and account can be compared, if its ARN names them.
    """
    if not isinstance(requested, str) or not requested:
        return
    if not isinstance(received, str) or ":key/" not in received:
        raise KmsResponseError(
            "KMS's response does not name the key that was used", hint=_HINT_FORGED
        )
    if requested.startswith("alias/"):
        return
    if requested.startswith("arn:"):
        fits = (
            received.split(":")[:5] == requested.split(":")[:5]
            if ":alias/" in requested
            else received == requested
        )
    else:
        fits = received.endswith(f":key/{requested}")
    if not fits:
        raise KmsResponseError(f"KMS used key {received}, not {requested}", hint=_HINT_FORGED)
