"""The one error that reading an enclave image can end in."""

from __future__ import annotations

from vsock_proxy.errors import AgentError


class EifError(AgentError):
    """The file is not an enclave image that can be trusted to mean one thing.

    Attributes:
        offset: bytes from the start of the file to where the trouble was found.
    """

    default_hint = "is the file whole, and made by nitro-cli or `enclave-parent build-eif`?"

    def __init__(self, reason: str, *, offset: int, hint: str = "") -> None:
        super().__init__(f"not a valid enclave image: {reason} (offset {offset})", hint=hint)
        self.reason = reason
        self.offset = offset
