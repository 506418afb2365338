"""The five attested KMS operations, typed: bytes in, bytes out, named as the KMS API names them."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from enclave.errors import ConfigurationError
from enclave.forking import importing
from enclave.key_id import note_key_id

if TYPE_CHECKING:
    from enclave.kms.client import KmsResponse
    from enclave.results import DataKeyPairResult, DataKeyResult, DecryptResult, SharedSecretResult


class AttestedOperations(ABC):
    """The operations, on top of one `call`.

    Each raises, besides `ConfigurationError` for an invalid argument:

    - `AttesterError`: no attestation document.
    - `CredentialsError`: no credentials to sign with.
    - `KmsUnreachableError`: no response before the deadline.
    - `KmsRefusedError`: an error of KMS's own, for example because the document does not meet
      the conditions of the key's policy.
    - `KmsResponseError`: the response does not fit the request.
    - `DecodingError`, `DecryptionError`: CiphertextForRecipient does not open.
    """

    @abstractmethod
    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        """Make a KMS call, attested, with parameters as on the wire."""

    def generate_random(
        self, number_of_bytes: int, *, custom_key_store_id: str | None = None
    ) -> bytes:
        """Return random bytes from KMS that only this enclave can read (KMS GenerateRandom).

        Args:
            number_of_bytes: 1..1024.
            custom_key_store_id: an AWS CloudHSM key store whose HSMs make the bytes.

        Returns:
            Exactly `number_of_bytes` bytes.

        Raises:
            ConfigurationError: the number is out of range.
            AgentError: any other failure, see `AttestedOperations`.
        """
        response = self.call(
            "GenerateRandom",
            _parameters(NumberOfBytes=number_of_bytes, CustomKeyStoreId=custom_key_store_id),
        )
        secret: bytes = response.content["Plaintext"]
        return secret

    def decrypt(
        self,
        ciphertext_blob: bytes,
        *,
        key_id: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
        encryption_algorithm: str | None = None,
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
    ) -> DecryptResult:
        """Decrypt a ciphertext; only this enclave can read the plaintext (KMS Decrypt).

        Args:
            ciphertext_blob: 1..6144 bytes.
            key_id: key id, key ARN, alias name or alias ARN. Without it KMS takes the key that
                the ciphertext names, so the sender of the ciphertext chooses the key: name it.
            encryption_context: exactly the one that was encrypted with.
            encryption_algorithm: needed for asymmetric keys, for example ``RSAES_OAEP_SHA_256``.
            grant_tokens: up to 10.
            dry_run: only check permissions; success is an error of KMS's of type
                ``DryRunOperationException``.

        Raises:
            ConfigurationError: an argument is invalid.
            AgentError: any other failure, see `AttestedOperations`.
        """
        note_key_id("Decrypt", {"KeyId": key_id})
        response = self.call(
            "Decrypt",
            _parameters(
                CiphertextBlob=ciphertext_blob,
                KeyId=key_id,
                EncryptionContext=encryption_context,
                EncryptionAlgorithm=encryption_algorithm,
                GrantTokens=grant_tokens,
                DryRun=dry_run,
            ),
        )
        with importing:
            from enclave.results import DecryptResult, read_result  # noqa: PLC0415 (lazy)

        return read_result(DecryptResult, response)

    def generate_data_key(
        self,
        key_id: str,
        *,
        key_spec: str | None = None,
        number_of_bytes: int | None = None,
        encryption_context: Mapping[str, str] | None = None,
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
    ) -> DataKeyResult:
        """Make a data key: in plaintext for this enclave, and encrypted (KMS GenerateDataKey).

        Args:
            key_id: a symmetric key, named as in `decrypt`.
            key_spec: ``AES_256`` or ``AES_128``; this or `number_of_bytes`, as KMS has it.
            number_of_bytes: 1..1024.
            encryption_context: needed again to decrypt the key.
            grant_tokens: see `decrypt`.
            dry_run: see `decrypt`.

        Raises:
            ConfigurationError: an argument is invalid.
            AgentError: any other failure, see `AttestedOperations`.
        """
        if (key_spec is None) == (number_of_bytes is None):
            raise ConfigurationError(
                "the length of the data key is missing or given twice",
                hint="give either key_spec or number_of_bytes",
            )
        response = self.call(
            "GenerateDataKey",
            _parameters(
                KeyId=key_id,
                KeySpec=key_spec,
                NumberOfBytes=number_of_bytes,
                EncryptionContext=encryption_context,
                GrantTokens=grant_tokens,
                DryRun=dry_run,
            ),
        )
        with importing:
            from enclave.results import DataKeyResult, read_result  # noqa: PLC0415 (as above)

        return read_result(DataKeyResult, response)

    def generate_data_key_pair(
        self,
        key_id: str,
        key_pair_spec: str,
        *,
        encryption_context: Mapping[str, str] | None = None,
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
    ) -> DataKeyPairResult:
        """Make a key pair whose private key only this enclave can read (KMS GenerateDataKeyPair).

        Args:
            key_id: a symmetric key that encrypts the private key; named as in `decrypt`.
            key_pair_spec: for example ``ECC_NIST_P256`` or ``RSA_2048``.
            encryption_context: needed again to decrypt the private key.
            grant_tokens: see `decrypt`.
            dry_run: see `decrypt`.

        Raises:
            ConfigurationError: an argument is invalid.
            AgentError: any other failure, see `AttestedOperations`.
        """
        response = self.call(
            "GenerateDataKeyPair",
            _parameters(
                KeyId=key_id,
                KeyPairSpec=key_pair_spec,
                EncryptionContext=encryption_context,
                GrantTokens=grant_tokens,
                DryRun=dry_run,
            ),
        )
        with importing:
            from enclave.results import DataKeyPairResult, read_result  # noqa: PLC0415 (as above)

        return read_result(DataKeyPairResult, response)

    def derive_shared_secret(
        self,
        key_id: str,
        public_key: bytes,
        *,
        key_agreement_algorithm: str = "ECDH",
        grant_tokens: Sequence[str] | None = None,
        dry_run: bool | None = None,
    ) -> SharedSecretResult:
        """Derive the secret that a KMS key shares with a peer's key (KMS DeriveSharedSecret).

        Args:
            key_id: an elliptic-curve key for KEY_AGREEMENT; named as in `decrypt`.
            public_key: the peer's, on the same curve, SubjectPublicKeyInfo in DER.
            key_agreement_algorithm: KMS knows this one.
            grant_tokens: see `decrypt`.
            dry_run: see `decrypt`.

        Raises:
            ConfigurationError: an argument is invalid.
            AgentError: any other failure, see `AttestedOperations`.
        """
        response = self.call(
            "DeriveSharedSecret",
            _parameters(
                KeyId=key_id,
                PublicKey=public_key,
                KeyAgreementAlgorithm=key_agreement_algorithm,
                GrantTokens=grant_tokens,
                DryRun=dry_run,
            ),
        )
        with importing:
            from enclave.results import SharedSecretResult, read_result  # noqa: PLC0415 (as above)

        return read_result(SharedSecretResult, response)


_BLOBS = frozenset({"CiphertextBlob", "PublicKey"})


def _parameters(**given: object) -> dict[str, Any]:
    """Return the given arguments as they are sent, by their names in the KMS API.

    Raises:
        ConfigurationError: a value has the wrong type.
    """
    wire: dict[str, Any] = {}
    for name, value in given.items():
        match value:
            case None:
                continue
            case bytes() if name in _BLOBS:
                wire[name] = base64.b64encode(value).decode()
                continue
            case str() | int() | float() if name not in _BLOBS:
                wire[name] = value
                continue
            case Mapping() if all(isinstance(each, str) for pair in value.items() for each in pair):
                wire[name] = dict(value)
                continue
            case list() | tuple() if all(isinstance(each, str) for each in value):
                wire[name] = list(value)
                continue
        raise ConfigurationError(
            f"{name} cannot be {type(value).__name__}",
            hint="bytes for binary values, str for names, and only str in lists and contexts",
        )
    return wire
