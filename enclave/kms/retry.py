"""When to retry a KMS call, and how long to wait before. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError, CredentialsError, KmsRefusedError, KmsUnreachableError
from vsock_proxy.service.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ATTEMPTS = 3
"""Attempts in one call, as in botocore's standard retry mode."""

_BACKOFF: Final = Backoff(first=0.1, most=5.0, jitter=1.0)

_TRANSIENT: Final = frozenset(
    {
        # AWS KMS API Reference, "Common errors" and the operations' own.
        "DependencyTimeoutException",
        "KMSInternalException",
        "InternalFailure",
        "InternalServiceError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        # botocore's list of throttling errors, those KMS is known to send.
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
    }
)


REJECTED_CREDENTIALS: Final = frozenset(
    {
        # AWS KMS API Reference, "Common errors", and the names that other AWS services use.
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
"""Errors of credentials that are not valid any more; new ones may help. InvalidSignatureException
is not one: it comes from a clock that is wrong as well."""


def is_worth_retrying(error: AgentError) -> bool:
    """Return whether the same request may succeed if it is sent again.

    The operations that the agent attests leave no trace in KMS, so sending one twice is safe.
    """
    if isinstance(error, KmsRefusedError):
        return error.type in _TRANSIENT or error.status >= 500
    return isinstance(error, KmsUnreachableError | CredentialsError) and error.transient


def wait_before(attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to wait before attempt number `attempt` (the first retry is attempt 2)."""
    return _BACKOFF.delay(attempt - 1, uniform)
