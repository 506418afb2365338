"""The operations that encrypt, decrypt, and generate data keys and random bytes.

Those that have a Recipient respond to it alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.kms import ciphertexts, material
from enclave_simulator.kms.call import encode
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import ENCRYPT_DECRYPT, SYMMETRIC, generate_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.operations.key_stores import KeyStoreOperations
    from enclave_simulator.kms.store import KeyStore

_KEY_SPEC_BYTES = {"AES_128": 16, "AES_256": 32}


class EncryptionOperations:
    """Decrypt, Encrypt, GenerateDataKey and its kind, GenerateRandom, ReEncrypt."""

    def __init__(
        self, store: KeyStore, key_stores: KeyStoreOperations, random: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._key_stores = key_stores
        self._random = random

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "Decrypt": self._decrypt,
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GenerateDataKeyPair": self._generate_data_key_pair,
            "GenerateDataKeyPairWithoutPlaintext": self._generate_data_key_pair,
            "GenerateDataKeyWithoutPlaintext": self._generate_data_key,
            "GenerateRandom": self._generate_random,
            "ReEncrypt": self._re_encrypt,
        }

    def _generate_random(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        number_of_bytes = call.parameters.get("NumberOfBytes")
        if number_of_bytes is None:
            raise KmsError("ValidationException", "NumberOfBytes is required.")
        self._key_stores.check_random(call.parameters.get("CustomKeyStoreId"))
        return call.secret("Plaintext", self._random(number_of_bytes))

    # Encrypt, Decrypt, ReEncrypt

    def _encrypt(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        algorithm = call.parameters.get("EncryptionAlgorithm", SYMMETRIC)
        ciphertext = _encrypt(key, call, algorithm, call.parameters["Plaintext"])
        return {
            "CiphertextBlob": encode(ciphertext),
            "KeyId": key.arn,
            "EncryptionAlgorithm": algorithm,
        }

    def _decrypt(self, call: Call) -> dict[str, Any]:
        algorithm = call.parameters.get("EncryptionAlgorithm", SYMMETRIC)
        key, used, plaintext = self._open(call, "KeyId", algorithm)
        return {
            "KeyId": key.arn,
            "EncryptionAlgorithm": algorithm,
            **({"KeyMaterialId": used} if used else {}),
            **call.secret("Plaintext", plaintext),
        }

    def _re_encrypt(self, call: Call) -> dict[str, Any]:
        given = call.parameters
        source, destination = (
            dataclasses.replace(
                call,
                operation=f"ReEncrypt{direction}",
                parameters={
                    **given,
                    "EncryptionContext": given.get(f"{side}EncryptionContext", {}),
                    "EncryptionAlgorithm": given.get(f"{side}EncryptionAlgorithm", SYMMETRIC),
                },
            )
            for direction, side in (("From", "Source"), ("To", "Destination"))
        )
        from_algorithm, to_algorithm = (
            each.parameters["EncryptionAlgorithm"] for each in (source, destination)
        )
        with contextlib.suppress(KmsError):  # an unknown one is told after the source's errors
            wanted = self._store.find(destination, "DestinationKeyId", aliases=True)
            source = dataclasses.replace(source, other_key=wanted.arn)
        key, used, plaintext = self._open(source, "SourceKeyId", from_algorithm)
        destination = dataclasses.replace(destination, other_key=key.arn)
        target = self._store.key_for(destination, "DestinationKeyId")
        ciphertext = _encrypt(target, destination, to_algorithm, plaintext)
        return {
            "CiphertextBlob": encode(ciphertext),
            "SourceKeyId": key.arn,
            "KeyId": target.arn,
            "SourceEncryptionAlgorithm": from_algorithm,
            "DestinationEncryptionAlgorithm": to_algorithm,
            **({"SourceKeyMaterialId": used} if used else {}),
            **target.material_id("DestinationKeyMaterialId"),
        }

    def _open(self, call: Call, parameter: str, algorithm: str) -> tuple[Key, str, bytes]:
        """Decrypt CiphertextBlob; return the key, the id of its material, and the plaintext."""
        blob = call.parameters.get("CiphertextBlob")
        if call.parameters.get("DryRun") and call.parameters.get("DryRunModifiers"):
            if parameter not in call.parameters:
                raise KmsError("ValidationException", f"{parameter} is required.")
            key = self._store.key_for(call, parameter)
            _check(key, call, algorithm)
            return key, "", b""
        if blob is None:
            raise KmsError(
                "ValidationException",
                "1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy "
                "constraint: Member must not be null",
            )
        if algorithm == SYMMETRIC:
            return self._open_symmetric(call, parameter, blob)
        if parameter not in call.parameters:
            raise KmsError(
                "ValidationException", f"{parameter} is required to decrypt {algorithm}."
            )
        key = self._store.key_for(call, parameter)
        _check(key, call, algorithm)
        secret = key.secret()
        assert isinstance(secret, rsa.RSAPrivateKey)  # noqa: S101 (by its algorithm)
        _check_no_context(call)
        return key, "", material.rsa_decrypt(secret, blob, algorithm)

    def _open_symmetric(self, call: Call, parameter: str, blob: bytes) -> tuple[Key, str, bytes]:
        # KMS parses the ciphertext before it compares its key with the caller's.
        key_tag, material_tag = ciphertexts.read_header(blob)
        key = self._store.tagged(call, key_tag)
        if parameter in call.parameters and self._store.key_for(call, parameter) is not key:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this "
                "operation.",
            )
        if key is None:
            raise KmsError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not "
                "exist in this region, or you are not allowed to access.",
            )
        self._store.authorize(call, key)
        key.check_state()
        used = key.materials.tagged(material_tag)
        # A blob can name any key of the account: one for MACs has no secret for AES.
        if used is None or key.spec != SYMMETRIC:
            raise ciphertexts.invalid_ciphertext()
        if not isinstance(used.secret, bytes):
            raise key.state_error("PendingImport")
        return key, used.id, ciphertexts.unseal(used.secret, blob, call.encryption_context)

    # Data keys

    def _generate_data_key(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        if len(call.parameters.keys() & {"NumberOfBytes", "KeySpec"}) != 1:
            raise KmsError(
                "ValidationException", "Please specify either number of bytes or key spec."
            )
        _check_symmetric(key, call)
        size = call.parameters.get("NumberOfBytes") or _KEY_SPEC_BYTES[call.parameters["KeySpec"]]
        plaintext = self._random(size)
        response = {
            "CiphertextBlob": encode(_seal(key, call, plaintext)),
            "KeyId": key.arn,
            **key.material_id(),
        }
        if not call.operation.endswith("WithoutPlaintext"):
            response |= call.secret("Plaintext", plaintext)
        return response

    def _generate_data_key_pair(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        _check_symmetric(key, call)
        pair = generate_private_key(call.parameters["KeyPairSpec"])
        private = material.private_der(pair)
        response = {
            "PrivateKeyCiphertextBlob": encode(_seal(key, call, private)),
            "PublicKey": encode(material.public_der(pair)),
            "KeyId": key.arn,
            "KeyPairSpec": call.parameters["KeyPairSpec"],
            **key.material_id(),
        }
        if not call.operation.endswith("WithoutPlaintext"):
            response |= call.secret("PrivateKeyPlaintext", private)
        return response


def _check(key: Key, call: Call, algorithm: str) -> None:
    # The message names the caller's operation, not the action that policies decide on.
    operation = "ReEncrypt" if call.operation.startswith("ReEncrypt") else call.operation
    key.check_usage(operation, ENCRYPT_DECRYPT)
    key.check_state()
    key.check_algorithm(algorithm)


def _check_symmetric(key: Key, call: Call) -> None:
    key.check_usable(call.operation, ENCRYPT_DECRYPT)
    if key.spec != SYMMETRIC:
        raise KmsError(
            "InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"
        )


def _encrypt(key: Key, call: Call, algorithm: str, plaintext: bytes) -> bytes:
    _check(key, call, algorithm)
    secret = key.secret()
    if isinstance(secret, rsa.RSAPrivateKey):
        _check_no_context(call)
        return material.rsa_encrypt(secret, plaintext, algorithm)
    return _seal(key, call, plaintext)


def _seal(key: Key, call: Call, plaintext: bytes) -> bytes:
    secret, used = key.secret(), key.materials.current
    assert isinstance(secret, bytes)  # noqa: S101 (its spec was checked)
    assert used is not None  # noqa: S101 (it has a secret)
    return ciphertexts.seal(
        secret, key.tag, ciphertexts.tag(used.id), plaintext, call.encryption_context
    )


def _check_no_context(call: Call) -> None:
    if call.encryption_context:
        raise KmsError(
            "ValidationException", "An EncryptionContext is for symmetric encryption keys only."
        )
