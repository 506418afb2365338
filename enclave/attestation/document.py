"""Attestation documents, parsed (AWS, "Verifying the root of trust"; RFC 9052). No I/O.

Parsing proves nothing: `enclave.attestation.verify` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from enclave import cbor
from enclave.errors import DecodingError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "attestation document"

MAX_DOCUMENT = 32 * 1024
"""Bytes in a document. Real ones have 4.4 to 5.2 KB and an NSM response at most 12 KiB, so this
leaves room for a larger NSM; KMS takes up to 262144, which no NSM could give."""

PROTECTED_HEADER = bytes.fromhex("a1013822")
"""``{1: -35}``: the algorithm is ES384, and nothing else is a parameter."""

SIGNATURE_SIZE = 96
"""Bytes in an ES384 signature: r and s on P-384."""

MAX_CERTIFICATES = 10
"""Certificates in the cabundle; AWS's holds 4."""

PCR_COUNT = 32
"""PCRs of an NSM."""

NITROTPM_PCR_COUNT = 24
"""PCRs of a NitroTPM, as of every TPM for PCs (TCG PC Client Platform TPM Profile)."""

PCR_SIZE = 48
"""Bytes in a PCR: the NSM and the NitroTPM's attestation measure with SHA-384."""

MAX_FIELD = 1024
"""Bytes in each of public_key, user_data and nonce. AWS's text says 512 of the last two in one
place and 1024 in another; AWS's own ``nsm-check`` sends 1024 in all three."""

MAX_CERTIFICATE = 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # The last millisecond of the year 9999, where datetime ends.
_COSE_SIGN1_TAG = b"\xd2"  # Tag 18. The NSM leaves it out; some tools put it on.


@dataclass(frozen=True, slots=True)
class AttestationDocument:
    """The fields of a document.

    Attributes:
        platform: ``enclave`` or ``instance``, by which PCRs the document lists.
        module_id: the enclave, for example ``i-0827e799ec9232d44-enc019b5640fdf630d6``, or the
            NitroTPM, for example ``i-000fa553dad58a9f1-tpm0000000000000000``.
        timestamp: when it was made, in UTC, to the millisecond.
        digest: ``SHA384``.
        pcrs: an enclave's LOCKED PCRs, by index in 0..31, 48 bytes each; empty for an instance.
        nitrotpm_pcrs: an instance's PCRs, by index in 0..23, 48 bytes each; empty for an enclave,
            since the same number means something else there.
        certificate: DER; its key signed the document.
        cabundle: DER, the root first, the issuer of `certificate` last.
        public_key: as it was given to the NSM, or None; so `user_data` and `nonce`.
        payload: the signed bytes, from which all of the above was read.
        signature: r and s, 48 bytes each.
        raw: the whole document.
    """

    platform: str
    module_id: str
    timestamp: datetime
    digest: str
    pcrs: Mapping[int, bytes] = field(repr=False, hash=False)
    nitrotpm_pcrs: Mapping[int, bytes] = field(repr=False, hash=False)
    certificate: bytes = field(repr=False)
    cabundle: tuple[bytes, ...] = field(repr=False)
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def is_debug(self) -> bool:
        """Whether an enclave's PCR0, PCR1 and PCR2 are all zero (or not there): nothing was
        measured, as in debug mode, where the parent reads the enclave's console. An instance has
        no such mode.
        """
        return self.platform == "enclave" and not any(
            any(self.pcrs.get(index, b"")) for index in (0, 1, 2)
        )


def parse(data: bytes) -> AttestationDocument:
    """Parse a document, with or without COSE's tag 18.

    Raises:
        DecodingError: it is none, with the offset where one is known.
    """
    if not 0 < len(data) <= MAX_DOCUMENT:
        raise DecodingError(FORMAT, f"{len(data)} bytes, not 1..{MAX_DOCUMENT}")
    untagged = data.removeprefix(_COSE_SIGN1_TAG)
    match cbor.decode(untagged, format=FORMAT, offset=len(data) - len(untagged)):
        case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
            pass
        case _:
            raise DecodingError(FORMAT, "not a COSE_Sign1 array of four", offset=0)
    if protected != PROTECTED_HEADER:
        raise DecodingError(FORMAT, f"the protected header is {protected[:32].hex()}, not ES384's")
    if unprotected:
        raise DecodingError(FORMAT, "the unprotected header is not empty")
    if len(signature) != SIGNATURE_SIZE:
        raise DecodingError(
            FORMAT, f"the signature is {len(signature)} bytes, not {SIGNATURE_SIZE}"
        )
    values = cbor.decode(payload, format=FORMAT, offset=data.index(payload))
    if not isinstance(values, dict):
        raise DecodingError(FORMAT, "the payload is not a map")
    # Which PCRs are there decides what the document is about; a null counts as being there.
    listed = [name for name in _PCRS if name in values]
    if len(listed) != 1:
        which = "both pcrs and nitrotpm_pcrs" if listed else "neither pcrs nor nitrotpm_pcrs"
        raise DecodingError(FORMAT, f"the payload has {which}")
    [name] = listed
    platform, shape = _PCRS[name]
    try:
        fields = cbor.take(values, {**_SHAPES, name: shape})
    except ValueError as e:
        raise DecodingError(FORMAT, str(e)) from None
    no_pcrs: Mapping[str, Mapping[int, bytes]] = dict.fromkeys(_PCRS, MappingProxyType({}))
    return AttestationDocument(
        **{**no_pcrs, **fields},
        platform=platform,
        payload=payload,
        signature=signature,
        raw=data,
    )


def _digest(value: object) -> str:
    if value == "SHA384":
        return "SHA384"
    raise ValueError("SHA384")


def _timestamp(value: object) -> datetime:
    return _EPOCH + timedelta(milliseconds=cbor.number(_LAST_MS)(value))


def _pcrs(value: object, count: int) -> Mapping[int, bytes]:
    index, pcr = cbor.number(count - 1), cbor.data(PCR_SIZE, PCR_SIZE)
    if isinstance(value, dict) and value:
        return MappingProxyType({index(key): pcr(item) for key, item in value.items()})
    raise ValueError("a map of PCRs")


_certificate = cbor.data(1, MAX_CERTIFICATE)


def _cabundle(value: object) -> tuple[bytes, ...]:
    if isinstance(value, list) and 0 < len(value) <= MAX_CERTIFICATES:
        return tuple(_certificate(item) for item in value)
    raise ValueError(f"a list of 1..{MAX_CERTIFICATES} certificates")


def _given(value: object) -> bytes | None:
    # AWS's text wants at least one byte in some, but real documents have empty user_data.
    return None if value is None else cbor.data(0, MAX_FIELD)(value)


_PCRS: Mapping[str, tuple[str, cbor.Shape]] = {
    "pcrs": ("enclave", partial(_pcrs, count=PCR_COUNT)),
    "nitrotpm_pcrs": ("instance", partial(_pcrs, count=NITROTPM_PCR_COUNT)),
}
"""The field that lists the PCRs: the platform it belongs to, and its shape."""

_SHAPES: Mapping[str, cbor.Shape] = {
    "module_id": cbor.text,
    "timestamp": _timestamp,
    "digest": _digest,
    "certificate": _certificate,
    "cabundle": _cabundle,
    "public_key": _given,
    "user_data": _given,
    "nonce": _given,
}
