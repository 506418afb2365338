"""Grants: who may use a key for what, beside its key policy. No I/O.

Source: KMS Developer Guide, "Grants in AWS KMS"; CreateGrant of the API reference.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave_simulator.kms import specs
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

MAX_GRANTS = 1000
"""Grants of one key; KMS's quota is 50,000."""

_FOR_ANY_KEY = {"CreateGrant", "DescribeKey", "RetireGrant"}
_ENCRYPTION = {"Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo"}
_OPERATIONS = {
    specs.ENCRYPT_DECRYPT: _ENCRYPTION | {"GetPublicKey"},
    specs.SIGN_VERIFY: {"GetPublicKey", "Sign", "Verify"},
    specs.GENERATE_VERIFY_MAC: {"GenerateMac", "VerifyMac"},
    specs.KEY_AGREEMENT: {"DeriveSharedSecret", "GetPublicKey"},
    specs.ENCAPSULATE_DECAPSULATE: {"Decapsulate", "Encapsulate", "GetPublicKey"},
}
_OF_SYMMETRIC_KEYS = _ENCRYPTION | {
    f"GenerateDataKey{rest}" for rest in ("", "WithoutPlaintext", "Pair", "PairWithoutPlaintext")
}
_TOKEN_SIZE = 16
_MAX_PAIRS, _MAX_VALUE = 8, 384


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant.

    Attributes:
        id: 64 hex digits.
        name: to recognize a repeated request; empty for none.
        grantee: ARN of who gets the permissions.
        retiring: ARN of who may retire it; empty for none.
        operations: the names of the operations.
        equals: EncryptionContextEquals; None for no such constraint.
        subset: EncryptionContextSubset; None for no such constraint.
        source_arn: SourceArn; empty for no such constraint.
        issuer: account that made it.
        created: when.
    """

    id: str
    name: str
    grantee: str
    retiring: str
    operations: tuple[str, ...]
    equals: Mapping[str, str] | None
    subset: Mapping[str, str] | None
    source_arn: str
    issuer: str
    created: datetime

    def permits(self, operation: str, principal: str, context: Mapping[str, str]) -> bool:
        """Return whether a principal may make a call, given its encryption context."""
        return (
            operation in self.operations
            and bool(named(self.grantee, principal))
            and (operation in _FOR_ANY_KEY or not self.unmet(context))
        )

    def unmet(self, context: Mapping[str, str]) -> str:
        """Return which constraint an encryption context does not meet; empty if all are met."""
        if self.source_arn:
            return f"SourceArn: wanted {self.source_arn}, got none: no AWS service is calling"
        if self.equals is not None and dict(context) != dict(self.equals):
            return f"EncryptionContextEquals: wanted {dict(self.equals)}, got {dict(context)}"
        if self.subset is not None and not self.subset.items() <= context.items():
            return f"EncryptionContextSubset: wanted {dict(self.subset)}, got {dict(context)}"
        return ""

    def covers(self, other: Grant) -> bool:
        """Return whether a grantee of this one, with CreateGrant, may make another."""
        needed = dict(self.equals or self.subset or {})
        given = dict(other.equals or other.subset or {})
        strict = other.equals == self.equals if self.equals is not None else True
        return (
            set(other.operations) <= set(self.operations)
            and strict
            and needed.items() <= given.items()
        )

    def is_same(self, other: Grant) -> bool:
        """Return whether a repeated request made the other one."""
        mine, others = (
            (g.name, g.grantee, g.retiring, g.operations, g.equals, g.subset, g.source_arn)
            for g in (self, other)
        )
        return bool(self.name) and mine == others


def check_constraint(context: Mapping[str, str]) -> None:
    """Check the size of an encryption context constraint (CreateGrant, Constraints).

    Raises:
        KmsError: ValidationException. Its text is not known to be KMS's.
    """
    if len(context) > _MAX_PAIRS:
        raise KmsError(
            "ValidationException",
            f"An encryption context constraint has at most {_MAX_PAIRS} pairs.",
        )
    if any(len(value) > _MAX_VALUE for value in context.values()):
        raise KmsError(
            "ValidationException",
            f"A value of an encryption context constraint has at most {_MAX_VALUE} characters.",
        )


def check_operations(
    spec: str, usage: str, operations: tuple[str, ...], *, constrained: bool
) -> None:
    """Check that a grant of a key can have these operations and an encryption context constraint.

    Raises:
        KmsError: ValidationException. Only the first text is known to be KMS's.
    """
    if set(operations) == {"CreateGrant"}:
        raise KmsError(
            "ValidationException", "Grants must not contain only the CreateGrant operation."
        )
    symmetric = spec == specs.SYMMETRIC
    possible = _FOR_ANY_KEY | (_OF_SYMMETRIC_KEYS if symmetric else _OPERATIONS[usage])
    wrong = [operation for operation in operations if operation not in possible]
    if wrong:
        raise KmsError(
            "ValidationException",
            f"Operations {', '.join(wrong)} are not valid for a key with key usage {usage} "
            f"and key spec {spec}.",
        )
    if constrained and not symmetric:
        raise KmsError(
            "ValidationException",
            f"Encryption context constraints are not valid for key spec {spec}.",
        )


# Grant tokens. One is made for each request and none is kept: it proves itself.


def new_token(secret: bytes, grant_id: str, nonce: bytes) -> str:
    """Return a grant token.

    Args:
        secret: of the KMS.
        grant_id: 64 hex digits.
        nonce: 16 bytes that make the token a new one.
    """
    signed = bytes.fromhex(grant_id) + nonce
    return base64.b64encode(signed + hmac.digest(secret, signed, "sha256")).decode()


def read_token(secret: bytes, token: str) -> str:
    """Return the id of the grant that a token is for; there may be no such grant any more.

    Raises:
        KmsError: InvalidGrantTokenException.
    """
    try:
        raw = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    signed, mac = raw[: 32 + _TOKEN_SIZE], raw[32 + _TOKEN_SIZE :]
    if not hmac.compare_digest(mac, hmac.digest(secret, signed, "sha256")):
        raise invalid_token()
    return signed[:32].hex()


def invalid_token() -> KmsError:
    """Return the error of a grant token that is not valid."""
    return KmsError("InvalidGrantTokenException")
