"""What can go wrong before COMMAND runs."""

from __future__ import annotations

import errno
import os

from vsock_proxy.errors import AgentError
from vsock_proxy.service.child import exec_hint


class LaunchError(AgentError):
    """This kernel, or this container, does not let a program be put into an enclave."""


class CommandError(AgentError):
    """COMMAND cannot be executed.

    Attributes:
        exit_code: 127 where there is no such file, 126 where it cannot be executed, as
            shells and env(1) have it.
    """

    def __init__(self, command: str, code: int) -> None:
        """Tell why.

        Args:
            command: the program.
            code: the error's number.
        """
        named = command or "''"
        super().__init__(
            f"cannot run {named}: {os.strerror(code)}",
            hint=exec_hint(command, code) if command else "name a program",
        )
        self.exit_code = 127 if code == errno.ENOENT else 126
