"""Ramdisks read: compressed, one after the other, hostile."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.eif import cpio_reader
from parent.eif.cpio import archive, directory, file
from parent.eif.cpio_reader import RamdiskError

ONE = b"".join(archive([directory("a"), file("a/b", b"content" * 100)]))
OTHER = b"".join(archive([file("c", b"x"), file("cmd", b"/app\n")]))


def paths(data: bytes, piece: int = 1 << 20) -> list[str]:
    chunks = (data[start : start + piece] for start in range(0, len(data), piece))
    return [member.path for member in cpio_reader.read(chunks).members]


@pytest.mark.parametrize("piece", [1, 7, 512, 1 << 20])
@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (ONE + OTHER, ["none"]),
        (ONE + bytes(4096) + OTHER + bytes(512), ["none"]),
        (gzip.compress(ONE, mtime=0) + gzip.compress(OTHER, mtime=0), ["gzip", "gzip"]),
        (ONE + gzip.compress(OTHER, mtime=0) + bytes(4), ["none", "gzip"]),
        (gzip.compress(ONE, mtime=0) + bytes(512) + OTHER, ["gzip", "none"]),
        (bz2.compress(ONE) + lzma.compress(OTHER), ["bzip2", "xz"]),
        (
            lzma.compress(ONE, format=lzma.FORMAT_ALONE) + gzip.compress(OTHER, mtime=0),
            ["xz", "gzip"],
        ),
    ],
)
def test_archives_follow_one_another(data: bytes, compression: list[str], piece: int) -> None:
    chunks = (data[start : start + piece] for start in range(0, len(data), piece))
    ramdisk = cpio_reader.read(chunks)
    assert [member.path for member in ramdisk.members] == ["a", "a/b", "c", "cmd"]
    assert ramdisk.compression == compression
    assert ramdisk.members[3].text == "/app\n"
    assert stat.S_ISDIR(ramdisk.members[0].mode)


def test_an_empty_ramdisk_holds_nothing() -> None:
    assert paths(b"") == paths(bytes(1000)) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"text" * 100, "not a cpio archive"),
        (ONE[:-600], "cut short"),
        (gzip.compress(ONE, mtime=0)[:-9], "cut short inside the compression"),
        (gzip.compress(ONE[:-600], mtime=0), "cut short"),
        (gzip.compress(ONE + b"more", mtime=0), "something follows"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "compressed with Zstandard"),
        (b"\x02\x21\x4c\x18" + bytes(50), "compressed with LZ4"),
        (b"\x1f\x8b\x08" + b"\xff" * 100, "cannot be decompressed"),
        (ONE[:6] + b"+000000A" + ONE[14:], "invalid number"),
        (ONE[:94] + b"FFFFFFFF" + ONE[102:], "a name of 4294967295 bytes"),
        (ONE[:54] + b"FFFFFFFF" + ONE[62:], "cut short"),
        (ONE[:14] + b"0000A1FF" + ONE[22:54] + b"00002000" + ONE[62:], "too long"),
    ],
)
def test_what_is_no_ramdisk(data: bytes, reason: str) -> None:
    with pytest.raises(RamdiskError, match=reason):
        paths(data)


def test_what_unpacks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio_reader, "MAX_UNPACKED", 1 << 20)
    data = b"".join(archive([file("zeros", bytes(5 << 20))]))
    with pytest.raises(RamdiskError, match="unpacks to over"):
        paths(gzip.compress(data))


@given(st.binary(max_size=300), st.integers(0, len(ONE)), st.booleans())
def test_only_the_documented_error(noise: bytes, at: int, compress: bool) -> None:
    data = ONE[:at] + noise + ONE[at + len(noise) :]
    try:
        paths(gzip.compress(data) if compress else data)
    except RamdiskError:
        return
