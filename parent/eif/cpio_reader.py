"""Reading ramdisks: what Linux would find in one, entry by entry. No I/O.

Source: Linux, ``init/initramfs.c``. A ramdisk is a sequence of archives in the "newc" format, each
as it is or compressed, with zeros between them. It is untrusted input: contents are hashed and
never kept, and anything else than an archive is a `RamdiskError`.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import stat
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from parent.eif.cpio import MAX_PATH, TRAILER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_ENTRIES = 4_000_000
MAX_UNPACKED = 64 << 30
"""Bytes of all contents: a compressed ramdisk may claim anything."""

_HEADER = 110
_MAGICS = (b"070701", b"070702")
_PIECE = 1 << 16
_KEPT = ("cmd", "env")
_MAX_KEPT = 1 << 16


HEAD = 6
"""Bytes by which `may_be_archive` tells."""

_COMPRESSED = (
    b"\x1f\x8b", b"\x1f\x9e", b"BZ", b"\x5d\0", b"\xfd7", b"\x89\x4c", b"\x02\x21", b"\x28\xb5",
)  # fmt: skip
"""How what Linux decompresses begins (``lib/decompress.c``)."""


class RamdiskError(ValueError):
    """It is not a ramdisk that can be read here."""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a ramdisk.

    Attributes:
        path: as it is there; names that are not UTF-8 as ``surrogateescape`` has them.
        mode: type and permissions, as in ``st_mode``.
        owner: user id and group id.
        time: of change, in seconds since 1970.
        size: bytes of content.
        digest: SHA-256 of the content.
        target: of a symbolic link.
        device: major and minor number of a device.
        links: how many names the file has.
        inode: number in the archive; the same for hard links.
        text: content of what init reads: ``cmd`` and ``env``; else empty.
        encoding: how the header is written, where that may differ: format and hexadecimal case.
    """

    path: str
    mode: int
    owner: tuple[int, int]
    time: int
    size: int
    digest: str
    target: str
    device: tuple[int, int]
    links: int
    inode: tuple[int, int, int]
    encoding: str
    text: str = field(default="", repr=False)


@dataclass(slots=True)
class Ramdisk:
    """What is in a ramdisk.

    Attributes:
        members: in their order; hard links have the content and size of the name that holds it.
        compression: of each archive in it: ``none``, ``gzip``, ``bzip2``, ``xz``.
    """

    members: list[Member] = field(default_factory=list)
    compression: list[str] = field(default_factory=list)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def read(chunks: Iterable[bytes]) -> Ramdisk:
    """Read a ramdisk.

    Raises:
        RamdiskError: it is not a ramdisk, cut short, or compressed in a way Python does not know.
    """
    ramdisk = Ramdisk()
    source = _Source(iter(chunks))
    try:
        while source.skip_zeros():
            name, plain = _plain(source)
            # Uncompressed archives that follow one another count as one: builders concatenate
            # them, and nothing marks the border.
            if not ramdisk.compression or name != "none" or ramdisk.compression[-1] != "none":
                ramdisk.compression.append(name)
            start = len(ramdisk.members)
            _read_archive(plain, ramdisk)
            _share_content(ramdisk.members, start)
            if plain is not source:
                plain.drain()
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as e:
        raise RamdiskError(f"cannot be decompressed: {e}") from e
    return ramdisk


def may_be_archive(head: bytes) -> bool:
    """Return whether Linux would take something that begins so for a ramdisk; zeros may precede."""
    rest = head.lstrip(b"\0")
    return any(rest.startswith(magic[: len(rest)]) for magic in (*_MAGICS, *_COMPRESSED))


