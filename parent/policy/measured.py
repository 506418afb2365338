"""What an enclave measures, from any of the places that say so. Pure.

Nothing is proven here: an attestation document's signature is not looked at. What a policy is
written from must come from a build that is trusted, or be compared with one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import cbor2

from parent.policy.language import IMAGE_KEY, PolicyError, pcr_key

PCR_SIZE = 48
"""Bytes in a PCR: SHA-384."""

PCR_COUNT = 32

MAX_DOCUMENT = 64 * 1024
"""Bytes in an attestation document (5 KB are usual), or in nitro-cli's JSON."""

_TAG_SIGN1 = 18


@dataclass(frozen=True, slots=True)
class Measured:
    """PCRs of one enclave.

    Attributes:
        pcrs: by index in 0..31, 48 bytes each.
        origin: where they are from, in words.
    """

    pcrs: dict[int, bytes] = field(hash=False)
    origin: str

    @property
    def is_debug(self) -> bool:
        """Whether PCR0-2 are zero, as in debug mode: nothing says what runs in there."""
        return not any(any(self.pcrs.get(index, b"")) for index in (0, 1, 2))

    def context(self) -> dict[str, str]:
        """Return the condition keys of a request from that enclave, by name in lower case."""
        context = {pcr_key(index).lower(): value.hex() for index, value in self.pcrs.items()}
        if 0 in self.pcrs:
            context[IMAGE_KEY.lower()] = self.pcrs[0].hex()
        return context


def parse(data: bytes) -> Measured:
    """Read an attestation document (CBOR, or base64 of it), or JSON of ``nitro-cli``.

    Of nitro-cli's it may be what ``build-enclave``, ``describe-eif`` or ``describe-enclaves``
    prints; of several enclaves, the first.

    Raises:
        PolicyError: it is neither.
    """
    if len(data) > MAX_DOCUMENT:
        raise PolicyError(f"measurements of more than {MAX_DOCUMENT} bytes")
    stripped = data.strip()
    if stripped[:1] in (b"{", b"["):
        return _from_json(stripped)
    with contextlib.suppress(binascii.Error):  # Then it is the document itself.
        data = base64.b64decode(stripped, validate=True)
    return _from_document(data)


def with_parent(measured: Measured, *, role: str | None, instance: str | None) -> Measured:
    """Add what the parent instance puts into PCR3 and PCR4.

    Source: Nitro Enclaves User Guide, "Where to get an enclave's measurements".

    Args:
        measured: what the image measures.
        role: ARN of the parent's IAM role, for PCR3.
        instance: id of the parent, for PCR4.
    """
    pcrs = dict(measured.pcrs)
    for index, text in ((3, role), (4, instance)):
        if text:
            pcrs[index] = hashlib.sha384(bytes(PCR_SIZE) + text.encode()).digest()
    return Measured(pcrs, measured.origin)


def _from_json(data: bytes) -> Measured:
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise PolicyError("the measurements are not JSON, though they begin like it") from None
    if isinstance(document, list) and document:
        document = document[0]
    named = document.get("Measurements") if isinstance(document, dict) else None
    if not isinstance(named, dict):
        raise PolicyError("no Measurements in the JSON, as nitro-cli writes them")
    pcrs = {}
    for name, value in named.items():
        index = re.fullmatch(r"PCR([0-9]|[12][0-9]|3[01])", name)
        if index:
            if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{96}", value):
                raise PolicyError(f"{name} is not {PCR_SIZE} bytes in hexadecimal")
            pcrs[int(index[1])] = bytes.fromhex(value)
    return _measured(pcrs, "nitro-cli's JSON")


def _from_document(data: bytes) -> Measured:
    try:
        outer = cbor2.loads(data)
        if isinstance(outer, cbor2.CBORTag) and outer.tag == _TAG_SIGN1:
            outer = outer.value
        payload = cbor2.loads(outer[2])
        pcrs = dict(payload["pcrs"])
        module_id = str(payload["module_id"])
    except Exception:  # noqa: BLE001 (a full CBOR decoder, and shapes that nobody checked yet)
        raise PolicyError(
            "neither an attestation document, nor JSON of nitro-cli, nor an enclave image"
        ) from None
    if not all(
        type(index) is int
        and index in range(PCR_COUNT)
        and isinstance(value, bytes)
        and len(value) == PCR_SIZE
        for index, value in pcrs.items()
    ):
        raise PolicyError("PCRs in the attestation document are not of SHA-384")
    shown = module_id if module_id.isprintable() else "?"
    return _measured(pcrs, f"attestation document of {shown:.80}")


def _measured(pcrs: dict[int, bytes], origin: str) -> Measured:
    if 0 not in pcrs:
        raise PolicyError(f"no PCR0 in {origin}")
    return Measured(dict(sorted(pcrs.items())), origin)
