"""Measuring in one pass: the same as measuring the whole at once."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from parent.eif.layout import SectionType
from parent.eif.measurement import Measurement, combine_crc
from tests.parent.eif import eifs


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crc_of_two_strings(first: bytes, second: bytes) -> None:
    combined = combine_crc(zlib.crc32(first), zlib.crc32(second), len(second))
    assert combined == zlib.crc32(first + second)


def test_the_crc_of_much() -> None:
    first, second = b"head", bytes(5_000_000)
    combined = combine_crc(zlib.crc32(first), zlib.crc32(second), len(second))
    assert combined == zlib.crc32(first + second)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.integers(1, 7))
def test_pieces_do_not_matter(ramdisks: list[bytes], piece: int) -> None:
    sections = [
        (eifs.KERNEL, b"kernel"), (eifs.CMDLINE, b"cmdline"), (eifs.METADATA, b"{}"),
        *((eifs.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]  # fmt: skip
    data = eifs.eif(sections)
    measurement = Measurement()
    for kind, payload in sections:
        measurement.begin(SectionType(kind))
        for start in range(0, len(payload), piece):
            measurement.update(payload[start : start + piece])
        measurement.end()
    aside = measurement.copy()
    aside.begin(SectionType.RAMDISK)
    aside.update(b"more")
    aside.end()
    digests = measurement.digests(data[:548])
    assert {0: digests.pcr0, 1: digests.pcr1, 2: digests.pcr2} == eifs.pcrs(sections)
    assert digests.crc == int.from_bytes(data[544:548], "big")
    more = [*sections, (eifs.RAMDISK, b"more")]
    assert aside.digests(data[:548]).pcr2 == eifs.pcrs(more)[2]
    assert digests.with_flags == {}
