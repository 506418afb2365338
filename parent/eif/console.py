"""Warnings of the commands that make and describe images."""

from __future__ import annotations

import sys


def warn(text: str) -> None:
    """Print a warning in the form of the program's errors."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    sys.stderr.write(f"enclave-parent: warning: {shown}\n")
    sys.stderr.flush()
