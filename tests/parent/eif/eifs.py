"""Enclave images made by hand with `struct`, sharing nothing with the code under test."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5

TELLING: dict[str, Any] = {
    "ImageName": "sample",
    "ImageVersion": "1.0",
    "BuildMetadata": {
        "BuildTime": "2026-01-02T03:04:05+00:00",
        "BuildTool": "by hand",
        "BuildToolVersion": "0",
        "OperatingSystem": "Linux",
        "KernelVersion": "6.12",
    },
    "DockerInfo": {"b": 1, "a": [2.5, None]},
    "CustomMetadata": {"team": "x", "BuildTool": "no such luck"},
}

SECTIONS: list[tuple[int, bytes]] = [
    (KERNEL, b"kernel" * 9),
    (CMDLINE, b"console=ttyS0"),
    (METADATA, json.dumps(TELLING).encode()),
    (RAMDISK, b"boot" * 11),
    (RAMDISK, b"application" * 7),
]


def eif(sections: list[tuple[int, bytes]] | None = None, version: int = 4, flags: int = 0) -> bytes:
    """Lay out a file."""
    body, offsets, sizes = b"", [], []
    for type_, payload in SECTIONS if sections is None else sections:
        offsets.append(548 + len(body))
        sizes.append(len(payload))
        body += struct.pack(">HHQ", type_, 0, len(payload)) + payload
    empty = [0] * (32 - len(offsets))
    head = b".eif" + struct.pack(">HHQQHH", version, flags, 1 << 30, 2, 0, len(offsets))
    head += struct.pack(">32Q", *offsets, *empty) + struct.pack(">32Q", *sizes, *empty)
    head += struct.pack(">I", 0)
    return head + struct.pack(">I", zlib.crc32(head + body)) + body


def pcr(*parts: bytes) -> bytes:
    """What a PCR is that was extended once, with the hash of the parts."""
    return hashlib.sha384(b"\0" * 48 + hashlib.sha384(b"".join(parts)).digest()).digest()


def pcrs(sections: list[tuple[int, bytes]] | None = None) -> dict[int, bytes]:
    """PCR0 to 2 of a file of these sections, by the book."""
    found = SECTIONS if sections is None else sections
    kernel, cmdline = (dict(found)[KERNEL], dict(found)[CMDLINE])
    first, *others = [payload for type_, payload in found if type_ == RAMDISK]
    return {
        0: pcr(kernel, cmdline, first, *others),
        1: pcr(kernel, cmdline, first),
        2: pcr(*others),
    }


def signature(
    pcr0: bytes, pem: bytes, key: ec.EllipticCurvePrivateKey, protected: bytes = b"\xa1\x01\x38\x22"
) -> bytes:
    """A signature section, for a key on P-384."""
    payload = cbor2.dumps({"register_index": 0, "register_value": list(pcr0)})
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(to_be_signed, ec.ECDSA(hashes.SHA384())))
    cose = cbor2.dumps([protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])
    return cbor2.dumps([{"signing_certificate": list(pem), "signature": list(cose)}])
