"""The operations that use keys. Those that KMS gives a Recipient answer to it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from enclave_simulator.kms import material
from enclave_simulator.kms.call import encode
from enclave_simulator.kms.keys import SYMMETRIC
from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.keys import Key, KeyStore

_KEY_SPEC_BYTES = {"AES_128": 16, "AES_256": 32}


class CryptoOperations:
    """Each method is one operation: a call in, the answer's JSON out."""

    def __init__(self, store: KeyStore, random: Callable[[int], bytes]) -> None:
        self._store = store
        self._random = random

    def by_name(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        """Return the operations by the names KMS has for them."""
        return {
            "Decrypt": self._decrypt,
            "DeriveSharedSecret": self._derive_shared_secret,
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GenerateDataKeyPair": self._generate_data_key_pair,
            "GenerateDataKeyPairWithoutPlaintext": self._generate_data_key_pair,
            "GenerateDataKeyWithoutPlaintext": self._generate_data_key,
        }

    def _encrypt(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        key.check_usable(call, "ENCRYPT_DECRYPT")
        algorithm = _algorithm(call)
        key.check_algorithm(algorithm)
        plaintext = call.parameters["Plaintext"]
        if isinstance(key.material, rsa.RSAPrivateKey):
            _check_no_context(call)
            ciphertext = material.rsa_encrypt(key.material, plaintext, algorithm)
        else:
            ciphertext = _seal(key, plaintext, call)
        return {
            "CiphertextBlob": encode(ciphertext),
            "KeyId": key.arn(call.caller),
            "EncryptionAlgorithm": algorithm,
        }

    def _decrypt(self, call: Call) -> dict[str, Any]:
        ciphertext = call.parameters.get("CiphertextBlob")
        if ciphertext is None:
            raise KmsError("ValidationException", "CiphertextBlob is required.")
        algorithm = _algorithm(call)
        if algorithm == SYMMETRIC:
            key = self._sealing_key(call, ciphertext)
        elif "KeyId" in call.parameters:
            key = self._store.key_for(call)
        else:
            raise KmsError("ValidationException", f"KeyId is required to decrypt {algorithm}.")
        key.check_usable(call, "ENCRYPT_DECRYPT")
        key.check_algorithm(algorithm)
        if isinstance(key.material, rsa.RSAPrivateKey):
            _check_no_context(call)
            plaintext = material.rsa_decrypt(key.material, ciphertext, algorithm)
        else:
            assert isinstance(key.material, bytes)  # noqa: S101 (by its algorithm)
            plaintext = material.unseal(key.material, ciphertext, _context(call))
        return {
            "KeyId": key.arn(call.caller),
            "EncryptionAlgorithm": algorithm,
            **key.material_id,
            **call.secret("Plaintext", plaintext),
        }

    def _sealing_key(self, call: Call, ciphertext: bytes) -> Key:
        """Return the key a ciphertext names, which must be the one the caller names, if any."""
        named = self._store.key_for(call) if "KeyId" in call.parameters else None
        if named is not None and named.spec != SYMMETRIC:
            return named  # to be told what is wrong with it
        key = self._store.keys.get(material.sealing_key_id(ciphertext))
        if named is not None and key is not named:
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
        return key

    def _generate_data_key(self, call: Call) -> dict[str, Any]:
        key = self._symmetric_key(call)
        if len(call.parameters.keys() & {"NumberOfBytes", "KeySpec"}) != 1:
            raise KmsError(
                "ValidationException", "Please specify either number of bytes or key spec."
            )
        size = call.parameters.get("NumberOfBytes") or _KEY_SPEC_BYTES[call.parameters["KeySpec"]]
        plaintext = self._random(size)
        answer = {
            "CiphertextBlob": encode(_seal(key, plaintext, call)),
            "KeyId": key.arn(call.caller),
            **key.material_id,
        }
        if not call.operation.endswith("WithoutPlaintext"):
            answer |= call.secret("Plaintext", plaintext)
        return answer

    def _generate_data_key_pair(self, call: Call) -> dict[str, Any]:
        key = self._symmetric_key(call)
        pair = material.generate_private_key(call.parameters["KeyPairSpec"])
        private = material.private_der(pair)
        answer = {
            "PrivateKeyCiphertextBlob": encode(_seal(key, private, call)),
            "PublicKey": encode(material.public_der(pair)),
            "KeyId": key.arn(call.caller),
            "KeyPairSpec": call.parameters["KeyPairSpec"],
            **key.material_id,
        }
        if not call.operation.endswith("WithoutPlaintext"):
            answer |= call.secret("PrivateKeyPlaintext", private)
        return answer

    def _derive_shared_secret(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        key.check_usable(call, "KEY_AGREEMENT")
        key.check_algorithm(call.parameters["KeyAgreementAlgorithm"])
        assert isinstance(key.material, ec.EllipticCurvePrivateKey)  # noqa: S101 (by its usage)
        return {
            "KeyId": key.arn(call.caller),
            "KeyAgreementAlgorithm": call.parameters["KeyAgreementAlgorithm"],
            "KeyOrigin": "AWS_KMS",
            **call.secret(
                "SharedSecret", material.agree(key.material, call.parameters["PublicKey"])
            ),
        }

    def _symmetric_key(self, call: Call) -> Key:
        key = self._store.key_for(call)
        key.check_usable(call, "ENCRYPT_DECRYPT")
        if key.spec != SYMMETRIC:
            raise KmsError(
                "InvalidKeyUsageException",
                f"{key.arn(call.caller)} key spec is {key.spec} which is not valid for "
                f"{call.operation}.",
            )
        return key


def _seal(key: Key, plaintext: bytes, call: Call) -> bytes:
    assert isinstance(key.material, bytes)  # noqa: S101 (its spec was checked)
    return material.seal(key.material, key.id, plaintext, _context(call))


def _algorithm(call: Call) -> str:
    algorithm: str = call.parameters.get("EncryptionAlgorithm", SYMMETRIC)
    return algorithm


def _context(call: Call) -> dict[str, str]:
    context: dict[str, str] = call.parameters.get("EncryptionContext", {})
    return context


def _check_no_context(call: Call) -> None:
    if _context(call):
        raise KmsError(
            "ValidationException", "An EncryptionContext is for symmetric encryption keys only."
        )
