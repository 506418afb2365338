"""Reading images: what they measure, and that every corruption is one named error."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.eif import image
from parent.eif.errors import EifError
from parent.eif.layout import HEADER_SIZE, SectionType
from tests.parent.eif import eifs
from tests.parent.eif.eifs import CMDLINE, KERNEL, METADATA, RAMDISK, SECTIONS, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from parent.eif.measurement import Digests

K, C, M, R1, R2 = SECTIONS


def digest(data: bytes) -> Digests:
    stream = io.BytesIO(data)
    return image.digest(stream, image.read(stream))


@pytest.mark.parametrize(
    "sections",
    [
        SECTIONS,
        [K, C, R1],  # As version 2 and 3 had it; PCR2 is of nothing.
        [K, C, R1, R2, (RAMDISK, b"third"), M],
        [M, K, C, R1],
        [K, (CMDLINE, b""), R1, (RAMDISK, b"")],
    ],
)
def test_measures_as_the_book_says(sections: list[tuple[int, bytes]]) -> None:
    data = eifs.eif(sections)
    found = digest(data)
    assert {0: found.pcr0, 1: found.pcr1, 2: found.pcr2} == eifs.pcrs(sections)
    assert found.crc == int.from_bytes(data[544:548], "big")


def test_measures_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "CHUNK", 5)
    sizes: list[int] = []
    stream = io.BytesIO(eifs.eif())
    found = image.digest(stream, image.read(stream), progress=sizes.append)
    assert found.pcr0 == eifs.pcrs()[0]
    assert max(sizes) == 5
    assert sum(sizes) == sum(len(payload) for _, payload in SECTIONS)


@pytest.mark.parametrize("position", [*range(0, 544, 11), *range(548, len(eifs.eif()), 7)])
def test_the_crc_notices_every_byte(position: int) -> None:
    data = bytearray(eifs.eif())
    data[position] ^= 0x40
    stream = io.BytesIO(bytes(data))
    try:
        read = image.read(stream)
    except EifError:
        return
    assert image.digest(stream, read).crc != read.header.crc


def test_header_and_sections() -> None:
    read = image.read(io.BytesIO(eifs.eif(version=3, flags=1)))
    assert (read.header.version, read.header.architecture) == (3, "aarch64")
    assert (read.header.default_memory, read.header.default_cpus) == (1 << 30, 2)
    assert [section.type for section in read.sections] == [1, 2, 5, 3, 3]
    assert read.header.encode() == eifs.eif(version=3, flags=1)[:HEADER_SIZE]
    assert [str(kind) for kind in SectionType][:2] == ["kernel", "cmdline"]


def with_number(offset: int, layout: str, value: int) -> Callable[[], bytes]:
    def changed() -> bytes:
        data = bytearray(eifs.eif())
        struct.pack_into(layout, data, offset, value)
        return bytes(data)

    return changed


FIRST, SECOND = 548, 548 + 12 + len(K[1])

CORRUPTIONS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "empty": (lambda: b"", "cut short", 0),
    "header only half": (lambda: eifs.eif()[:300], "cut short", 0),
    "magic": (lambda: b"\x7fELF" + eifs.eif()[4:], "does not start with '.eif'", 0),
    "version 0": (with_number(4, ">H", 0), "version 0; versions 2 to 4 are known", 0),
    "version 1": (with_number(4, ">H", 1), "version 1;", 0),
    "version 5": (with_number(4, ">H", 5), "version 5;", 0),
    "no sections": (with_number(26, ">H", 0), "after the last section", 548),
    "33 sections": (with_number(26, ">H", 33), "33 sections", 0),
    "one section fewer": (with_number(26, ">H", 4), "after the last section", len(eifs.eif()) - 89),
    "one section more": (
        with_number(26, ">H", 6),
        "section 5 starts at 0 by the header's table",
        0,
    ),
    "offset into the header": (with_number(28, ">Q", 8), "section 0 starts at 8 by", 548),
    "offset with a gap": (with_number(36, ">Q", SECOND + 1), "section 1 starts at", SECOND),
    "offset beyond": (with_number(28, ">Q", 1 << 63), "section 0 starts at", 548),
    "table's size": (with_number(284, ">Q", 3), "54 bytes in its own header and 3", FIRST),
    "section's size": (with_number(FIRST + 4, ">Q", 3), "3 bytes in its own header", FIRST),
    "unknown type": (with_number(FIRST, ">H", 6), "unknown section type 6", FIRST),
    "invalid type": (with_number(FIRST, ">H", 0), "unknown section type 0", FIRST),
    "section flags": (with_number(FIRST + 2, ">H", 1), "unknown section flags", FIRST),
    "cut in a payload": (lambda: eifs.eif()[:-1], "past the end of the file", 0),
    "cut in a section header": (lambda: eifs.eif()[: FIRST + 5], "cut short", FIRST),
    "bytes at the end": (lambda: eifs.eif() + b"\0", "1 bytes after", len(eifs.eif())),
    "no kernel": (lambda: eifs.eif([C, R1]), "no kernel section", 548),
    "no command line": (lambda: eifs.eif([K, R1]), "no cmdline section", 548),
    "no ramdisk": (lambda: eifs.eif([K, C, M]), "no ramdisk section", 548),
    "two kernels": (lambda: eifs.eif([K, K, C, R1]), "a second kernel section", SECOND),
    "two command lines": (lambda: eifs.eif([K, C, C, R1]), "a second cmdline section", 0),
    "two of metadata": (lambda: eifs.eif([K, C, M, R1, M]), "a second metadata section", 0),
    "ramdisk before kernel": (lambda: eifs.eif([R1, K, C]), "a kernel after a ramdisk", 0),
    "command line before kernel": (lambda: eifs.eif([C, K, R1]), "a kernel after a cmdline", 0),
    "kernel after ramdisk": (lambda: eifs.eif([K, R1, C]), "a cmdline after a ramdisk", 0),
    "huge metadata": (
        lambda: eifs.eif([K, C, R1, (METADATA, bytes((1 << 20) + 1))]),
        "it has at most 1048576",
        0,
    ),
    "huge signature": (
        lambda: eifs.eif([K, C, R1, (SIGNATURE, bytes((1 << 20) + 1))]),
        "it has at most 1048576",
        0,
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions(name: str) -> None:
    corrupt, reason, offset = CORRUPTIONS[name]
    with pytest.raises(EifError) as caught:
        image.read(io.BytesIO(corrupt()))
    assert reason in caught.value.reason
    if offset:
        assert caught.value.offset == offset
    assert f"(offset {caught.value.offset})" in str(caught.value)


def test_sizes_that_do_not_fit_are_not_believed() -> None:
    data = bytearray(eifs.eif())
    for offset in (284, FIRST + 4):
        struct.pack_into(">Q", data, offset, (1 << 64) - 1)
    with pytest.raises(EifError, match="past the end of the file"):
        image.read(io.BytesIO(bytes(data)))


def test_a_stale_signature_size_in_the_table_is_let_pass() -> None:
    # nitro-cli sign-eif leaves it behind when it replaces a signature.
    data = bytearray(eifs.eif([*SECTIONS, (SIGNATURE, b"abc")]))
    struct.pack_into(">Q", data, 284 + 5 * 8, 99)
    assert image.read(io.BytesIO(bytes(data))).of_type(SectionType.SIGNATURE)[0].size == 3


def test_a_file_that_shrinks_while_it_is_read() -> None:
    stream = io.BytesIO(eifs.eif())
    read = image.read(stream)
    stream.truncate(700)
    with pytest.raises(EifError, match="cut short"):
        image.digest(stream, read)


@given(st.binary(max_size=2000) | st.binary(max_size=600).map(lambda tail: eifs.eif()[:548] + tail))
def test_only_the_documented_error(data: bytes) -> None:
    with pytest.raises(EifError):
        image.read(io.BytesIO(data))


def test_kinds_are_numbered_as_in_the_format() -> None:
    assert list(SectionType) == [KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA]
