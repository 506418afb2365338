"""KMS Encrypt with the developer's own credentials, by botocore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

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
        # 60 ms to import, for this command alone.
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            response = self._client(key_id).encrypt(
                KeyId=key_id,
                Plaintext=bytes(plaintext),
                **({"EncryptionContext": dict(context)} if context else {}),
            )
        except ClientError as e:
            error = e.response.get("Error", {})
            raise SealError(
                f"KMS refused Encrypt with {key_id}: {error.get('Code')}: {error.get('Message')}",
                hint="these credentials need kms:Encrypt on the key, in its region",
            ) from None
        except BotoCoreError as e:
            raise SealError(
                f"no response from KMS: {e}",
                hint="credentials, region and endpoint are found as by the AWS CLI",
            ) from None
        return Encrypted(response["KeyId"], response["CiphertextBlob"])

    def _client(self, key_id: str) -> Any:
        import botocore.session  # noqa: PLC0415 (as above)
        from botocore.config import Config  # noqa: PLC0415

        match = _ARN.match(key_id)
        return botocore.session.Session(profile=self._profile).create_client(
            "kms",
            region_name=match[1] if match else self._region,
            endpoint_url=self._endpoint_url,
            config=Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3}),
        )
