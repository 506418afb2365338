"""What an error is to a client and in the numbers: one line for each kind of error. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

from enclave.errors import (
    AgentError,
    AttestationError,
    AttesterError,
    ConfigurationError,
    CredentialsError,
    DecodingError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
)


class Outcome(NamedTuple):
    """What becomes of a call that ends in an error.

    Attributes:
        word: in the numbers, ``enclave_agent_calls_total``.
        type: of the error that the client gets.
        status: the HTTP status. SDKs retry after 500, 502, 503 and 504, and after the types they
            know: an error that a retry does not mend has another status and another type.
    """

    word: str
    type: str = "InternalFailure"
    status: int = 500


_OTHER: Final = Outcome("error")

_UNTRUSTED: Final = Outcome("untrusted", "EnclaveUntrustedResponseException", 400)

_OUTCOMES: Final[tuple[tuple[type[AgentError], Outcome], ...]] = (
    (KmsRefusedError, Outcome("refused")),  # the client gets KMS's own type and status
    (KmsUnreachableError, Outcome("unreachable", "EnclaveUntrustedPeerException", 400)),
    (KmsResponseError, _UNTRUSTED),
    (DecodingError, _UNTRUSTED),
    (DecryptionError, _UNTRUSTED),
    (AttestationError, Outcome("untrusted", "EnclaveAttestationException", 400)),
    (AttesterError, Outcome("attester", "EnclaveAttestationException", 400)),
    (CredentialsError, Outcome("credentials", "EnclaveCredentialsException", 400)),
    (ConfigurationError, Outcome("invalid", "ValidationException", 400)),
)


def outcome_of(error: AgentError) -> Outcome:
    """Return what becomes of a call that ends in this error."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), _OTHER)


def word_for(error: AgentError) -> str:
    """Return the word for an error in the numbers; of a small set, whatever the error."""
    if getattr(error, "type", "") == "ThrottlingException":
        return "throttled"
    return outcome_of(error).word
