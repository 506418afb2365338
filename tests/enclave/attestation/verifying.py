"""Verifies documents of `tests.enclave.nitro`, and lists what is wrong with them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.attestation.verify import verify
from enclave.errors import AttestationError
from tests.enclave.nitro import NOW, Document, chain

if TYPE_CHECKING:
    from enclave.attestation import AttestationDocument


SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
CHAIN = chain()


def verified(document: Document, **expectations: Any) -> AttestationDocument:
    standard: dict[str, Any] = {
        "at": NOW,
        "max_age": timedelta(minutes=5),
        "pcrs": None,
        "root_fingerprint": document.root_fingerprint,
    }
    return verify(document.encode(), **(standard | expectations))


def failures_of(document: Document, **expectations: Any) -> tuple[str, ...]:
    with pytest.raises(AttestationError) as caught:
        verified(document, **expectations)
    return caught.value.failures
