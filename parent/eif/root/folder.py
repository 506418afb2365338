"""A root file system from a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from parent.eif.root.notes import is_of_a_layer
from parent.eif.root.tree import Node, Tree
from parent.files import opened
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import IO

    from parent.eif.root.notes import Notes

_MOUNTS = Path("/proc/self/mountinfo")


def read(folder: Path, notes: Notes, *, keep_owners: bool = False) -> Tree:
    """Return what is in a folder.

    A ramdisk has neither times nor extended attributes, so these are left behind. What else does
    not get into the image as it is goes into `notes`.

    Args:
        folder: the root of the file system.
        notes: told of differences.
        keep_owners: False: everything belongs to root, for who owns it here is an accident of who
            unpacked it.

    Raises:
        ConfigurationError: something cannot be read, or the folder is not a root file system.
    """
    reader = _Reader(notes, _mount_points(folder), keep_owners=keep_owners)
    try:
        reader.read(os.fsencode(folder))
    except OSError as e:
        name = os.fsdecode(e.filename) if e.filename else folder
        raise ConfigurationError(f"cannot read {name}: {e.strerror}") from e
    return reader.tree


class _Reader:
    def __init__(self, notes: Notes, mounts: frozenset[bytes], *, keep_owners: bool) -> None:
        self.tree = Tree()
        self._notes = notes
        self._keep_owners = keep_owners
        self._mounts = mounts
        self._linked: dict[tuple[int, int], Node] = {}

    def read(self, folder: bytes) -> None:
        status = os.stat(folder)  # noqa: PTH116 (bytes)
        self.tree.add("", Node(status.st_mode, self._owner("/", status, status.st_mode)[0]))
        todo = [(folder, b"")]
        while todo:
            source, prefix = todo.pop()
            with os.scandir(source) as scanned:
                items = list(scanned)
            for item in items:
                name = (prefix + item.name).decode("utf-8", "surrogateescape")
                status = item.stat(follow_symlinks=False)
                # On Windows and in some file systems a scan knows no inode numbers.
                self.tree.add(name, self._node(name, item.path, status))
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if item.path in self._mounts:
                    self._notes.mounted(name)
                else:
                    todo.append((item.path, prefix + item.name + b"/"))

    def _node(self, name: str, source: bytes, status: os.stat_result) -> Node:
        mode, identity = status.st_mode, (status.st_dev, status.st_ino)
        is_shared = status.st_nlink > 1 and not stat.S_ISDIR(mode)
        if is_shared and identity in self._linked:
            return self._linked[identity]
        self._check(name, source, status)
        owner, mode = self._owner(name, status, mode)
        node = Node(mode, owner)
        if stat.S_ISREG(mode):
            node.size = status.st_size
            node.open = _opener(source)
        elif stat.S_ISLNK(mode):
            node.target = os.readlink(source)  # noqa: PTH115 (bytes)
            # Linux gives links these permissions; other systems give others.
            node.mode = stat.S_IFLNK | 0o777
        elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            node.device = os.major(status.st_rdev), os.minor(status.st_rdev)
        if is_shared:
            self._linked[identity] = node
        return node

    def _check(self, name: str, source: bytes, status: os.stat_result) -> None:
        if name.rpartition("/")[2].startswith(".wh.") or (
            stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        ):
            raise _one_layer(name)
        if stat.S_ISREG(status.st_mode):
            if source in self._mounts:
                self._notes.mounted_file(name)
            self._notes.sparse(name, status.st_size, getattr(status, "st_blocks", 0) * 512)
        for attribute in _attributes(source):
            if is_of_a_layer(attribute):
                raise _one_layer(name)
            self._notes.attribute(name, attribute)

    def _owner(self, name: str, status: os.stat_result, mode: int) -> tuple[tuple[int, int], int]:
        """Return the owner in the image, and the mode: no file becomes setuid root by moving."""
        owner = status.st_uid, status.st_gid
        if self._keep_owners or owner == (0, 0):
            return owner, mode
        self._notes.owner(name, owner)
        dropped = 0
        if not stat.S_ISDIR(mode):
            dropped |= stat.S_ISUID if owner[0] else 0
            dropped |= stat.S_ISGID if owner[1] else 0
        if mode & dropped:
            self._notes.setuid(name, owner)
        return (0, 0), mode & ~dropped


def _one_layer(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name!r} is a whiteout, or what overlayfs keeps in several layers: the folder is one "
        "layer of a container image",
        hint="give the whole image, as docker save or skopeo writes it",
    )


def _opener(source: bytes) -> Callable[[], AbstractContextManager[IO[bytes]]]:
    path = Path(os.fsdecode(source))

    @contextlib.contextmanager
    def open_file() -> Iterator[IO[bytes]]:
        try:
            with opened(path) as stream:
                yield stream
        except OSError as e:
            raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e

    return open_file


def _attributes(source: bytes) -> Iterator[str]:
    if not hasattr(os, "listxattr"):
        return
    try:
        yield from os.listxattr(source, follow_symlinks=False)
    except OSError as e:
        if e.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise


def _mount_points(folder: Path) -> frozenset[bytes]:
    """Return where other file systems are mounted in a folder, as paths that begin with it."""
    try:
        # The kernel escapes line ends, and not carriage returns.
        lines = _MOUNTS.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError:
        return frozenset()  # Not Linux, or no /proc.
    real = os.fsencode(os.path.realpath(folder))
    found = set()
    for line in lines:
        fields = line.split(b" ")
        if len(fields) < 5:
            continue
        point = _unescape(fields[4])
        if point.startswith(real.rstrip(b"/") + b"/"):
            inside = os.path.relpath(point, real)
            # As scandir writes it: a Path would drop the dot of ".".
            found.add(os.path.join(os.fsencode(folder), inside))  # noqa: PTH118
    return frozenset(found)


def _unescape(path: bytes) -> bytes:
    r"""Undo mountinfo's ``\040`` for a space, and the like."""
    first, *parts = path.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts)
