"""Checks an EIF and unpacks it into the files that QEMU boots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384

from parent.eif import describe
from parent.eif.errors import EifError
from parent.eif.image import chunks
from parent.eif.layout import SectionType
from parent.eif.measurement import extend
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

MIN_MEMORY = 1024
"""MiB that every image gets."""

_MEMORY_PER_IMAGE = 4
"""nitro-cli's rule: an enclave has at least four times its image, which it unpacks in memory."""

_MAX_CMDLINE = 4096
"""Bytes; x86 kernels take 2048."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The files that QEMU boots.

    Attributes:
        kernel: a bzImage or vmlinux, or an Image of aarch64.
        ramdisk: all ramdisks, one after the other.
        cmdline: the kernel's command line.
    """

    kernel: Path
    ramdisk: Path
    cmdline: str


class CheckedImage:
    """An image that passed its checks.

    Attributes:
        pcrs: PCR0, 1 and 2, and 8 if it is signed: 48 bytes each.
        memory: MiB that it should have.
        architecture: ``x86_64`` or ``aarch64``.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Read all of it. The stream is seekable, and stays open as long as this is used.

        Raises:
            EifError: it is not an image, is damaged, or its signature is invalid.
            ConfigurationError: its command line contains a NUL.
        """
        description = describe.check(stream, at=datetime.now(UTC))
        self._stream = stream
        self._image = description.image
        self.pcrs = description.pcrs
        size = stream.seek(0, 2)
        self.memory = max(MIN_MEMORY, -(-size * _MEMORY_PER_IMAGE >> 20))
        self.architecture = self._image.header.architecture
        (cmdline,) = self._image.of_type(SectionType.CMDLINE)
        if cmdline.size > _MAX_CMDLINE:
            raise EifError(f"a command line of {cmdline.size} bytes", offset=cmdline.offset)
        self._cmdline = _text(b"".join(chunks(stream, cmdline)))

    def unpack(self, into: Path) -> Parts:
        """Write kernel and ramdisks into a folder.

        Raises:
            EifError: the file has become shorter.
            ConfigurationError: the folder cannot be written to.
        """
        kernel, ramdisk = into / "kernel", into / "ramdisk"
        try:
            with kernel.open("wb") as output:
                output.writelines(chunks(self._stream, self._image.of_type(SectionType.KERNEL)[0]))
            with ramdisk.open("wb") as output:
                for section in self._image.of_type(SectionType.RAMDISK):
                    output.writelines(chunks(self._stream, section))
                    # An uncompressed archive begins at a multiple of 4, and zeros between are
                    # skipped (Linux, driver-api/early-userspace/buffer-format.rst).
                    output.write(bytes(-output.tell() % 4))
        except OSError as e:
            raise ConfigurationError(f"cannot unpack the image: {e.strerror}") from e
        return Parts(kernel=kernel, ramdisk=ramdisk, cmdline=self._cmdline)


def measure_certificate(pem: bytes) -> bytes:
    """Return the PCR8 of an image signed with a certificate: 48 bytes.

    Raises:
        ConfigurationError: it is not a certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except Exception as e:  # cryptography documents no list of what it raises
        raise ConfigurationError("the signing certificate is not a certificate in PEM") from e
    return extend(certificate.fingerprint(SHA384()))


def _text(cmdline: bytes) -> str:
    text = cmdline.rstrip(b"\0\n").decode(errors="surrogateescape")
    if "\0" in text:
        raise ConfigurationError("the image's command line contains a NUL")
    return text
