"""Files in memory for the program: sealed memory files, which it opens by a path of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@contextlib.contextmanager
def memory_files(files: Mapping[str, bytes], owner: int | None) -> Iterator[dict[str, int]]:
    """Make files in memory for the length of a ``with`` block; yields their descriptors.

    They are on no file system, cannot be written any more, and end with the last process that has
    them open. Each opening of ``/proc/self/fd/N`` begins at the first byte.

    Args:
        files: their content, by name.
        owner: the user id that may open them; None for this process's.

    Raises:
        OSError: no memory, or no descriptor.
    """
    with contextlib.ExitStack() as stack:
        made = {}
        for name, content in files.items():
            fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            stack.callback(os.close, fd)
            left = memoryview(content)
            while left:
                left = left[os.write(fd, left) :]
            os.fchmod(fd, 0o400)
            if owner is not None:
                os.fchown(fd, owner, -1)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            made[name] = fd
        yield made


def path_of(fd: int) -> str:
    """Return the path by which a program that has inherited a descriptor opens it."""
    return f"/proc/self/fd/{fd}"
