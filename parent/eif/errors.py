"""The one error that reading an enclave image can end in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


@contextlib.contextmanager
def of_image(path: Path) -> Iterator[None]:
    """Put the name of the file into an `EifError`: where there are several, which one is it?"""
    try:
        yield
    except EifError as e:
        e.args = (f"{path}: {e}",)
        raise
