"""Ramdisks: cpio archives in the "newc" format, the same bytes for the same files. No I/O.

Source: Linux, ``Documentation/driver-api/early-userspace/buffer-format.rst`` and
``init/initramfs.c``. Times are zero, inode numbers count up and names are sorted, so nothing of
the building machine gets in.
"""

from __future__ import annotations

import itertools
import stat
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_SIZE = 0xFFFF_FFFF
"""Bytes in one file: the format has eight hexadecimal digits."""

MAX_PATH = 4095
"""Bytes in a path or the target of a symbolic link. Linux skips longer ones without a word."""

MAX_NAME = 255
"""Bytes in a name between two slashes: ``NAME_MAX``."""

MAX_ID = MAX_SIZE - 1
"""The largest user or group id; one more means "leave it as it is"."""

MAX_DEVICE = 0xFFF, 0xF_FFFF
"""Largest major and minor number: Linux cuts larger ones (``MKDEV``)."""

CHUNK = 1 << 20
"""Bytes read at a time."""

BLOCK = 512
TRAILER = "TRAILER!!!"


def _nothing() -> Iterator[bytes]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory, link or device in an archive.

    Attributes:
        path: without a leading slash; names that are not UTF-8 as ``surrogateescape`` has them.
        mode: type and permissions, as in ``st_mode``.
        size: of the content in bytes.
        content: opens the content; called once. A symbolic link's is its target.
        owner: user id and group id.
        device: major and minor number, of a device file.
        inode: entries with the same object here are hard links of one file; None: no links.
    """

    path: str
    mode: int
    size: int = 0
    content: Callable[[], Iterable[bytes]] = field(default=_nothing, repr=False)
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)
    inode: object = field(default=None, repr=False, compare=False)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """Return a file with content that is in memory."""
    return Entry(path, stat.S_IFREG | permissions, len(content), lambda: [content])


def under(prefix: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return entries moved into a directory."""
    return [replace(entry, path=f"{prefix}/{entry.path}") for entry in entries]


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield an archive, in pieces.

    Of entries with the same path the last counts. Missing parent directories are added, with
    0755. The content of hard links is with the first of them. The length is a multiple of 512, so
    that archives may follow one another, as ramdisks do.

    Raises:
        ConfigurationError: a path, a size or a number that the format has no room for, or content
            that is not as long as its entry says.
    """
    written = 0
    members = _complete(entries)
    names: dict[int, list[int]] = {}
    for number, entry in enumerate(members):
        # Linux makes hard links of everything but directories and symbolic links.
        linkable = entry.inode is not None and not stat.S_ISDIR(entry.mode)
        if linkable and not stat.S_ISLNK(entry.mode):
            names.setdefault(id(entry.inode), []).append(number)
    first = {number: group for group in names.values() for number in group}
    for number, entry in enumerate(members):
        group = first.get(number, [number])
        links = 2 if stat.S_ISDIR(entry.mode) else len(group)
        if number != group[0]:
            entry = replace(entry, size=0, content=_nothing)  # noqa: PLW2901 (the same file)
        for piece in _member(entry, group[0] + 1, links):
            written += len(piece)
            yield piece
    for piece in _member(Entry(TRAILER, 0), len(members) + 1, 1):
        written += len(piece)
        yield piece
    yield bytes(-written % BLOCK)


def _complete(entries: Iterable[Entry]) -> list[Entry]:
    by_path: dict[bytes, Entry] = {}
    for entry in entries:
        by_path[_encode(entry.path)] = entry
    for path in list(by_path):
        parts = path.split(b"/")
        for above in itertools.accumulate(parts[:-1], lambda whole, part: whole + b"/" + part):
            made = directory(above.decode("utf-8", "surrogateescape"))
            if not stat.S_ISDIR(by_path.setdefault(above, made).mode):
                raise ConfigurationError(f"{made.path!r} is not a directory, yet has files in it")
    return [by_path[path] for path in sorted(by_path)]


def _encode(path: str) -> bytes:
    encoded = path.encode("utf-8", "surrogateescape")
    parts = path.split("/")
    if "\0" in path or not {"", ".", ".."}.isdisjoint(parts) or path == TRAILER:
        raise ConfigurationError(f"{path!r} cannot be a path in a ramdisk")
    if len(encoded) > MAX_PATH or max(map(len, encoded.split(b"/"))) > MAX_NAME:
        raise ConfigurationError(f"{path[:40]!r}... is too long for a path in a ramdisk")
    return encoded


def _member(entry: Entry, inode: int, links: int) -> Iterator[bytes]:
    name = entry.path.encode("utf-8", "surrogateescape") + b"\0"
    if entry.size > MAX_SIZE:
        raise ConfigurationError(
            f"{entry.path!r} has {entry.size} bytes: a file in a ramdisk has at most {MAX_SIZE}"
        )
    if not all(0 <= number <= MAX_ID for number in entry.owner):
        raise ConfigurationError(
            f"{entry.path!r} belongs to {entry.owner[0]}:{entry.owner[1]}, which Linux cannot have"
        )
    if entry.device[0] > MAX_DEVICE[0] or entry.device[1] > MAX_DEVICE[1]:
        raise ConfigurationError(
            f"{entry.path!r} has the device number {entry.device[0]}:{entry.device[1]}, which "
            "Linux cannot have"
        )
    fields = (
        inode, entry.mode, *entry.owner, links, 0, entry.size, 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    if not all(0 <= number <= MAX_SIZE for number in fields):
        raise ConfigurationError(f"{entry.path!r} is too large for a ramdisk")
    header = b"070701" + b"".join(b"%08X" % number for number in fields) + name
    yield header + bytes(-len(header) % 4)
    size = 0
    for chunk in entry.content():
        size += len(chunk)
        yield chunk
    if size != entry.size:
        raise ConfigurationError(f"{entry.path!r} changed while it was read")
    yield bytes(-size % 4)


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the gzip compression of what comes in.

    The header has neither time nor name in it. What is inside depends on the build of zlib, so
    only machines with the same one compress to the same bytes.
    """
    compressor = zlib.compressobj(level=9, wbits=31)
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()
