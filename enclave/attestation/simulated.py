"""Recognizes documents of enclave-simulator, for a hint; they prove nothing. No I/O."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from enclave.attestation.document import AttestationDocument

_SIMULATOR = "Enclave Simulator"
"""The organization in the roots of enclave-simulator."""


def simulator_hint(document: AttestationDocument) -> str:
    """Return a hint if the document's root says that it is a simulator's; otherwise nothing."""
    root = document.cabundle[0]
    # cryptography documents no list of what it raises: a certificate of version 4 is no ValueError.
    with contextlib.suppress(Exception):
        names = x509.load_der_x509_certificate(root).subject
        if any(name.value == _SIMULATOR for name in names):
            return (
                "it names a simulator as its root, and proves nothing about a real enclave; if "
                f"that is your simulator: --simulated-root {hashlib.sha256(root).hexdigest()}"
            )
    return ""
