"""Whether a Decrypt names its key, and a warning, once in a process, if it does not."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def note_key_id(operation: str, parameters: Mapping[str, Any]) -> None:
    """Log once if this is a Decrypt without KeyId: KMS then decrypts anybody's ciphertext."""
    if names_no_key(operation, parameters):
        _log_once()


def names_no_key(operation: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether this is a Decrypt that leaves the key to the ciphertext.

    Only the ciphertext of a symmetric key names one: for others KMS requires KeyId.
    """
    return (
        operation == "Decrypt"
        and not parameters.get("KeyId")
        and parameters.get("EncryptionAlgorithm") in (None, "SYMMETRIC_DEFAULT")
    )


@functools.cache
def _log_once() -> None:
    log.warning(
        "Decrypt without a key id: KMS uses the key that the ciphertext names, and the ciphertext "
        "may come from the parent; name the key by its ARN (docs/encryption.md)"
    )
