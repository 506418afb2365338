"""When to ask KMS again, and how long to wait first. Pure: numbers and names in, numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError, CredentialsError, KmsRefusedError, KmsUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ATTEMPTS = 3
"""As botocore's standard retry mode."""

_FIRST, _MOST = 0.1, 5.0
"""Seconds: upper bounds of the first wait and of any."""

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


def is_worth_retrying(error: AgentError) -> bool:
    """Whether the same request may fare better.

    Every KMS operation the agent attests leaves no trace in KMS, so asking twice is safe.
    """
    if isinstance(error, KmsRefusedError):
        return error.type in _TRANSIENT or error.status >= 500
    return isinstance(error, KmsUnreachableError | CredentialsError) and error.transient


def wait_before(attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds to wait before attempt number `attempt` (the first retry is attempt 2).

    Exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    return uniform(0.0, min(_MOST, _FIRST * 2.0 ** (attempt - 2)))
