"""Warnings of the commands that make and describe images."""

from __future__ import annotations

from vsock_proxy.service import console


def warn(text: str) -> None:
    """Print a warning line."""
    console.warn("enclave-parent", text)
