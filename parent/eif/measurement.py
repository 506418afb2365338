"""What an image measures, computed while its bytes go by: each is hashed once for each PCR. No I/O.

PCR0-2 as in aws-nitro-enclaves-image-format, ``EifReader::from_eif`` and ``get_pcrs``, whose
README is the specification: the header is not measured, and all its flags but that of the
architecture are reserved. docs/adr/0014 tells of builders that set others.
"""

from __future__ import annotations

import copy
import hashlib
import zlib
from dataclasses import dataclass, field

from parent.eif.layout import CRC_SIZE, Section, SectionType

PCR_SIZE = 48
"""Bytes in a PCR: SHA-384."""

PLAIN_RULE = "sections"
"""The published rule: PCR0 is of the sections alone."""

_FLAG_RULES = (
    ("flags before sections, big-endian", "big", True),
    ("flags before sections, little-endian", "little", True),
    ("flags after sections, big-endian", "big", False),
    ("flags after sections, little-endian", "little", False),
)
"""The forms in which the 16 flags of a header could count into PCR0."""

_MEASURED = (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)
_CRC_POLYNOMIAL = 0xEDB88320


@dataclass(frozen=True, slots=True)
class Digests:
    """What the bytes of an image yield.

    Attributes:
        pcr0: of kernel, command line and all ramdisks; 48 bytes, as the next two.
        pcr1: of kernel, command line and the first ramdisk.
        pcr2: of the other ramdisks.
        crc: what the header's CRC should be.
        with_flags: what PCR0 would be if the header's flags counted, by the name of the rule;
            only for images with flags that the published rule does not know.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    crc: int
    with_flags: dict[str, bytes] = field(default_factory=dict, hash=False)


class Measurement:
    """Takes the sections of an image in their order, then tells what they measure.

    The header, which is first in a file and known last, is not needed before the end: its CRC is
    combined with that of what follows it.

    Args:
        flags: of the header, where they are to be counted into PCR0 as well, by every rule.
    """

    def __init__(self, flags: int | None = None) -> None:
        self._flags = flags
        self._whole = hashlib.sha384()
        self._prefixed = {
            name: hashlib.sha384(flags.to_bytes(2, order))  # type: ignore[arg-type]
            for name, order, is_before in _FLAG_RULES
            if flags is not None and is_before
        }
        self._boot: hashlib._Hash | None = None
        self._application = hashlib.sha384()
        self._crc = self._size = 0
        self._type = SectionType.METADATA
        self._section_crc = self._section_size = 0

    def begin(self, type: SectionType) -> None:
        """Begin a section."""
        self._type = type
        self._section_crc = self._section_size = 0

    def update(self, data: bytes) -> None:
        """Take a piece of the section's payload."""
        self._section_crc = zlib.crc32(data, self._section_crc)
        self._section_size += len(data)
        if self._type not in _MEASURED:
            return
        self._whole.update(data)
        for each in self._prefixed.values():
            each.update(data)
        if self._boot is not None:
            self._application.update(data)

    def end(self) -> None:
        """End the section."""
        header = Section(self._type, 0, self._section_size).encode_header()
        self._crc = combine_crc(
            zlib.crc32(header, self._crc), self._section_crc, self._section_size
        )
        self._size += len(header) + self._section_size
        if self._type is SectionType.RAMDISK and self._boot is None:
            # PCR0 and PCR1 are of the same bytes up to here.
            self._boot = self._whole.copy()

    def copy(self) -> Measurement:
        """Return a copy, which goes its own way."""
        return copy.deepcopy(self, {id(each): each.copy() for each in self._hashes()})

    def _hashes(self) -> list[hashlib._Hash]:
        found = [self._whole, self._application, *self._prefixed.values()]
        return [*found, self._boot] if self._boot is not None else found

    def digests(self, header: bytes) -> Digests:
        """Return what was measured, once all sections have ended.

        Args:
            header: as it is in the file; its CRC does not count.
        """
        head = zlib.crc32(header[:-CRC_SIZE])
        boot = self._boot or self._whole
        return Digests(
            extend(self._whole.digest()),
            extend(boot.digest()),
            extend(self._application.digest()),
            combine_crc(head, self._crc, self._size),
            dict(self._rules()),
        )

    def _rules(self) -> list[tuple[str, bytes]]:
        if self._flags is None:
            return []
        found = []
        for name, order, is_before in _FLAG_RULES:
            whole = self._prefixed[name] if is_before else self._whole.copy()
            if not is_before:
                whole.update(self._flags.to_bytes(2, order))  # type: ignore[arg-type]
            found.append((name, extend(whole.digest())))
        return found


def extend(measurement: bytes) -> bytes:
    """Extend a PCR that is all zero, as it is at boot: SHA-384(48 zero bytes || measurement)."""
    return hashlib.sha384(bytes(PCR_SIZE) + measurement).digest()


def combine_crc(first: int, second: int, size: int) -> int:
    """Return the CRC-32 of two byte strings, one after the other, from the CRC of each.

    As zlib's ``crc32_combine``, which Python does not offer.

    Args:
        first: CRC of what comes first.
        second: CRC of what follows.
        size: bytes in what follows.
    """
    power, factor = 1 << 31, 1 << 23  # x^0 and x^8: the lowest bit is the highest power.
    while size:
        if size & 1:
            power = _multiply(power, factor)
        factor = _multiply(factor, factor)
        size >>= 1
    return _multiply(power, first) ^ second


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials modulo the CRC's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (_CRC_POLYNOMIAL if b & 1 else 0)
    return product
