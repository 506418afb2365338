"""Errors of the enclave's side, all of the `AgentError` family.

Errors of libraries and of the operating system are translated once, where they arise. Messages hold
no secrets.
"""

from __future__ import annotations

from vsock_proxy.errors import AgentError, ConfigurationError, DialError, ListenError

__all__ = [
    "AgentError",
    "AttestationError",
    "AttestedTlsError",
    "AttesterError",
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
    "NotNitroTpmError",
    "NsmError",
    "NsmRefusedError",
    "NsmResponseError",
    "NsmUnavailableError",
    "TpmBusyError",
    "TpmError",
    "TpmRefusedError",
    "TpmResponseError",
    "TpmTimeoutError",
    "TpmUnavailableError",
]


class DecodingError(AgentError):
    """Bytes are malformed.

    Attributes:
        format: the expected format, for example ``CMS`` or ``attestation document``.
        offset: byte position at which decoding stopped; None if it is not known.
    """

    default_hint = "were the bytes truncated or altered, or are they in another format?"

    def __init__(
        self, format: str, message: str, *, offset: int | None = None, hint: str = ""
    ) -> None:
        where = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"malformed {format}: {message}{where}", hint=hint)
        self.format = format
        self.offset = offset


class AttesterError(AgentError):
    """What should vouch for a public key, an NSM or a NitroTPM, gave no attestation document."""


class NsmError(AttesterError):
    """A request to the Nitro Secure Module failed."""

    default_hint = "`enclave-agent describe` shows whether the NSM works at all"


class NsmUnavailableError(NsmError):
    """There is no NSM, or its driver failed."""


class NsmRefusedError(NsmError):
    """The NSM's response is an error code.

    Attributes:
        code: the NSM's name for the error, for example ``InvalidIndex``
            (aws-nitro-enclaves-nsm-api, ``ErrorCode``).
    """

    def __init__(self, request: str, code: str, *, hint: str = "") -> None:
        super().__init__(f"the NSM refused {request}: {code}", hint=hint)
        self.request = request
        self.code = code


class NsmResponseError(NsmError):
    """The NSM's response is malformed, or does not fit the request."""


class TpmError(AttesterError):
    """A command to the NitroTPM failed."""

    default_hint = "`enclave-agent describe --attester nitrotpm` shows whether it works at all"


class TpmUnavailableError(TpmError):
    """There is no TPM, or this user may not open it, or its driver failed."""


class TpmBusyError(TpmUnavailableError):
    """Other programs held the TPM the whole time, or used the same NV index."""

    default_hint = "another program holds the TPM: stop it, or retry"


class TpmTimeoutError(TpmUnavailableError):
    """The TPM sent no response in time."""

    default_hint = "retry, then stop and start the instance"


class NotNitroTpmError(TpmUnavailableError):
    """There is a TPM, but it is not a NitroTPM: no document of its is signed by AWS."""

    default_hint = (
        "KMS accepts documents of NitroTPMs only: start the instance from an attestable AMI "
        "(docs/nitrotpm.md)"
    )


class TpmRefusedError(TpmError):
    """The TPM's response is an error code.

    Attributes:
        command: as the TPM 2.0 Library names it, for example ``TPM2_NV_DefineSpace``.
        name: the code's name, for example ``TPM_RC_NV_SPACE`` or ``TPM_RC_SIZE, parameter 2``.
        code: the number.
    """

    def __init__(self, command: str, name: str, *, code: int, hint: str = "") -> None:
        super().__init__(f"the TPM refused {command}: {name}", hint=hint)
        self.command = command
        self.name = name
        self.code = code


class TpmResponseError(TpmError):
    """The TPM's response is malformed, or does not fit the command."""


