"""KMS Encrypt with the developer's own credentials, by botocore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from parent.kms_calls import call_kms
from parent.secrets.plain import SealError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PLAINTEXT: Final = 4_096
"""Bytes that KMS Encrypt takes (KMS API Reference)."""

_ARN: Final = re.compile(r"arn:[^:]*:kms:([^:]+):")


class Encrypted(NamedTuple):
    """A response: the ARN of the key that was used, and the CiphertextBlob."""

    arn: str
    ciphertext: bytes


class Encrypter(Protocol):
    """Encrypts; `Kms`, or in tests another."""

    def encrypt(
        self, key_id: str, plaintext: bytes | bytearray, context: Mapping[str, str]
    ) -> Encrypted:
        """Encrypt up to `MAX_PLAINTEXT` bytes.

        Raises:
            SealError: KMS did not; the message is KMS's.
        """
        ...


class Kms:
    """KMS of the region that a key's ARN names, or of the configured one."""

    def __init__(
        self, *, region: str | None, endpoint_url: str | None, profile: str | None
    ) -> None:
        self._region, self._endpoint_url, self._profile = region, endpoint_url, profile

    def encrypt(
        self, key_id: str, plaintext: bytes | bytearray, context: Mapping[str, str]
    ) -> Encrypted:
        """See `Encrypter.encrypt`."""
        response = call_kms(
            lambda: self._client(key_id),
            "Encrypt",
            {
                "KeyId": key_id,
                "Plaintext": bytes(plaintext),
                **({"EncryptionContext": dict(context)} if context else {}),
            },
            failed=lambda text, hint: SealError(text, hint=hint),
            usage_hint="the key must be symmetric, for ENCRYPT_DECRYPT",
        )
        arn, ciphertext = response.get("KeyId"), response.get("CiphertextBlob")
        if not isinstance(arn, str) or not isinstance(ciphertext, bytes) or not ciphertext:
            raise SealError(
                f"the response to Encrypt with {key_id} has no key or no ciphertext",
                hint="is it KMS that responds? See AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_KMS",
            )
        return Encrypted(arn, ciphertext)

    def _client(self, key_id: str) -> Any:
        import botocore.session  # noqa: PLC0415 (60 ms, for this command alone)
        from botocore.config import Config  # noqa: PLC0415

        match = _ARN.match(key_id)
        return botocore.session.Session(profile=self._profile).create_client(
            "kms",
            region_name=match[1] if match else self._region,
            endpoint_url=self._endpoint_url,
            config=Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3}),
        )
