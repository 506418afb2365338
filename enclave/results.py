"""What the attested KMS operations give back, typed. Secrets stay out of reprs."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from enclave.errors import KmsResponseError

if TYPE_CHECKING:
    from enclave.kms.client import KmsResponse


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

    @classmethod
    def read(cls, answer: KmsResponse) -> Self:
        """Take it from the answer of an attested call.

        Raises:
            KmsResponseError: a field is missing or malformed.
        """
        return cls(
            plaintext=answer.content["Plaintext"],
            key_id=_text(answer, "KeyId"),
            encryption_algorithm=_text(answer, "EncryptionAlgorithm"),
            key_material_id=_text_or_none(answer, "KeyMaterialId"),
            request_id=answer.request_id,
        )


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

    @classmethod
    def read(cls, answer: KmsResponse) -> Self:
        """Take it from the answer of an attested call.

        Raises:
            KmsResponseError: a field is missing or malformed.
        """
        return cls(
            plaintext=answer.content["Plaintext"],
            ciphertext_blob=_binary(answer, "CiphertextBlob"),
            key_id=_text(answer, "KeyId"),
            key_material_id=_text_or_none(answer, "KeyMaterialId"),
            request_id=answer.request_id,
        )


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

    @classmethod
    def read(cls, answer: KmsResponse) -> Self:
        """Take it from the answer of an attested call.

        Raises:
            KmsResponseError: a field is missing or malformed.
        """
        return cls(
            private_key_plaintext=answer.content["PrivateKeyPlaintext"],
            private_key_ciphertext_blob=_binary(answer, "PrivateKeyCiphertextBlob"),
            public_key=_binary(answer, "PublicKey"),
            key_pair_spec=_text(answer, "KeyPairSpec"),
            key_id=_text(answer, "KeyId"),
            key_material_id=_text_or_none(answer, "KeyMaterialId"),
            request_id=answer.request_id,
        )


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

    @classmethod
    def read(cls, answer: KmsResponse) -> Self:
        """Take it from the answer of an attested call.

        Raises:
            KmsResponseError: a field is missing or malformed.
        """
        return cls(
            shared_secret=answer.content["SharedSecret"],
            key_id=_text(answer, "KeyId"),
            key_agreement_algorithm=_text(answer, "KeyAgreementAlgorithm"),
            key_origin=_text_or_none(answer, "KeyOrigin"),
            request_id=answer.request_id,
        )


def _binary(answer: KmsResponse, name: str) -> bytes:
    try:
        return base64.b64decode(_text(answer, name), validate=True)
    except (binascii.Error, ValueError) as e:
        raise KmsResponseError(f"KMS's {name} is not base64") from e


def _text(answer: KmsResponse, name: str) -> str:
    value = answer.content.get(name)
    if not isinstance(value, str) or not value:
        raise KmsResponseError(f"KMS's answer has no {name}")
    return value


def _text_or_none(answer: KmsResponse, name: str) -> str | None:
    return None if answer.content.get(name) is None else _text(answer, name)