class AttestationError(AgentError):
    """An attestation document does not prove what was expected.

    Attributes:
        failures: every failure, not only the first.
    """

    default_hint = "do not trust the document: each failure is a reason not to"

    def __init__(self, failures: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__("attestation document refused: " + "; ".join(failures), hint=hint)
        self.failures = failures


class AttestedTlsError(AgentError):
    """A connection is not proven: TLS failed, or the server gave no attestation document."""

    default_hint = "does `enclave-agent serve --ingress-tls` end TLS at the other end?"


class DecryptionError(AgentError):
    """The ciphertext does not open with this key. One message for every cause, so no oracle."""

    def __init__(self) -> None:
        super().__init__(
            "CiphertextForRecipient does not open with this key",
            hint="it was made for another key pair, or altered on the way",
        )


class CredentialsError(AgentError):
    """AWS credentials are missing, incomplete or expired.

    Attributes:
        transient: whether a retry may help, for example after a timeout of the parent.
    """

    default_hint = (
        "set AWS_ACCESS_KEY_ID and its companions, or run the credential service on the parent"
    )

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class KmsError(AgentError):
    """A call to KMS failed."""


class KmsUnreachableError(KmsError):
    """KMS sent no response: connecting or TLS failed, the connection broke, or a deadline passed.

    Attributes:
        transient: whether a retry may help; it does not help against a certificate that does not
            verify.
    """

    default_hint = "does vsock-proxy run on the parent, and does it lead to KMS?"

    def __init__(self, message: str, *, hint: str = "", transient: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class KmsRefusedError(KmsError):
    """KMS's response is an error.

    Attributes:
        type: KMS's name for the error, for example ``AccessDeniedException``.
        kms_message: KMS's text, unchanged.
        request_id: ``x-amzn-RequestId``, or None if there was none.
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
        super().__init__(text, hint=hint or _hint_for(type))
        self.type = type
        self.kms_message = kms_message
        self.request_id = request_id
        self.status = status


class KmsResponseError(KmsError):
    """KMS's response is malformed, or does not fit the attested request."""

    default_hint = "the response is not trusted: what ended TLS may not be KMS"


_KMS_FAILED = "KMS itself failed: try again later"
_DEAD_CREDENTIALS = (
    "renew the credentials: KMS does not accept this access key, or the session token"
)
_HINTS = {
    # AWS KMS API Reference: the operations' own errors, and "Common errors".
    "AccessDeniedException": "compare the PCRs in the key policy's kms:RecipientAttestation "
    "conditions, and the role's permissions, with this enclave",
    "CustomKeyStoreNotFoundException": "key stores are regional: is this the region of the store?",
    "DependencyTimeoutException": _KMS_FAILED,
    "DisabledException": "the key is disabled: enable it, or name another",
    "DryRunOperationException": "the request would have succeeded: this is how KMS says so",
    "ExpiredTokenException": "the enclave holds expired credentials: renew them",
    "IncorrectKeyException": "the ciphertext was encrypted under another key than the named one",
    "InvalidCiphertextException": "usual causes: another encryption context, another key or "
    "region, base64 applied twice, or an asymmetric key without its encryption algorithm",
    "InvalidClientTokenId": _DEAD_CREDENTIALS,
    "InvalidGrantTokenException": "grant tokens are those that CreateGrant returned",
    "InvalidSignatureException": "wrong secret key, or the enclave's clock is off",
    "InvalidKeyUsageException": "`aws kms describe-key` shows what the key is for",
    "KMSInternalException": _KMS_FAILED,
    "KMSInvalidStateException": "`aws kms describe-key` shows the state of the key",
    "MissingAuthenticationTokenException": "KMS accepts only signed requests: sign them",
    "NotFoundException": "keys are regional: is this the region of the key?",
    "ThrottlingException": "make fewer calls per second, or ask for a higher quota",
    "UnrecognizedClientException": _DEAD_CREDENTIALS,
    "ValidationException": "KMS names the parameter that is wrong",
}


def _hint_for(type: str) -> str:
    """Return a hint for an error of KMS's by its name."""
    if not type.isidentifier():  # "HTTP status 503"
        return "the response came from KMS or from what stands before it: try again later"
    return _HINTS.get(type, f"the AWS KMS API Reference explains {type}")
