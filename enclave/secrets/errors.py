"""The one error by which a program is not started."""

from __future__ import annotations

from enclave.errors import AgentError


class SecretError(AgentError):
    """A secret of the program's cannot be opened, or not be given to it."""
