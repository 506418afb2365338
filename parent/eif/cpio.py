"""Ramdisks: cpio archives in the "newc" format, the same bytes for the same files. Pure.

Source: Linux, ``Documentation/driver-api/early-userspace/buffer-format.rst``. Times are zero,
inode numbers count up and names are sorted, so nothing of the building machine gets in.
"""

from __future__ import annotations

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
"""Bytes in a path, as Linux has it."""

_BLOCK = 512
_LAST = "TRAILER!!!"


def _nothing() -> Iterator[bytes]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory, link or device in an archive.

    Attributes:
        path: without a leading slash; names that are not UTF-8 as `os.fsdecode` has them.
        mode: type and permissions, as in ``st_mode``.
        size: of the content in bytes.
        content: opens the content; called once. A symbolic link's is its target.
        owner: user id and group id.
        device: major and minor number, of a device file.
    """

    path: str
    mode: int
    size: int = 0
    content: Callable[[], Iterable[bytes]] = field(default=_nothing, repr=False)
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """Return a file with content that is at hand."""
    return Entry(path, stat.S_IFREG | permissions, len(content), lambda: [content])


def under(prefix: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return entries moved into a directory."""
    return [replace(entry, path=f"{prefix}/{entry.path}") for entry in entries]


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield an archive, in pieces.

    Of entries with the same path the last counts. Directories that nobody named but that
    something is in are made, with 0755. The length is a multiple of 512, so that archives may
    follow one another, as ramdisks do.

    Raises:
        ConfigurationError: a path, a size or a number that the format has no room for, or content
            that is not as long as its entry says.
    """
    written = 0
    members = [*_complete(entries), Entry(_LAST, 0)]
    for inode, entry in enumerate(members, start=1):
        for piece in _member(entry, inode):
            written += len(piece)
            yield piece
    yield bytes(-written % _BLOCK)


def _complete(entries: Iterable[Entry]) -> list[Entry]:
    by_path: dict[bytes, Entry] = {}
    for entry in entries:
        by_path[_encode(entry.path)] = entry
    for path in list(by_path):
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            made = directory(above.decode("utf-8", "surrogateescape"))
            if not stat.S_ISDIR(by_path.setdefault(above, made).mode):
                raise ConfigurationError(f"{made.path!r} is no directory, yet has files in it")
    return [by_path[path] for path in sorted(by_path)]


def _encode(path: str) -> bytes:
    encoded = path.encode("utf-8", "surrogateescape")
    parts = path.split("/")
    if len(encoded) > MAX_PATH or "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        raise ConfigurationError(f"{path!r} cannot be a path in a ramdisk")
    return encoded


def _member(entry: Entry, inode: int) -> Iterator[bytes]:
    name = entry.path.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode, entry.mode, *entry.owner, links, 0, entry.size, 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    if not all(0 <= number <= MAX_SIZE for number in fields):
        raise ConfigurationError(f"{entry.path!r} is too large for a ramdisk")
    header = b"070701" + b"".join(b"%08X" % number for number in fields) + name
    yield _padded(header)
    size = 0
    for chunk in entry.content():
        size += len(chunk)
        yield chunk
    if size != entry.size:
        raise ConfigurationError(f"{entry.path!r} changed while it was read")
    yield bytes(-size % 4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield gzip's compression of what comes in.

    The header has neither time nor name in it. What is inside depends on the build of zlib, so
    only machines with the same one compress to the same bytes.
    """
    compressor = zlib.compressobj(level=9, wbits=31)
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()
