"""Writing enclave images, and signing them. The same input makes the same bytes.

Sections are in the order of AWS's builder: kernel, command line, metadata, ramdisks, signature.
Everything is read, hashed and written once.
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
from parent.eif.measurement import Measurement
from parent.eif.signature import measure_certificate
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from parent.eif.metadata import Metadata
    from parent.eif.signer import Signer

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
) -> dict[int, bytes]:
    """Write an image.

    Args:
        output: open for writing, seekable, empty.
        kernel: a bzImage (x86_64) or an Image (aarch64), in pieces of any size.
        cmdline: the kernel's command line.
        ramdisks: at least one; the first counts into PCR1, the others into PCR2.
        metadata: what the metadata section says.
        architecture: ``x86_64`` or ``aarch64``.
        default_memory: bytes; written into the header, where nothing is known to read it.
        default_cpus: likewise.
        signer: signs it; None: no signature.
        progress: called with the number of bytes of each piece written.

    Returns:
        PCR0, 1 and 2 of an enclave started from it, and PCR8 if it is signed: 48 bytes each.

    Raises:
        ConfigurationError: a command line or ramdisks that cannot be, or an empty section.
        AgentError: it cannot be signed.
    """
    if not cmdline.isprintable() or len(cmdline.encode()) > MAX_CMDLINE:
        raise ConfigurationError(
            f"the command line is not up to {MAX_CMDLINE} bytes of printable text"
        )
    if not 1 <= len(ramdisks) <= MAX_RAMDISKS:
        raise ConfigurationError(f"{len(ramdisks)} ramdisks; there can be 1 to {MAX_RAMDISKS}")
    contents: list[tuple[SectionType, Iterable[bytes]]] = [
        (SectionType.KERNEL, kernel),
        (SectionType.CMDLINE, [cmdline.encode()]),
        (SectionType.METADATA, [metadata.encode()]),
        *((SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
    measurement = Measurement()
    sections: list[Section] = []
    for kind, content in contents:
        offset = sections[-1].end if sections else HEADER_SIZE
        sections.append(_write_section(output, kind, offset, content, measurement, progress))
        if not sections[-1].size:
            raise ConfigurationError(f"the {kind} is empty")
    header = Header(
        table=tuple((section.offset, section.size) for section in sections),
        flags=FLAG_AARCH64 if architecture == "aarch64" else 0,
        default_memory=default_memory,
        default_cpus=default_cpus,
    )
    return _finish(output, header, sections[-1].end, measurement, signer)


def sign(
    source: IO[bytes],
    output: IO[bytes],
    signer: Signer,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[int, bytes]:
    """Write a signed copy of an image; a signature that is there is replaced.

    Args:
        source: the image: seekable.
        output: open for writing, seekable, empty.
        signer: signs it.
        progress: called with the number of bytes of each piece copied.

    Returns:
        PCR0, 1, 2 and 8 of an enclave started from it: 48 bytes each.

    Raises:
        EifError: it is not an image, is damaged, has its signature before other sections, or has
            flags whose measurement is not published.
        AgentError: it cannot be signed.
    """
    unsigned = image.read(source)
    header = unsigned.header
    if header.reserved_flags:
        raise EifError(
            f"flags {header.flags:#06x}: how these count into PCR0 is not published",
            offset=0,
            hint="sign it with the tool that built it",
        )
    old = unsigned.of_type(SectionType.SIGNATURE)
    if old and old[0].end != unsigned.sections[-1].end:
        raise EifError("the signature is not the last section", offset=old[0].offset)
    kept = unsigned.sections[: -len(old) or None]
    if len(kept) == MAX_SECTIONS:
        raise EifError("no room for a signature in the table", offset=HEADER_SIZE)
    measurement = Measurement()
    for section in kept:
        content = image.chunks(source, section)
        _write_section(output, section.type, section.offset, content, measurement, progress)
    _check_crc(source, unsigned, measurement)
    table = header.table[: len(kept)]
    return _finish(output, replace(header, table=table), kept[-1].end, measurement, signer)


def _check_crc(source: IO[bytes], whole: image.Image, kept: Measurement) -> None:
    measured = kept.copy()
    for section in whole.of_type(SectionType.SIGNATURE):
        measured.begin(section.type)
        for chunk in image.chunks(source, section):
            measured.update(chunk)
        measured.end()
    if measured.digests(image.raw_header(source)).crc != whole.header.crc:
        raise EifError("the CRC is wrong: the file was damaged", offset=HEADER_SIZE)


def _write_section(
    output: IO[bytes],
    type: SectionType,
    offset: int,
    content: Iterable[bytes],
    measurement: Measurement,
    progress: Callable[[int], None] | None,
) -> Section:
    # The size is what was written, not what the source claimed before.
    section = Section(type, offset, 0)
    output.seek(offset)
    output.write(section.encode_header())
    measurement.begin(type)
    size = 0
    for chunk in content:
        output.write(chunk)
        measurement.update(chunk)
        size += len(chunk)
        if progress:
            progress(len(chunk))
    measurement.end()
    section = replace(section, size=size)
    output.seek(offset)
    output.write(section.encode_header())
    return section


def _finish(
    output: IO[bytes], header: Header, end: int, measurement: Measurement, signer: Signer | None
) -> dict[int, bytes]:
    digests = measurement.digests(header.encode())
    pcrs = {0: digests.pcr0, 1: digests.pcr1, 2: digests.pcr2}
    if signer:
        content = [signer.sign(digests.pcr0)]
        section = _write_section(output, SectionType.SIGNATURE, end, content, measurement, None)
        header = replace(header, table=(*header.table, (end, section.size)))
        pcrs[8] = measure_certificate(signer.certificate)
    crc = measurement.digests(header.encode()).crc
    output.seek(0)
    output.write(replace(header, crc=crc).encode())
    return pcrs
