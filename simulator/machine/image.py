"""An EIF, taken apart into what QEMU boots."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from parent.eif import describe
from parent.eif.errors import EifError
from parent.eif.image import chunks
from parent.eif.layout import SectionType
from simulator.machine.boot import Image
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from parent.eif.describe import Description

_MAX_CMDLINE = 4096
"""Bytes; x86 kernels take 2048."""


def unpack(path: Path, into: Path) -> tuple[Image, dict[int, bytes]]:
    """Check an image and write its kernel and ramdisks out.

    Args:
        path: the EIF.
        into: a folder.

    Returns:
        What boots, and PCR0, 1 and 2, and 8 where the image is signed.

    Raises:
        EifError: it is no image, is damaged, or its signature does not vouch for it.
        ConfigurationError: it cannot be read, or is for another architecture.
    """
    try:
        with path.open("rb") as stream:
            description = describe.check(stream, at=datetime.now(UTC))
            _check(description)
            read = description.image
            kernel, ramdisk = into / "kernel", into / "ramdisk"
            with kernel.open("wb") as output:
                output.writelines(chunks(stream, read.of_type(SectionType.KERNEL)[0]))
            with ramdisk.open("wb") as output:
                for section in read.of_type(SectionType.RAMDISK):
                    output.writelines(chunks(stream, section))
                    # An uncompressed archive begins at a multiple of 4, and zeros between are
                    # skipped (Linux, driver-api/early-userspace/buffer-format.rst).
                    output.write(bytes(-output.tell() % 4))
            cmdline = b"".join(chunks(stream, read.of_type(SectionType.CMDLINE)[0]))
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e
    return Image(kernel=kernel, ramdisk=ramdisk, cmdline=_text(cmdline)), description.pcrs


def _check(description: Description) -> None:
    architecture = description.image.header.architecture
    if architecture != "x86_64":
        raise ConfigurationError(f"an image for {architecture}: only those for x86_64 boot here")
    (cmdline,) = description.image.of_type(SectionType.CMDLINE)
    if cmdline.size > _MAX_CMDLINE:
        raise EifError(f"a command line of {cmdline.size} bytes", offset=cmdline.offset)


def _text(cmdline: bytes) -> str:
    text = cmdline.rstrip(b"\0\n").decode(errors="surrogateescape")
    if "\0" in text:
        raise ConfigurationError("the image's command line has a NUL in it")
    return text