class _Source:
    """Bytes that come in pieces, taken in others."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = memoryview(b"")
        self.position = 0

    def peek(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = next(self._chunks, None)
            if more is None:
                break
            self._buffer = memoryview(bytes(self._buffer) + more)
        return bytes(self._buffer[:size])

    def take(self, size: int) -> bytes:
        data = self.peek(size)
        if len(data) < size:
            raise RamdiskError("cut short")
        self._advance(size)
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            data = bytes(self._buffer[:size]) or self.peek(1)
            if not data:
                raise RamdiskError("cut short")
            self._advance(len(data))
            size -= len(data)
            yield data

    def piece(self) -> bytes:
        """Return what is there next, empty at the end."""
        data = bytes(self._buffer[:_PIECE]) or self.peek(1)
        self._advance(len(data))
        return data

    def give_back(self, data: bytes) -> None:
        self._buffer = memoryview(data + bytes(self._buffer))
        self.position -= len(data)

    def skip_zeros(self) -> bool:
        """Skip zeros; return whether anything follows."""
        while data := self.piece():
            rest = data.lstrip(b"\0")
            if rest:
                self.give_back(rest)
                return True
        return False

    def drain(self) -> None:
        """Come to the end, which must be all zeros."""
        if self.skip_zeros():
            raise RamdiskError("something follows the archive inside the compression")

    def _advance(self, size: int) -> None:
        self._buffer = self._buffer[size:]
        self.position += size


def _plain(source: _Source) -> tuple[str, _Source]:
    head = source.peek(6)
    decompressor: _Decompressor
    if head in _MAGICS:
        return "none", source
    if head.startswith(b"\x1f\x8b"):
        name, decompressor = "gzip", _Gzip()
    elif head.startswith(b"BZh"):
        name, decompressor = "bzip2", bz2.BZ2Decompressor()
    elif head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        name, decompressor = "xz", lzma.LZMADecompressor()
    else:
        other = {b"\x28\xb5": "Zstandard", b"\x02\x21": "LZ4", b"\x89\x4c": "LZO"}.get(head[:2])
        raise RamdiskError(f"compressed with {other}" if other else "not a cpio archive")
    return name, _Source(_decompress(source, decompressor))


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail


def _decompress(source: _Source, decompressor: _Decompressor) -> Iterator[bytes]:
    total = 0
    while not decompressor.eof:
        data = b""
        if getattr(decompressor, "needs_input", True):
            data = source.piece()
            if not data:
                raise RamdiskError("cut short inside the compression")
        plain = decompressor.decompress(data, _PIECE)
        total += len(plain)
        if total > MAX_UNPACKED:
            raise RamdiskError(f"unpacks to over {MAX_UNPACKED} bytes")
        if plain:
            yield plain
    source.give_back(decompressor.unused_data)


def _read_archive(source: _Source, ramdisk: Ramdisk) -> None:
    """Read up to and including the trailer."""
    while True:
        header = source.take(_HEADER)
        if header[:6] not in _MAGICS:
            raise RamdiskError(f"no entry at byte {source.position - _HEADER}")
        try:
            digits = header if header.isalnum() else b"?"  # int() takes signs and spaces.
            numbers = [int(digits[at : at + 8], 16) for at in range(6, _HEADER, 8)]
        except ValueError:
            raise RamdiskError("an entry with an invalid number") from None
        inode, mode, uid, gid, links, time, size, major, minor, *device, name_size, _ = numbers
        if not 1 <= name_size <= MAX_PATH + 1:
            raise RamdiskError(f"a name of {name_size} bytes")
        name = source.take(name_size + -(_HEADER + name_size) % 4)[: name_size - 1]
        path = name.decode("utf-8", "surrogateescape")
        if path == TRAILER:
            return
        digest, kept = hashlib.sha256(), b""
        is_link = stat.S_ISLNK(mode)
        is_kept = is_link or (path in _KEPT and size <= _MAX_KEPT)
        if is_link and size > MAX_PATH + 1:
            raise RamdiskError("a symbolic link that is too long")
        for piece in source.pieces(size):
            digest.update(piece)
            if is_kept:
                kept += piece
        source.take(-size % 4)
        if len(ramdisk.members) >= MAX_ENTRIES:
            raise RamdiskError(f"more than {MAX_ENTRIES} entries")
        encoding = header[:6].decode() + (" lower case" if header != header.upper() else "")
        text = kept.decode("utf-8", "surrogateescape")
        ramdisk.members.append(
            Member(
                path, mode, (uid, gid), time, size, digest.hexdigest(), text if is_link else "",
                (device[0], device[1]), links, (major, minor, inode), encoding,
                "" if is_link else text,
            )
        )  # fmt: skip


def _share_content(members: list[Member], start: int) -> None:
    """Give every name of a file with several the content that one of them holds."""
    linked = [
        number
        for number in range(start, len(members))
        if members[number].links > 1 and stat.S_ISREG(members[number].mode)
    ]
    contents = {members[number].inode: members[number] for number in linked if members[number].size}
    for number in linked:
        holder = contents.get(members[number].inode)
        if holder:
            members[number] = replace(members[number], size=holder.size, digest=holder.digest)
