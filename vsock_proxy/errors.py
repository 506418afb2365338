"""`AgentError`, the root of every error this project raises, and the errors of the ground floor.

The public API raises this family and nothing else; any other exception is a bug. `enclave.errors`
adds the errors of the enclave's side.
"""

from __future__ import annotations


class AgentError(Exception):
    """The root of every error that this project raises.

    Attributes:
        hint: one sentence on what to do about it, or "" if nothing is known to help. The command
            line prints it on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(AgentError):
    """An option, variable, file or argument is invalid."""


class DialError(AgentError):
    """Connecting to an address failed: refused, unreachable, timed out, no such name.

    Attributes:
        address: the address as written, for example ``vsock://3:8000``.
    """

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot connect to {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class ListenError(AgentError):
    """Listening on an address failed: in use, not permitted, no such device."""

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot listen on {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason
