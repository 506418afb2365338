"""Typed results of the attested KMS operations. Secrets stay out of reprs."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from enclave.errors import KmsResponseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.kms.client import KmsResponse

Result = TypeVar(
    "Result", "DecryptResult", "DataKeyResult", "DataKeyPairResult", "SharedSecretResult"
)


@dataclass(frozen=True, slots=True)
class DecryptResult:
    """KMS Decrypt.

    Attributes:
        plaintext: 1..4096 bytes; the secret.
        key_id: ARN of the key that was used.
        encryption_algorithm: for example ``SYMMETRIC_DEFAULT``.
        key_material_id: which of the key's materials, in hex; None for keys that have but one.
        request_id: by which AWS finds the call; None where KMS sent none.
    """

    plaintext: bytes = field(repr=False)
    key_id: str
    encryption_algorithm: str
    key_material_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DataKeyResult:
    """KMS GenerateDataKey.

    Attributes:
        plaintext: the data key; the secret.
        ciphertext_blob: the same key, encrypted under `key_id`; to be kept with the data.
        key_id: ARN of the key that encrypted it.
        key_material_id: see `DecryptResult`.
        request_id: see `DecryptResult`.
    """

    plaintext: bytes = field(repr=False)
    ciphertext_blob: bytes = field(repr=False)
    key_id: str
    key_material_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DataKeyPairResult:
    """KMS GenerateDataKeyPair.

    Attributes:
        private_key_plaintext: PKCS #8, DER (RFC 5208); the secret.
        private_key_ciphertext_blob: the same, encrypted under `key_id`.
        public_key: SubjectPublicKeyInfo, DER (RFC 5280).
        key_pair_spec: for example ``ECC_NIST_P256``.
        key_id: ARN of the key that encrypted it.
        key_material_id: see `DecryptResult`.
        request_id: see `DecryptResult`.
    """

    private_key_plaintext: bytes = field(repr=False)
    private_key_ciphertext_blob: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    key_pair_spec: str
    key_id: str
    key_material_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SharedSecretResult:
    """KMS DeriveSharedSecret.

    Attributes:
        shared_secret: the raw one, 32 to 66 bytes; the secret. Derive keys from it, do not use
            it as one (NIST SP 800-56C).
        key_id: ARN of the key whose private half was used.
        key_agreement_algorithm: ``ECDH``.
        key_origin: where that key came from, for example ``AWS_KMS``.
        request_id: see `DecryptResult`.
    """

    shared_secret: bytes = field(repr=False)
    key_id: str
    key_agreement_algorithm: str
    key_origin: str | None = None
    request_id: str | None = None


def read_result(cls: type[Result], response: KmsResponse) -> Result:
    """Fill a result from the response of an attested call.

    A field is named as KMS names it: `key_id` is ``KeyId``. Binary values are base64 in the
    response, but for the secret, which is bytes already.

    Raises:
        KmsResponseError: a field is missing or malformed.
    """
    values: dict[str, Any] = {"request_id": response.request_id}
    for each in fields(cls):
        if each.name not in values:
            name = "".join(word.capitalize() for word in each.name.split("_"))
            values[each.name] = _READERS[each.type](response.content.get(name), name)
    return cls(**values)


def _binary(value: object, name: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_text(value, name), validate=True)
    except (binascii.Error, ValueError) as e:
        raise KmsResponseError(f"KMS's {name} is not base64") from e


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise KmsResponseError(f"KMS's response has no {name}")
    return value


def _text_or_none(value: object, name: str) -> str | None:
    return None if value is None else _text(value, name)


# Under `from __future__ import annotations` the type of a field is its text.
_READERS: dict[Any, Callable[[object, str], Any]] = {
    "bytes": _binary,
    "str": _text,
    "str | None": _text_or_none,
}
