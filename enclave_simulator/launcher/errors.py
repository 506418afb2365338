"""What can go wrong before COMMAND runs."""

from __future__ import annotations

from vsock_proxy.errors import AgentError


class LaunchError(AgentError):
    """This kernel, or this container, does not let a program be put into an enclave."""


class CommandError(AgentError):
    """COMMAND cannot be executed.

    Attributes:
        exit_code: 127 where there is no such file, 126 where it cannot be executed, as
            shells and env(1) have it.
    """

    def __init__(self, command: str, reason: str, *, exit_code: int, hint: str = "") -> None:
        super().__init__(f"cannot run {command}: {reason}", hint=hint)
        self.exit_code = exit_code
