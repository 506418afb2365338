"""The recipient exchange: the form of an attested KMS request and of its response.

No I/O, and the only place that knows: the Python API, the command line and everything else go
through it. Five operations take `Recipient` (AWS KMS API Reference); each brings its secret back
inside `CiphertextForRecipient` and leaves its plain field empty.
"""

from __future__ import annotations

import base64
import binascii
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
"""Fields that a response repeats of the request (AWS KMS API Reference, "Response Elements")."""

_CIPHERTEXT = "CiphertextForRecipient"
_HINT_FORGED = "the answer is not trusted: whoever ended TLS may not be KMS"


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
            "AttestationDocument": base64.b64encode(document).decode(),
            "KeyEncryptionAlgorithm": KEY_ENCRYPTION_ALGORITHM,
        },
    }


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


def ciphertext_for_recipient(operation: str, answer: Mapping[str, Any]) -> bytes:
    """Return the envelope of a response; reject what is no response to an attested request.

    Args:
        operation: one of `SECRET_FIELD`.
        answer: KMS's answer; binary values in base64, or as bytes where a library has decoded
            them.

    Raises:
        KmsResponseError: the secret stands in the open, or there is no usable envelope.
    """
    secret_field = SECRET_FIELD[operation]
    if answer.get(secret_field) not in (None, "", b""):
        raise KmsResponseError(
            f"KMS sent {secret_field} in the open though Recipient was sent", hint=_HINT_FORGED
        )
    encoded = answer.get(_CIPHERTEXT)
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


def opened_answer(
    operation: str,
    parameters: Mapping[str, Any],
    answer: Mapping[str, Any],
    open_: Callable[[bytes], bytes],
) -> dict[str, Any]:
    """Turn KMS's response into the one that an unattested caller would have.

    Args:
        operation: one of `SECRET_FIELD`.
        parameters: what was asked, as given to `attested_request`.
        answer: KMS's answer, as `ciphertext_for_recipient` takes it.
        open_: opens the envelope, `Recipient.open`.

    Returns:
        The answer with the secret field filled, as bytes, and without CiphertextForRecipient.

    Raises:
        KmsResponseError: the answer does not fit the request.
        DecodingError: the envelope is malformed.
        DecryptionError: the envelope does not open.
    """
    envelope = ciphertext_for_recipient(operation, answer)
    _check_key_id(parameters.get("KeyId"), answer.get("KeyId"))
    for name in _ECHOED:
        asked, answered = parameters.get(name), answer.get(name)
        if None not in (asked, answered) and asked != answered:
            raise KmsResponseError(f"KMS answered with another {name}", hint=_HINT_FORGED)
    secret = open_(envelope)
    _check_secret(operation, parameters, secret)
    opened = {name: value for name, value in answer.items() if name != _CIPHERTEXT}
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
    """Return whether the bytes are one DER SEQUENCE, from the first to the last (X.690)."""
    if len(data) < 2 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    size = data[1] - 0x80
    return len(data) == 2 + size + int.from_bytes(data[2 : 2 + size], "big")


def _check_key_id(asked: object, answered: object) -> None:
    """The response's KeyId must match the requested key, as far as its name tells.

    KMS always answers with the key's ARN. An alias hides which key is meant, so of an alias
    only the partition, region and account can be compared, where its ARN names them.
    """
    if not isinstance(asked, str) or not asked:
        return
    if not isinstance(answered, str) or ":key/" not in answered:
        raise KmsResponseError("KMS did not say which key it used", hint=_HINT_FORGED)
    if asked.startswith("alias/"):
        return
    if asked.startswith("arn:"):
        fits = (
            answered.split(":")[:5] == asked.split(":")[:5]
            if ":alias/" in asked
            else answered == asked
        )
    else:
        fits = answered.endswith(f":key/{asked}")
    if not fits:
        raise KmsResponseError(f"KMS used key {answered}, not {asked}", hint=_HINT_FORGED)
