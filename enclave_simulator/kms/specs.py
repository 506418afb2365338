"""Key specs: the usages and algorithms of each, and what generates its key material. No I/O.

Source: KMS Developer Guide, "Key spec reference", and botocore's model. SM2 exists in KMS's China
Regions only and not in `cryptography`; ML_KEM_512 is not in `cryptography` either.
"""

from __future__ import annotations

import functools
import importlib
import secrets
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

    PrivateKey = (
        rsa.RSAPrivateKey
        | ec.EllipticCurvePrivateKey
        | ed25519.Ed25519PrivateKey
        | mldsa.MLDSA44PrivateKey
        | mldsa.MLDSA65PrivateKey
        | mldsa.MLDSA87PrivateKey
        | mlkem.MLKEM768PrivateKey
        | mlkem.MLKEM1024PrivateKey
    )

SYMMETRIC = "SYMMETRIC_DEFAULT"

ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
SIGN_VERIFY = "SIGN_VERIFY"
GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
KEY_AGREEMENT = "KEY_AGREEMENT"
ENCAPSULATE_DECAPSULATE = "ENCAPSULATE_DECAPSULATE"

_RSA = {
    ENCRYPT_DECRYPT: ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"),
    SIGN_VERIFY: tuple(
        f"RSASSA_{scheme}_SHA_{size}"
        for scheme in ("PKCS1_V1_5", "PSS")
        for size in (256, 384, 512)
    ),
}
_ML_DSA: dict[str, tuple[str, ...]] = {SIGN_VERIFY: ("ML_DSA_SHAKE_256",)}

USAGES: dict[str, dict[str, tuple[str, ...]]] = {
    # spec: usage: algorithms. The first usage is what an attested call needs.
    SYMMETRIC: {ENCRYPT_DECRYPT: (SYMMETRIC,)},
    "RSA_2048": _RSA,
    "RSA_3072": _RSA,
    "RSA_4096": _RSA,
    "ECC_NIST_P256": {KEY_AGREEMENT: ("ECDH",), SIGN_VERIFY: ("ECDSA_SHA_256",)},
    "ECC_NIST_P384": {KEY_AGREEMENT: ("ECDH",), SIGN_VERIFY: ("ECDSA_SHA_384",)},
    "ECC_NIST_P521": {KEY_AGREEMENT: ("ECDH",), SIGN_VERIFY: ("ECDSA_SHA_512",)},
    "ECC_SECG_P256K1": {SIGN_VERIFY: ("ECDSA_SHA_256",)},
    "ECC_NIST_EDWARDS25519": {SIGN_VERIFY: ("ED25519_SHA_512", "ED25519_PH_SHA_512")},
    "HMAC_224": {GENERATE_VERIFY_MAC: ("HMAC_SHA_224",)},
    "HMAC_256": {GENERATE_VERIFY_MAC: ("HMAC_SHA_256",)},
    "HMAC_384": {GENERATE_VERIFY_MAC: ("HMAC_SHA_384",)},
    "HMAC_512": {GENERATE_VERIFY_MAC: ("HMAC_SHA_512",)},
    "ML_DSA_44": _ML_DSA,
    "ML_DSA_65": _ML_DSA,
    "ML_DSA_87": _ML_DSA,
    "ML_KEM_768": {ENCAPSULATE_DECAPSULATE: ("ML_KEM",)},
    "ML_KEM_1024": {ENCAPSULATE_DECAPSULATE: ("ML_KEM",)},
}
"""The key specs that the simulator has."""

ALGORITHMS_MEMBER = {
    ENCRYPT_DECRYPT: "EncryptionAlgorithms",
    SIGN_VERIFY: "SigningAlgorithms",
    GENERATE_VERIFY_MAC: "MacAlgorithms",
    KEY_AGREEMENT: "KeyAgreementAlgorithms",
    ENCAPSULATE_DECAPSULATE: "EncapsulationAlgorithms",
}
"""The member of responses that lists a key's algorithms, by the key's usage."""

SYMMETRIC_LENGTHS = {
    # spec: fewest and most bytes of imported key material; a generated key has the most of
    # SYMMETRIC_DEFAULT and the fewest of the others ("HMAC keys", "Importing key material").
    SYMMETRIC: (32, 32),
    "HMAC_224": (28, 64),
    "HMAC_256": (32, 64),
    "HMAC_384": (48, 128),
    "HMAC_512": (64, 128),
}


def _newer(module: str, name: str) -> Any:
    """Return the generator of a class that older releases of `cryptography` lack, or None."""
    try:
        found = importlib.import_module(f"cryptography.hazmat.primitives.asymmetric.{module}")
    except ImportError:
        return None
    return getattr(getattr(found, name, None), "generate", None)


_GENERATORS: dict[str, Callable[[], PrivateKey] | None] = {
    **{
        f"RSA_{size}": functools.partial(rsa.generate_private_key, 65537, size)
        for size in (2048, 3072, 4096)
    },
    "ECC_NIST_P256": functools.partial(ec.generate_private_key, ec.SECP256R1()),
    "ECC_NIST_P384": functools.partial(ec.generate_private_key, ec.SECP384R1()),
    "ECC_NIST_P521": functools.partial(ec.generate_private_key, ec.SECP521R1()),
    "ECC_SECG_P256K1": functools.partial(ec.generate_private_key, ec.SECP256K1()),
    "ECC_NIST_EDWARDS25519": ed25519.Ed25519PrivateKey.generate,
    **{f"ML_DSA_{size}": _newer("mldsa", f"MLDSA{size}PrivateKey") for size in (44, 65, 87)},
    **{f"ML_KEM_{size}": _newer("mlkem", f"MLKEM{size}PrivateKey") for size in (768, 1024)},
}


def generate_private_key(spec: str) -> PrivateKey:
    """Generate a key pair.

    Raises:
        KmsError: UnsupportedOperationException: KMS has this spec, the simulator has not.
    """
    generate = _GENERATORS.get(spec)
    if generate is not None:
        try:
            return generate()
        except UnsupportedAlgorithm:  # by the OpenSSL below `cryptography`
            pass
    raise unsupported(f"KeySpec {spec}")


def generate_material(spec: str) -> bytes | PrivateKey:
    """Generate the key material of a KMS key.

    Raises:
        KmsError: see `generate_private_key`.
    """
    if spec in SYMMETRIC_LENGTHS:
        return secrets.token_bytes(SYMMETRIC_LENGTHS[spec][0])
    return generate_private_key(spec)


def unsupported(subject: str) -> KmsError:
    """Return the error for a feature that KMS has and the simulator has not.

    The sentence is how the API reference describes UnsupportedOperationException.
    """
    return KmsError(
        "UnsupportedOperationException",
        "A specified parameter is not supported or a specified resource is not valid for this "
        f"operation: {subject} (simulated KMS).",
    )
