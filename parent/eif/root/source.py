"""A root file system from a folder, a tar, or a container image."""

from __future__ import annotations

import tarfile
import tempfile
from typing import IO, TYPE_CHECKING

from parent.eif.cpio import CHUNK
from parent.eif.root import container, folder, layers, tar
from parent.eif.root.notes import Notes
from parent.eif.root.tree import Tree
from parent.files import opened, size
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from parent.eif.root.container import Container


def read(
    path: Path,
    architecture: str,
    notes: Notes,
    stack: contextlib.ExitStack,
    *,
    keep_owners: bool = False,
    spool: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tree, Container | None]:
    """Return a root file system, and how it is to run if it is a container image.

    Args:
        path: a folder, or a tar (plain, gzip, bzip2, xz); either may be a container image.
        architecture: of the kernel.
        notes: told of what does not get into the image as it is.
        stack: keeps open what the tree is read from.
        keep_owners: whether the owners of files in a folder are those in the image.
        spool: where compressed files are unpacked; None: where temporary files go.
        progress: called with the number of bytes of each piece unpacked or checked.

    Raises:
        ConfigurationError: it cannot be read, or is something else.
    """
    try:
        return _read(path, architecture, notes, stack, keep_owners, spool, progress)
    except OSError as e:
        # The disk is full, or the folder for temporary files is not there.
        raise ConfigurationError(f"cannot unpack {path}: {e.strerror or e}") from e


def _read(
    path: Path,
    architecture: str,
    notes: Notes,
    stack: contextlib.ExitStack,
    keep_owners: bool,  # noqa: FBT001 (private)
    spool: Path | None,
    progress: Callable[[int], None] | None,
) -> tuple[Tree, Container | None]:
    here = Notes(notes.user)
    if path.is_dir():
        tree = folder.read(path, here, keep_owners=keep_owners)
    else:
        tree = _tar(path, here, stack, spool, progress)
    if not tree.root.children:
        raise ConfigurationError(
            f"{path} is empty: there is no root file system in it",
            hint="the enclave would start, find no command, and end at once",
        )
    if container.is_image(tree):
        return container.read(
            tree, architecture, notes, stack, spool=spool, progress=progress
        )  # fmt: skip
    container.check_no_other_form(tree)
    notes.take(here)
    return tree, None


def _tar(
    path: Path,
    notes: Notes,
    stack: contextlib.ExitStack,
    spool: Path | None,
    progress: Callable[[int], None] | None,
) -> Tree:
    stream = stack.enter_context(opened(path))
    tree = Tree()
    try:
        archive = tar.open_tar(_seekable(path, stream, stack, spool, progress))
    except tarfile.TarError:
        if not size(path):
            return tree
        raise ConfigurationError(
            f"{path} is neither a folder, a tar nor a container image",
            hint="docker export CONTAINER, docker save IMAGE and skopeo copy write what it takes",
        ) from None
    tar.read(stack.enter_context(archive), tree, notes)
    return tree


def _seekable(
    path: Path,
    stream: IO[bytes],
    stack: contextlib.ExitStack,
    spool: Path | None,
    progress: Callable[[int], None] | None,
) -> IO[bytes]:
    head = stream.read(6)
    stream.seek(0)
    plain = layers.decompressed(stream, head)
    if plain is stream:
        return stream
    unpacked = stack.enter_context(tempfile.TemporaryFile(dir=spool))  # noqa: SIM115 (the stack does)
    try:
        while chunk := plain.read(CHUNK):
            unpacked.write(chunk)
            if unpacked.tell() > layers.MAX_UNPACKED:
                raise ConfigurationError(f"{path} unpacks to over {layers.MAX_UNPACKED} bytes")
            if progress:
                progress(len(chunk))
    except layers.damage() as e:
        raise ConfigurationError(f"{path} cannot be decompressed: {e}") from e
    unpacked.seek(0)
    return unpacked
