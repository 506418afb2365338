"""The root of all errors of this project, and the errors of networking and configuration.

The public API raises no other errors than `AgentError` and its subclasses; anything else is a bug.
`enclave.errors` has those of the enclave's side.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of all errors.

    Attributes:
        hint: one sentence that says what to do about it, or "". The command line prints it on a
            line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(AgentError):
    """An option, a variable, a file or an argument is invalid."""


class DialError(AgentError):
    """No connection to an address: refused, unreachable, timed out, unknown name.

    Attributes:
        address: the address as text, for example ``vsock://3:8000``.
        reason: why, in a few words.
    """

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot connect to {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class ListenError(AgentError):
    """An address cannot be listened on: in use, not permitted, no such device."""

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot listen on {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason
