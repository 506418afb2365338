"""Writing enclave images, and signing them. The same input makes the same bytes.

Sections stand in the order of AWS's builder: kernel, command line, metadata, ramdisks, signature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import IO, TYPE_CHECKING

from parent.eif import image
from parent.eif.errors import EifError
from parent.eif.layout import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    FLAG_AARCH64,
    HEADER_SIZE,
    MAX_SECTIONS,
    Header,
    Section,
    SectionType,
)
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from parent.eif.metadata import Metadata
    from parent.eif.signature import Signer

MAX_RAMDISKS = MAX_SECTIONS - 4
"""What the header has room for beside kernel, command line, metadata and signature."""

MAX_CMDLINE = 2047
"""Bytes: x86_64 and aarch64 kernels both cut theirs off here (``COMMAND_LINE_SIZE``)."""


def build(
    output: IO[bytes],
    *,
    kernel: Iterable[bytes],
    cmdline: str,
    ramdisks: Sequence[Iterable[bytes]],
    metadata: Metadata,
    architecture: str = "x86_64",
    default_memory: int = DEFAULT_MEMORY,
    default_cpus: int = DEFAULT_CPUS,
    signer: Signer | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write an image.

    Args:
        output: where to: open for reading and writing, seekable, empty.
        kernel: a bzImage (x86_64) or an Image (aarch64), in pieces of any size.
        cmdline: the kernel's command line.
        ramdisks: at least one; the first counts into PCR1, the others into PCR2.
        metadata: what the metadata section says.
        architecture: ``x86_64`` or ``aarch64``.
        default_memory: in bytes; written into the header, where nobody is known to look.
        default_cpus: likewise.
        signer: signs it; None: no signature.
        progress: called with the number of bytes of each piece written.

    Raises:
        ConfigurationError: a command line or ramdisks that cannot be, or an empty section.
    """
    if not cmdline.isprintable() or len(cmdline.encode()) > MAX_CMDLINE:
        raise ConfigurationError(
            f"the command line is not up to {MAX_CMDLINE} bytes of printable text"
        )
    if not 1 <= len(ramdisks) <= MAX_RAMDISKS:
        raise ConfigurationError(f"{len(ramdisks)} ramdisks, where 1 to {MAX_RAMDISKS} can be")
    contents: list[tuple[SectionType, Iterable[bytes]]] = [
        (SectionType.KERNEL, kernel),
        (SectionType.CMDLINE, [cmdline.encode()]),
        (SectionType.METADATA, [metadata.encode()]),
        *((SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
    sections: list[Section] = []
    for kind, content in contents:
        offset = sections[-1].end if sections else HEADER_SIZE
        sections.append(_write_section(output, kind, offset, content, progress))
        if not sections[-1].size:
            raise ConfigurationError(f"the {kind} is empty")
    header = Header(
        table=tuple((section.offset, section.size) for section in sections),
        flags=FLAG_AARCH64 if architecture == "aarch64" else 0,
        default_memory=default_memory,
        default_cpus=default_cpus,
    )
    _write_header(output, header)
    if signer:
        sign(output, signer)


def sign(stream: IO[bytes], signer: Signer) -> None:
    """Sign an image in place; a signature that is there is replaced.

    Args:
        stream: the image: open for reading and writing, seekable. Where this fails it is left in
            any state, so let it be a copy.
        signer: signs it.

    Raises:
        EifError: it is not an image, is damaged, or has its signature before other sections.
    """
    unsigned = image.read(stream)
    digests = image.digest(stream, unsigned)
    if digests.crc != unsigned.header.crc:
        raise EifError("the CRC is wrong: the file was damaged", offset=HEADER_SIZE)
    end, table = unsigned.sections[-1].end, unsigned.header.table
    for old in unsigned.of_type(SectionType.SIGNATURE):
        if old.end != end:
            raise EifError("the signature is not the last section", offset=old.offset)
        end, table = old.offset, table[:-1]
    if len(table) == MAX_SECTIONS:
        raise EifError("no room for a signature in the table", offset=HEADER_SIZE)
    stream.truncate(end)
    section = _write_section(
        stream, SectionType.SIGNATURE, end, [signer.sign(digests.pcr0)], progress=None
    )
    _write_header(stream, replace(unsigned.header, table=(*table, (end, section.size))))


def _write_section(
    output: IO[bytes],
    type: SectionType,
    offset: int,
    content: Iterable[bytes],
    progress: Callable[[int], None] | None,
) -> Section:
    # The size is what was written, not what somebody said it would be.
    section = Section(type, offset, 0)
    output.seek(offset)
    output.write(section.encode_header())
    size = 0
    for chunk in content:
        output.write(chunk)
        size += len(chunk)
        if progress:
            progress(len(chunk))
    section = replace(section, size=size)
    output.seek(offset)
    output.write(section.encode_header())
    return section


def _write_header(output: IO[bytes], header: Header) -> None:
    output.seek(0)
    output.write(header.encode())
    written = image.read(output)
    crc = image.digest(output, written).crc
    output.seek(0)
    output.write(replace(header, crc=crc).encode())
