"""Bytes as words on the command line: hex, base64, or ``fileb://PATH``."""

from __future__ import annotations

import base64
import binascii
import re

from enclave.cli import files
from enclave.errors import ConfigurationError

HELP = "hex:DIGITS, base64:TEXT or fileb://PATH; without a prefix, hex"
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


def binary(option: str, given: str | None) -> bytes | None:
    """Return the value of an option as bytes; None if it was not given.

    Raises:
        ConfigurationError: it is none of the forms.
    """
    if given is None:
        return None
    if given.startswith(files.BINARY):
        return files.read(given.removeprefix(files.BINARY))
    try:
        if given.startswith("base64:"):
            return base64.b64decode(given.removeprefix("base64:"), validate=True)
        digits = given.removeprefix("hex:")
        if not _HEX.fullmatch(digits):
            raise ConfigurationError(f"argument {option}: not hex", hint=f"write {HELP}")
        return bytes.fromhex(digits)
    except (binascii.Error, ValueError) as e:
        raise ConfigurationError(f"argument {option}: not base64", hint=f"write {HELP}") from e


def fixed(option: str, given: str, size: int) -> bytes:
    """As `binary`, of one size in bytes.

    Raises:
        ConfigurationError: it has another.
    """
    value = binary(option, given) or b""
    if len(value) != size:
        raise ConfigurationError(
            f"argument {option}: {len(value)} bytes, not {size}", hint=f"{2 * size} hex digits"
        )
    return value
