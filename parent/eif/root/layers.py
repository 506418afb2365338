"""Layers of a container image, and tars, as streams without compression."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import importlib
import lzma
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from parent.eif.cpio import CHUNK
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parent.eif.root.tree import Node

MAX_UNPACKED = 64 << 30
"""Bytes in an unpacked layer: a compressed one may claim anything."""

_ZSTANDARD = ("compression.zstd", "backports.zstd")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, as an image has it.

    Attributes:
        node: the file, compressed or not.
        name: for errors.
        diff_id: the digest of what is in it without compression.
    """

    node: Node = field(repr=False)
    name: str
    diff_id: str


def unpack(
    layer: Layer,
    stack: contextlib.ExitStack,
    spool: Path | None,
    progress: Callable[[int], None] | None,
) -> IO[bytes]:
    """Return a layer as an uncompressed stream that can seek, once its digest is checked."""
    packed = stack.enter_context(layer.node.open())
    head = packed.read(6)
    packed.seek(0)
    plain = stack.enter_context(decompressed(packed, head))
    unpacked = packed
    if plain is not packed:
        unpacked = stack.enter_context(tempfile.TemporaryFile(dir=spool))  # noqa: SIM115 (the stack does)
    digest, size = hashlib.sha256(), 0
    try:
        while chunk := plain.read(CHUNK):
            size += len(chunk)
            if size > MAX_UNPACKED:
                raise ConfigurationError(f"layer {layer.name} has more than {MAX_UNPACKED} bytes")
            digest.update(chunk)
            if unpacked is not packed:
                unpacked.write(chunk)
            if progress:
                progress(len(chunk))
    except damage() as e:
        raise ConfigurationError(f"layer {layer.name} cannot be decompressed: {e}") from e
    # The digest of what is compressed need not be checked: the configuration names this one.
    if f"sha256:{digest.hexdigest()}" != layer.diff_id:
        raise damaged(f"layer {layer.name}")
    unpacked.seek(0)
    return unpacked


def damage() -> tuple[type[Exception], ...]:
    """Return what decompressing raises for damage; that of Zstandard, if it was loaded."""
    loaded = [sys.modules[name].ZstdError for name in _ZSTANDARD if name in sys.modules]
    return (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, *loaded)


def decompressed(stream: IO[bytes], head: bytes) -> IO[bytes]:
    """Return a stream of what is in a compressed one; the same if it is not compressed.

    Args:
        stream: at its start.
        head: its first six bytes.

    Raises:
        ConfigurationError: it needs a Python that knows Zstandard.
    """
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)
    # A frame, or one that is to be skipped, as pzstd writes it at the start (RFC 8878 3.1).
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
    ):
        return _zstandard(stream)
    return stream


def _zstandard(stream: IO[bytes]) -> IO[bytes]:
    for name in _ZSTANDARD:
        with contextlib.suppress(ImportError):
            opened: IO[bytes] = importlib.import_module(name).ZstdFile(stream)
            return opened
    raise ConfigurationError(
        "compressed with Zstandard, which Python knows from 3.14 on",
        hint="pip install backports.zstd; or write it with another compression: "
        "skopeo copy --dest-compress-format gzip ...",
    )


def damaged(name: str) -> ConfigurationError:
    """Return the error for what does not have the digest that the image states."""
    return ConfigurationError(
        f"{name} of the container image was damaged: its digest is another",
        hint="save the image again",
    )
