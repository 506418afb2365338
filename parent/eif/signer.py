"""Signing images: with a key in a file, or with one in KMS that never leaves it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from parent.eif import signature
from parent.eif.signature import ALGORITHMS, MAX_SIGNATURE, load_certificate
from parent.kms_calls import call_kms
from vsock_proxy.errors import AgentError, ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

    from parent.eif.signature import Algorithm

KMS_ARN = re.compile(
    r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:key[/:](?P<key>[a-zA-Z0-9-]+)", re.ASCII
)
"""As nitro-cli has it since 1.4 (aws-nitro-enclaves-image-format, ``parse_kms_arn``)."""

SOON = timedelta(days=30)
"""How long before the end of its certificate an image is worth a warning."""

_CONNECT_TIMEOUT, _READ_TIMEOUT, _ATTEMPTS = 10, 30, 3


class SigningError(AgentError):
    """KMS did not sign."""


class SigningKey(Protocol):
    """A private key."""

    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        """Return the ECDSA signature over a message, in DER.

        Raises:
            AgentError: it cannot be had.
        """
        ...


class Signer:
    """A certificate and its key.

    Args:
        certificate: PEM.
        key: the private key of the certificate.

    Raises:
        ConfigurationError: the certificate cannot be read or is not for ECDSA, or the key is
            another one's, if that can be told before it signs.
    """

    def __init__(self, certificate: bytes, key: SigningKey) -> None:
        self.certificate = load_certificate(certificate)
        public = self.certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 (checked as it is read)
        self._public = public
        self._algorithm = ALGORITHMS[public.curve.name]
        self._pem = certificate
        self._key = key
        if isinstance(key, FileKey) and key.public_key != public:
            raise self._another_key()

    def sign(self, pcr0: bytes) -> bytes:
        """Return the payload of a signature section for an image that measures `pcr0`.

        Raises:
            AgentError: the key does not sign, or it is not that of the certificate.
        """
        message = signature.to_be_signed(self._algorithm, pcr0)
        der = self._key.sign(message, self._algorithm)
        try:
            self._public.verify(der, message, ec.ECDSA(self._algorithm.hash))
        except InvalidSignature:
            raise self._another_key() from None
        section = signature.encode(self._pem, self._algorithm, pcr0, der)
        if len(section) > MAX_SIGNATURE:
            raise ConfigurationError(
                f"the signature section has {len(section)} bytes; the hypervisor takes "
                f"{MAX_SIGNATURE}",
                hint="leave other certificates and text out of the certificate's file",
            )
        return section

    def _another_key(self) -> ConfigurationError:
        several = self._pem.count(b"-----BEGIN CERTIFICATE-----") > 1
        return ConfigurationError(
            "the private key is not that of the signing certificate",
            hint="of several certificates in a file the first one counts: put the signer's there"
            if several
            else "",
        )

    def check_validity(self, at: datetime) -> str:
        """Check that an enclave could be started from what is signed.

        Returns:
            What is nearly over, or not yet begun; or an empty text.

        Raises:
            ConfigurationError: the certificate has expired.
        """
        certificate = self.certificate
        if at > certificate.not_valid_after_utc:
            raise ConfigurationError(
                "; ".join(signature.validity(certificate, at)),
                hint="nitro-cli starts no enclave from an image that it signs (E59)",
            )
        if at < certificate.not_valid_before_utc:
            return f"{next(signature.validity(certificate, at))}: until then no enclave starts"
        if at > certificate.not_valid_after_utc - SOON:
            return (
                f"the certificate expires on {certificate.not_valid_after_utc:%F %TZ}: after that "
                "no enclave starts from the image"
            )
        return ""


class FileKey:
    """A private key from a file.

    Args:
        pem: not encrypted.

    Raises:
        ConfigurationError: it cannot be read, or is not on P-256, P-384 or P-521.
    """

    def __init__(self, pem: bytes) -> None:
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's own words could quote the key.
            raise ConfigurationError(
                "the private key is not an unencrypted one in PEM",
                hint="openssl pkey -in KEY -out KEY.pem writes one, of DER too; or name a key in "
                "KMS: arn:aws:kms:REGION:ACCOUNT:key/ID",
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in ALGORITHMS:
            raise ConfigurationError("the private key is not on P-256, P-384 or P-521")
        self._key = key

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self._key.public_key()

    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        """See `SigningKey.sign`."""
        return self._key.sign(message, ec.ECDSA(algorithm.hash))


class KmsKey:
    """A key in KMS. Credentials and endpoint are those that the AWS CLI would use.

    Args:
        arn: of the key; its region counts, not the environment's.

    Raises:
        ConfigurationError: it is not the ARN of a key.
    """

    def __init__(self, arn: str) -> None:
        match = KMS_ARN.fullmatch(arn)
        if not match:
            raise ConfigurationError(
                f"{arn!r} is not the ARN of a key in KMS",
                hint="arn:aws:kms:REGION:ACCOUNT:key/ID; an alias will not do",
            )
        self._region = match["region"]
        self._arn = arn.replace(":key:", ":key/")

    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        """See `SigningKey.sign`."""
        digest = hashes.Hash(algorithm.hash)
        digest.update(message)
        parameters = {
            "KeyId": self._arn,
            "Message": digest.finalize(),
            "MessageType": "DIGEST",
            "SigningAlgorithm": algorithm.kms,
        }
        response = call_kms(
            self._client,
            "Sign",
            parameters,
            failed=lambda text, hint: SigningError(text, hint=hint),
            usage_hint="the key must be for SIGN_VERIFY, on the certificate's curve",
        )
        signed = response.get("Signature")
        if not isinstance(signed, bytes) or not signed:
            raise SigningError(f"KMS's response has no signature by {self._arn}")
        return signed

    def _client(self) -> Any:
        import botocore.config  # noqa: PLC0415
        import botocore.session  # noqa: PLC0415

        config = botocore.config.Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        )
        return botocore.session.get_session().create_client(
            "kms", region_name=self._region, config=config
        )


def load_key(text: str, read: Any) -> SigningKey:
    """Return the key that an option names: an ARN, or else a file.

    Args:
        text: of the option.
        read: reads a file of that name.

    Raises:
        ConfigurationError: it cannot be read, or cannot sign.
    """
    if text.startswith("arn:"):
        return KmsKey(text)
    return FileKey(read(text))
