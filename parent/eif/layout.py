"""The headers of an enclave image (EIF), as bytes and as values. No I/O.

Source: aws-nitro-enclaves-image-format, ``src/defs/mod.rs``, which is the only specification.
Everything is big-endian. A file is one header, then sections, each with a header of its own.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

MAGIC = b".eif"
NO_MAGIC = "it does not start with '.eif'"

VERSION = 4
"""Version 2 brought the CRC, 3 the signature section, 4 the metadata section."""

READABLE_VERSIONS = range(2, VERSION + 1)
"""Version 1 has no CRC: nothing says whether such a file is whole."""

MAX_SECTIONS = 32
"""Entries in the header's tables."""

FLAG_AARCH64 = 1

DEFAULT_MEMORY = 1 << 30
"""Bytes that AWS's builder writes as default memory; ``nitro-cli run-enclave`` ignores them."""

DEFAULT_CPUS = 2

_HEADER = struct.Struct(f">4sHHQQHH{MAX_SECTIONS}Q{MAX_SECTIONS}QII")
_SECTION = struct.Struct(">HHQ")

HEADER_SIZE = _HEADER.size
SECTION_HEADER_SIZE = _SECTION.size

CRC_SIZE = 4
"""The CRC-32 ends the header, and covers every byte of the file but its own four."""


class SectionType(enum.IntEnum):
    """What a section holds."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file.

    Attributes:
        table: offset of the section's header and size of its payload, in bytes, per section.
        version: of the format.
        flags: bit 0 is set for aarch64, clear for x86_64; the others are reserved.
        default_memory: in bytes.
        default_cpus: their number.
        crc: CRC-32 (zlib's) of the whole file without these four bytes.
    """

    table: tuple[tuple[int, int], ...] = field(repr=False)
    version: int = VERSION
    flags: int = 0
    default_memory: int = DEFAULT_MEMORY
    default_cpus: int = DEFAULT_CPUS
    crc: int = 0

    @property
    def architecture(self) -> str:
        """``x86_64`` or ``aarch64``."""
        return "aarch64" if self.flags & FLAG_AARCH64 else "x86_64"

    @property
    def reserved_flags(self) -> int:
        """Flags that the specification reserves."""
        return self.flags & ~FLAG_AARCH64

    def encode(self) -> bytes:
        """Return the 548 bytes."""
        padding = (0,) * (MAX_SECTIONS - len(self.table))
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.flags,
            self.default_memory,
            self.default_cpus,
            0,
            len(self.table),
            *(offset for offset, _ in self.table),
            *padding,
            *(size for _, size in self.table),
            *padding,
            0,
            self.crc,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read `HEADER_SIZE` bytes.

        Raises:
            ValueError: they do not start with the magic number, are of another version, or have
                more sections than the table.
        """
        magic, version, flags, memory, cpus, _reserved, count, *tables, _unused, crc = (
            _HEADER.unpack(data)
        )
        if magic != MAGIC:
            raise ValueError(NO_MAGIC)
        if version not in READABLE_VERSIONS:
            raise ValueError(f"version {version}; versions 2 to {VERSION} are known")
        if count > MAX_SECTIONS:
            raise ValueError(f"{count} sections, but the table has room for {MAX_SECTIONS}")
        table = zip(tables[:count], tables[MAX_SECTIONS:][:count], strict=True)
        return cls(tuple(table), version, flags, memory, cpus, crc)


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section is.

    Attributes:
        type: what it holds.
        offset: of its header, in bytes from the start of the file.
        size: of its payload, in bytes.
    """

    type: SectionType
    offset: int
    size: int

    @property
    def start(self) -> int:
        """Offset of the payload."""
        return self.offset + SECTION_HEADER_SIZE

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.start + self.size

    def encode_header(self) -> bytes:
        """Return the 12 bytes before the payload."""
        return _SECTION.pack(self.type, 0, self.size)

    @classmethod
    def decode_header(cls, data: bytes, offset: int) -> Section:
        """Read `SECTION_HEADER_SIZE` bytes that are at `offset`.

        Raises:
            ValueError: the type is unknown, or there are flags, of which none is defined.
        """
        type_, flags, size = _SECTION.unpack(data)
        if type_ not in SectionType.__members__.values():
            raise ValueError(f"unknown section type {type_}")
        if flags:
            raise ValueError(f"unknown section flags {flags:#06x}")
        return cls(SectionType(type_), offset, size)
