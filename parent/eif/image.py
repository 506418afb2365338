"""Reading an enclave image: where its sections are, and what it measures.

An image is untrusted input. AWS's reader walks the section headers and ignores the header's table;
QEMU's (``hw/core/eif.c``) follows the table; what the Nitro hypervisor does is not public. A file
that the two would read differently is rejected here, so that every loader measures the same:
sections follow one another without gaps, in the order of the table, to the end of the file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, TYPE_CHECKING

from parent.eif.errors import EifError
from parent.eif.layout import (
    HEADER_SIZE,
    MAGIC,
    NO_MAGIC,
    SECTION_HEADER_SIZE,
    Header,
    Section,
    SectionType,
)
from parent.eif.measurement import Digests, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 20
"""Bytes held at a time: an image of hundreds of megabytes is never in memory."""

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
    if 0 < size < HEADER_SIZE:
        # A small file of another kind is not cut short.
        stream.seek(0)
        if not MAGIC.startswith(stream.read(len(MAGIC))):
            raise EifError(NO_MAGIC, offset=0)
    try:
        header = Header.decode(_exactly(stream, 0, HEADER_SIZE))
    except ValueError as e:
        raise EifError(str(e), offset=0) from None
    sections = []
    expected = HEADER_SIZE
    for index, (offset, table_size) in enumerate(header.table):
        if offset != expected:
            raise EifError(
                f"section {index} starts at {offset} by the header's table, but the one before it "
                f"ends at {expected}",
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
    # (eif_signer.rs, write_signature). A signature is not measured, so that is accepted.
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
            f"a {section.type} section of {section.size} bytes; it has at most {MAX_SMALL_SECTION}",
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


def digest(
    stream: IO[bytes], image: Image, *, progress: Callable[[int], None] | None = None
) -> Digests:
    """Read all of an image once, and compute its PCRs and its CRC.

    Args:
        stream: what `image` was read from.
        image: its structure.
        progress: called with the number of bytes of each piece read.

    Raises:
        EifError: the file has become shorter since its structure was read.
    """
    measurement = Measurement(image.header.flags if image.header.reserved_flags else None)
    for section in image.sections:
        measurement.begin(section.type)
        for chunk in chunks(stream, section):
            measurement.update(chunk)
            if progress:
                progress(len(chunk))
        measurement.end()
    return measurement.digests(raw_header(stream))


def chunks(stream: IO[bytes], section: Section) -> Iterator[bytes]:
    """Yield the payload of a section, `CHUNK` bytes at a time.

    Raises:
        EifError: the file has become shorter since its structure was read.
    """
    for start in range(section.start, section.end, CHUNK):
        yield _exactly(stream, start, min(CHUNK, section.end - start))


def raw_header(stream: IO[bytes]) -> bytes:
    """Return the header of an image as it is in the file.

    Raises:
        EifError: the file is shorter.
    """
    return _exactly(stream, 0, HEADER_SIZE)


def _exactly(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise EifError(f"cut short: {size} bytes were to be read", offset=offset)
    return data
