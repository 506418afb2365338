"""Writes a TLS key for the program into files that are in memory alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.attested_tls.identity import Identity

CERTIFICATE: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"

_IN_MEMORY: Final = {0x01021994, 0x858458F6}
"""TMPFS_MAGIC and RAMFS_MAGIC (<linux/magic.h>): f_type of statfs(2)."""

_STATFS: Final = 256
"""More bytes than struct statfs has; f_type is its first word."""


def check_in_memory(folder: str) -> None:
    """Check that a folder is on a file system in memory.

    Raises:
        ConfigurationError: it is not, or does not exist.
    """
    buffer = ctypes.create_string_buffer(_STATFS)
    library = ctypes.CDLL(None, use_errno=True)
    if library.statfs(os.fsencode(folder), buffer) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ConfigurationError(
            f"--ingress-tls-files {folder}: {reason}", hint="name a folder that exists"
        )
    if ctypes.c_ulong.from_buffer(buffer).value not in _IN_MEMORY:
        raise ConfigurationError(
            f"--ingress-tls-files {folder}: a private key would be written to a disk",
            hint="name a folder on tmpfs, for example under /run or /dev/shm",
        )


@contextlib.contextmanager
def written(folder: str, identity: Identity, owner: tuple[int, int] | None) -> Iterator[None]:
    """Have certificate and key in files for the length of a ``with`` block.

    Args:
        folder: on a file system in memory.
        identity: what is written.
        owner: user and group of the files; None for those of this process.

    Raises:
        ConfigurationError: they cannot be written.
    """
    files = {CERTIFICATE: identity.certificate, PRIVATE_KEY: identity.private_key}
    paths = {Path(folder) / name: content for name, content in files.items()}
    try:
        try:
            for path, content in paths.items():
                _write(path, content, owner)
        except OSError as e:
            raise ConfigurationError(
                f"--ingress-tls-files {folder}: {e.strerror}", hint="may the agent write there?"
            ) from e
        yield
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _write(path: Path, content: bytes, owner: tuple[int, int] | None) -> None:
    path.unlink(missing_ok=True)
    # Its mode is right from the first moment, and it is not somebody else's link.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        if owner is not None:
            os.fchown(file, *owner)
    finally:
        os.close(file)
