"""Says, once in a process, that a Decrypt names no key."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def note_key_id(operation: str, parameters: Mapping[str, Any]) -> None:
    """Log once if this is a Decrypt without KeyId: KMS then decrypts anybody's ciphertext."""
    if operation == "Decrypt" and not parameters.get("KeyId"):
        _log_once()


@functools.cache
def _log_once() -> None:
    log.warning(
        "Decrypt without a key id: KMS uses the key that the ciphertext names, and the ciphertext "
        "may come from the parent; name the key by its ARN (docs/encryption.md)"
    )
