"""The family of errors on the enclave's side; all of them are `AgentError`.

Library and OS errors are translated once, where they arise. Messages hold no secrets.
"""

from __future__ import annotations

from vsock_proxy.errors import AgentError, ConfigurationError, DialError, ListenError

__all__ = [
    "AgentError",
    "AttestationError",
    "ConfigurationError",
    "CredentialsError",
    "DecodingError",
    "DecryptionError",
    "DialError",
    "KmsError",
    "KmsRefusedError",
    "KmsResponseError",
    "KmsUnreachableError",
    "ListenError",
    "NsmError",
    "NsmRefusedError",
    "NsmResponseError",
    "NsmUnavailableError",
]


class DecodingError(AgentError):
    """Bytes are not what they should be.

    Attributes:
        format: what was expected, for example ``CMS`` or ``attestation document``.
        offset: byte position where decoding stopped, or None where none is known.
    """

    def __init__(
        self, format: str, message: str, *, offset: int | None = None, hint: str = ""
    ) -> None:
        where = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"malformed {format}: {message}{where}", hint=hint)
        self.format = format
        self.offset = offset


class NsmError(AgentError):
    """The Nitro Secure Module did not do what it was asked."""


class NsmUnavailableError(NsmError):
    """There is no NSM to talk to, or the driver failed underneath it."""


class NsmRefusedError(NsmError):
    """The NSM answered with an error.

    Attributes:
        code: the NSM's own name for it, for example ``InvalidIndex``
            (aws-nitro-enclaves-nsm-api, ``ErrorCode``).
    """

    def __init__(self, request: str, code: str, *, hint: str = "") -> None:
        super().__init__(f"the NSM refused {request}: {code}", hint=hint)
        self.request = request
        self.code = code


class NsmResponseError(NsmError):
    """The NSM's answer makes no sense for the request."""


class AttestationError(AgentError):
    """An attestation document does not prove what it should.

    Attributes:
        failures: every failure found, not only the first.
    """

    def __init__(self, failures: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__("attestation document refused: " + "; ".join(failures), hint=hint)
        self.failures = failures


class DecryptionError(AgentError):
    """The ciphertext does not open with this key. One message, whatever failed: no oracle."""

    def __init__(self) -> None:
        super().__init__(
            "CiphertextForRecipient does not open with this key",
            hint="it was made for another key pair, or altered on the way",
        )


class CredentialsError(AgentError):
    """No AWS credentials, or half of them, or expired ones.

    Attributes:
        transient: whether asking again may help, as it may where the parent did not answer.
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class KmsError(AgentError):
    """KMS, or the way to it."""


class KmsUnreachableError(KmsError):
    """No answer from KMS: dialling, TLS, or the connection failed, or a deadline passed.

    Attributes:
        transient: whether trying again may help; a certificate that does not verify will not
            verify a second time.
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class KmsRefusedError(KmsError):
    """KMS answered with an error of its own.

    Attributes:
        type: KMS's name for it, for example ``AccessDeniedException``.
        kms_message: KMS's text, as it came.
        request_id: ``x-amzn-RequestId``, or None where none came.
        status: the HTTP status.
    """

    def __init__(
        self, type: str, kms_message: str, *, request_id: str | None, status: int, hint: str = ""
    ) -> None:
        text = f"KMS refused the request: {type}"
        if kms_message:
            text += f": {kms_message}"
        if request_id:
            text += f" (request id {request_id})"
        super().__init__(text, hint=hint)
        self.type = type
        self.kms_message = kms_message
        self.request_id = request_id
        self.status = status


class KmsResponseError(KmsError):
    """KMS's answer is malformed, or is not the answer to an attested request."""
