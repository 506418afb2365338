"""Reading an enclave image: where its sections are, and what it measures.

An image comes from anywhere, so it is read as an enemy's. AWS's reader walks the section headers
and ignores the header's table; QEMU's (``hw/core/eif.c``) follows the table; what the Nitro
hypervisor does is not public. A file on which the two would disagree is refused here, so that
everybody who loads what passes measures the same: sections follow one another without gaps, in
the order of the table, to the end of the file.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, TYPE_CHECKING

from parent.eif.errors import EifError
from parent.eif.layout import (
    CRC_SIZE,
    HEADER_SIZE,
    SECTION_HEADER_SIZE,
    Header,
    Section,
    SectionType,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 20
"""Bytes held at a time: an image of hundreds of megabytes is never in memory."""

PCR_SIZE = 48
"""Bytes in a PCR: SHA-384."""

MAX_SMALL_SECTION = 1 << 20
"""Bytes in a metadata or signature section. Real ones have a few ten thousand (metadata holds
what ``docker inspect`` says) and a few thousand."""

_SMALL = (SectionType.METADATA, SectionType.SIGNATURE)
_MEASURED = (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)


@dataclass(frozen=True, slots=True)
class Image:
    """A file's structure.

    Attributes:
        header: as it stands in the file.
        sections: in the order of the file.
    """

    header: Header
    sections: tuple[Section, ...]

    def of_type(self, type: SectionType) -> tuple[Section, ...]:
        """Return the sections of one type, in the order of the file."""
        return tuple(section for section in self.sections if section.type is type)

    def small(self, stream: IO[bytes], type: SectionType) -> tuple[bytes, int] | None:
        """Return the payload of the metadata or signature section, and its offset; or None.

        Raises:
            EifError: the file has become shorter since it was read.
        """
        found = self.of_type(type)
        if not found:
            return None
        return b"".join(chunks(stream, found[0])), found[0].start


def read(stream: IO[bytes]) -> Image:
    """Read the structure of an image, which touches its headers only.

    Args:
        stream: seekable, from its start.

    Raises:
        EifError: it is not an image, or means different things to different readers.
    """
    size = stream.seek(0, io.SEEK_END)
    try:
        header = Header.decode(_exactly(stream, 0, HEADER_SIZE))
    except ValueError as e:
        raise EifError(str(e), offset=0) from None
    sections = []
    expected = HEADER_SIZE
    for index, (offset, table_size) in enumerate(header.table):
        if offset != expected:
            raise EifError(
                f"section {index} is said to start at {offset}, not at {expected}, where the "
                "one before it ends",
                offset=expected,
            )
        try:
            section = Section.decode_header(_exactly(stream, offset, SECTION_HEADER_SIZE), offset)
        except ValueError as e:
            raise EifError(str(e), offset=offset) from None
        _check_size(section, table_size, size)
        sections.append(section)
        expected = section.end
    if expected != size:
        raise EifError(f"{size - expected} bytes after the last section", offset=expected)
    image = Image(header, tuple(sections))
    _check_kinds(image)
    return image


def _check_size(section: Section, table_size: int, file_size: int) -> None:
    # `nitro-cli sign-eif` replaces a signature and leaves its old size in the table
    # (eif_signer.rs, write_signature). A signature is not measured, so that is let pass.
    if section.size != table_size and section.type is not SectionType.SIGNATURE:
        raise EifError(
            f"the {section.type} section has {section.size} bytes in its own header and "
            f"{table_size} in the file's",
            offset=section.offset,
        )
    if section.size > file_size - section.start:
        raise EifError(
            f"the {section.type} section of {section.size} bytes goes past the end of the file",
            offset=section.offset,
        )
    if section.type in _SMALL and section.size > MAX_SMALL_SECTION:
        raise EifError(
            f"a {section.type} section of {section.size} bytes, over {MAX_SMALL_SECTION}",
            offset=section.offset,
        )


def _check_kinds(image: Image) -> None:
    for kind in SectionType:
        found = image.of_type(kind)
        if kind in _MEASURED and not found:
            raise EifError(f"no {kind} section", offset=HEADER_SIZE)
        if kind is not SectionType.RAMDISK and len(found) > 1:
            raise EifError(f"a second {kind} section", offset=found[1].offset)
    # PCRs are hashes of the sections one after the other. Every builder writes this order, and
    # what a loader makes of another is a guess.
    measured = [section for section in image.sections if section.type in _MEASURED]
    for before, section in pairwise(measured):
        if section.type < before.type:
            raise EifError(f"a {section.type} after a {before.type}", offset=section.offset)


@dataclass(frozen=True, slots=True)
class Digests:
    """What reading all of an image yields.

    Attributes:
        pcr0: of kernel, command line and all ramdisks; 48 bytes, as the next two.
        pcr1: of kernel, command line and the first ramdisk.
        pcr2: of the other ramdisks.
        crc: what the header's CRC should be.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    crc: int


def digest(
    stream: IO[bytes], image: Image, *, progress: Callable[[int], None] | None = None
) -> Digests:
    """Read all of an image once, and compute its PCRs and its CRC.

    PCR0-2 as in aws-nitro-enclaves-image-format, ``EifReader::from_eif`` and ``get_pcrs``.

    Args:
        stream: what `image` was read from.
        image: its structure.
        progress: called with the number of bytes of each piece read.

    Raises:
        EifError: the file has become shorter since its structure was read.
    """
    whole, boot, application = hashlib.sha384(), hashlib.sha384(), hashlib.sha384()
    crc = zlib.crc32(_exactly(stream, 0, HEADER_SIZE)[:-CRC_SIZE])
    first_ramdisk = image.of_type(SectionType.RAMDISK)[0]
    for section in image.sections:
        crc = zlib.crc32(_exactly(stream, section.offset, SECTION_HEADER_SIZE), crc)
        hashes = []
        if section.type in _MEASURED:
            is_boot = section.type is not SectionType.RAMDISK or section is first_ramdisk
            hashes = [whole, boot if is_boot else application]
        for chunk in chunks(stream, section):
            crc = zlib.crc32(chunk, crc)
            for each in hashes:
                each.update(chunk)
            if progress:
                progress(len(chunk))
    return Digests(extend(whole.digest()), extend(boot.digest()), extend(application.digest()), crc)


def extend(measurement: bytes) -> bytes:
    """Extend a PCR that is all zero, as it is at boot: SHA-384(48 zero bytes || measurement)."""
    return hashlib.sha384(bytes(PCR_SIZE) + measurement).digest()


def chunks(stream: IO[bytes], section: Section) -> Iterator[bytes]:
    """Yield the payload of a section, `CHUNK` bytes at a time.

    Raises:
        EifError: the file has become shorter since its structure was read.
    """
    for start in range(section.start, section.end, CHUNK):
        yield _exactly(stream, start, min(CHUNK, section.end - start))


def _exactly(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise EifError(f"cut short: {size} bytes were to be read", offset=offset)
    return data
