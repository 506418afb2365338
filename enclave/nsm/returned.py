"""Checks that an attestation document is the one that was requested. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enclave.attestation.document import AttestationDocument
    from enclave.nsm.messages import Attestation


def mismatch(document: AttestationDocument, request: Attestation, *, platform: str) -> str:
    """Return how a document differs from what was requested, as a predicate; empty if it does not.

    What carries requests, a driver or an NV index, may give one program's response to another.

    Args:
        document: the response's.
        request: what was requested.
        platform: ``enclave`` or ``instance``: whose PCRs the document is to list.
    """
    if document.platform != platform:
        return f"lists the PCRs of an {document.platform}"
    for name in ("public_key", "user_data", "nonce"):
        if (getattr(document, name) or b"") != (getattr(request, name) or b""):
            return f"holds another {name} than requested"
    return ""
