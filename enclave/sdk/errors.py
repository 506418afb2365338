"""Errors of the C SDK's bindings and workers."""

from __future__ import annotations

from enclave.errors import AgentError, ConfigurationError, KmsUnreachableError


class SdkNotBuiltError(ConfigurationError):
    """The bindings to aws-nitro-enclaves-sdk-c are not built, or do not load."""

    default_hint = (
        "install aws-nitro-enclaves-sdk-c, then run: python -m enclave.sdk.build [--prefix FOLDER]"
    )


class SdkCallError(AgentError):
    """A function of the C SDK failed. Most give no reason.

    Attributes:
        function: its name in C.
        reason: aws-c-common's name for the last error of this thread, or an empty string.
    """

    default_hint = "the C SDK gives no further reason; --engine python says more"

    def __init__(self, function: str, reason: str = "") -> None:
        super().__init__(f"{function} failed" + (f": {reason}" if reason else ""))
        self.function = function
        self.reason = reason


class SdkWorkerError(KmsUnreachableError):
    """A worker with the SDK's KMS client hung or died; the next call starts a new one."""

    default_hint = "retry: the next call starts a new worker; --engine sdk needs none"


class SdkConnectionEndedError(SdkWorkerError):
    """A worker's connection to KMS ended before the response; the SDK never reconnects."""

    default_hint = "retry; does KMS, or the proxy on the parent, close connections?"
