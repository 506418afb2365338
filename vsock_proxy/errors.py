"""The root of every error this project raises, and those of the ground floor.

A caller that catches `AgentError` has caught everything the public API can raise; anything
else that escapes is a bug. `enclave.errors` grows the family on the enclave's side.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of the family.

    Attributes:
        hint: one sentence that says what to do about it, or "" where nothing can be said.
            The command line prints it on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(AgentError):
    """What the caller asked for cannot be: an option, a variable, a file, an argument."""


class DialError(AgentError):
    """No connection to an address: refused, unreachable, timed out, no such name.

    Attributes:
        address: the address as written, for example ``vsock://3:8000``.
    """

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot connect to {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class ListenError(AgentError):
    """An address cannot be listened on: taken, not permitted, no such device."""

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot listen on {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason
