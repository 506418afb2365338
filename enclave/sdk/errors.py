"""What the C SDK adds to the family of errors."""

from __future__ import annotations

from enclave.errors import AgentError, ConfigurationError, KmsUnreachableError

HINT_BUILD = (
    "install aws-nitro-enclaves-sdk-c, then run: python -m enclave.sdk.build [--prefix FOLDER]"
)


class SdkNotBuiltError(ConfigurationError):
    """The bindings to aws-nitro-enclaves-sdk-c are not there, or do not load."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint=HINT_BUILD)


class SdkCallError(AgentError):
    """A function of the C SDK failed. Most give no reason.

    Attributes:
        function: its name in C.
        reason: aws-c-common's name for the last error of this thread, or an empty string.
    """

    def __init__(self, function: str, reason: str = "") -> None:
        super().__init__(f"{function} failed" + (f": {reason}" if reason else ""))
        self.function = function
        self.reason = reason


class SdkWorkerError(KmsUnreachableError):
    """A worker with the SDK's KMS client hung or died; the next call gets a new one."""


class SdkConnectionEndedError(SdkWorkerError):
    """A worker's connection to KMS ended; the SDK never makes another."""
