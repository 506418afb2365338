"""The operations with key pairs and MAC keys: signatures, MACs, key agreement, encapsulation."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

from enclave_simulator.kms import material, signing
from enclave_simulator.kms.call import encode
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import (
    ENCAPSULATE_DECAPSULATE,
    GENERATE_VERIFY_MAC,
    KEY_AGREEMENT,
    SIGN_VERIFY,
)

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.store import KeyStore


class SigningOperations:
    """Decapsulate, DeriveSharedSecret, Encapsulate, GenerateMac, Sign, Verify, VerifyMac."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "Decapsulate": self._decapsulate,
            "DeriveSharedSecret": self._derive_shared_secret,
            "Encapsulate": self._encapsulate,
            "GenerateMac": self._generate_mac,
            "Sign": self._sign,
            "Verify": self._verify,
            "VerifyMac": self._verify_mac,
        }

    def _sign(self, call: Call) -> dict[str, Any]:
        key, secret, message = self._signing_key(call)
        signature = signing.sign(secret, message[0], message[1], message[2])
        return {
            "KeyId": key.arn,
            "Signature": encode(signature),
            "SigningAlgorithm": message[0],
        }

    def _verify(self, call: Call) -> dict[str, Any]:
        key, secret, message = self._signing_key(call)
        if not signing.verify(secret, *message, call.parameters["Signature"]):
            raise KmsError("KMSInvalidSignatureException")
        return {"KeyId": key.arn, "SignatureValid": True, "SigningAlgorithm": message[0]}

    def _signing_key(self, call: Call) -> tuple[Key, Any, tuple[str, bytes, str]]:
        """Return the key, its key pair, and what is signed: algorithm, message, its type."""
        key = self._key(call, SIGN_VERIFY, "SigningAlgorithm")
        given = call.parameters
        algorithm, message = given["SigningAlgorithm"], given["Message"]
        message_type = given.get("MessageType", "RAW")
        signing.check_message(key.spec, algorithm, message, message_type)
        return key, key.secret(), (algorithm, message, message_type)

    def _generate_mac(self, call: Call) -> dict[str, Any]:
        key = self._key(call, GENERATE_VERIFY_MAC, "MacAlgorithm")
        return {
            "KeyId": key.arn,
            "Mac": encode(_mac(key, call)),
            "MacAlgorithm": call.parameters["MacAlgorithm"],
        }

    def _verify_mac(self, call: Call) -> dict[str, Any]:
        key = self._key(call, GENERATE_VERIFY_MAC, "MacAlgorithm")
        if not hmac.compare_digest(_mac(key, call), call.parameters["Mac"]):
            raise KmsError("KMSInvalidMacException")
        return {
            "KeyId": key.arn,
            "MacValid": True,
            "MacAlgorithm": call.parameters["MacAlgorithm"],
        }

    def _derive_shared_secret(self, call: Call) -> dict[str, Any]:
        key = self._key(call, KEY_AGREEMENT, "KeyAgreementAlgorithm")
        secret = key.secret()
        assert isinstance(secret, ec.EllipticCurvePrivateKey)  # noqa: S101 (by its usage)
        return {
            "KeyId": key.arn,
            "KeyAgreementAlgorithm": call.parameters["KeyAgreementAlgorithm"],
            "KeyOrigin": key.origin,
            **call.secret("SharedSecret", material.agree(secret, call.parameters["PublicKey"])),
        }

    def _encapsulate(self, call: Call) -> dict[str, Any]:
        key = self._key(call, ENCAPSULATE_DECAPSULATE, "EncapsulationAlgorithm")
        secret, ciphertext = material.encapsulate(key.secret())
        return {
            "KeyId": key.arn,
            "SharedSecret": encode(secret),
            "SharedSecretCiphertextBlob": encode(ciphertext),
            "EncapsulationAlgorithm": call.parameters["EncapsulationAlgorithm"],
        }

    def _decapsulate(self, call: Call) -> dict[str, Any]:
        key = self._key(call, ENCAPSULATE_DECAPSULATE, "EncapsulationAlgorithm")
        blob = call.parameters["SharedSecretCiphertextBlob"]
        return {
            "KeyId": key.arn,
            "SharedSecret": encode(material.decapsulate(key.secret(), blob)),
            "EncapsulationAlgorithm": call.parameters["EncapsulationAlgorithm"],
        }

    def _key(self, call: Call, usage: str, algorithm: str) -> Key:
        key = self._store.key_for(call)
        key.check_usable(call.operation, usage)
        key.check_algorithm(call.parameters[algorithm])
        return key


def _mac(key: Key, call: Call) -> bytes:
    secret = key.secret()
    assert isinstance(secret, bytes)  # noqa: S101 (by its usage)
    return signing.mac(secret, call.parameters["MacAlgorithm"], call.parameters["Message"])
