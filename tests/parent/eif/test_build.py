"""Building and signing: the same bytes every time, and as others lay them out."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.eif import metadata
from parent.eif.build import MAX_RAMDISKS, build, sign
from parent.eif.describe import check, describe
from parent.eif.errors import EifError
from parent.eif.signer import FileKey, Signer
from tests.parent.conftest import WITHIN, Identity
from tests.parent.eif import eifs
from tests.parent.eif.eifs import CMDLINE, KERNEL, METADATA, RAMDISK, SECTIONS, SIGNATURE
from vsock_proxy.errors import ConfigurationError

TOLD = metadata.Metadata("sample", "1.0", eifs.TELLING["BuildMetadata"])


def built(**changes: Any) -> bytes:
    return written(**changes)[0]


def written(**changes: Any) -> tuple[bytes, dict[int, bytes]]:
    inputs: dict[str, Any] = {
        "kernel": [b"ker", b"nel"],
        "cmdline": "console=ttyS0",
        "ramdisks": [[b"boot"], [b"app", b"lication"]],
        "metadata": TOLD,
    }
    output = io.BytesIO()
    pcrs = build(output, **{**inputs, **changes})
    return output.getvalue(), pcrs


def test_byte_for_byte() -> None:
    sections = [
        (KERNEL, b"kernel"),
        (CMDLINE, b"console=ttyS0"),
        (METADATA, TOLD.encode()),
        (RAMDISK, b"boot"),
        (RAMDISK, b"application"),
    ]
    assert built() == eifs.eif(sections)
    assert built(architecture="aarch64") == eifs.eif(sections, flags=1)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_what_is_told_while_writing_is_what_is_read(ramdisks: list[bytes]) -> None:
    data, pcrs = written(ramdisks=[[ramdisk] for ramdisk in ramdisks])
    description = describe(io.BytesIO(data))
    assert description.pcrs == pcrs
    assert description.is_whole


class OneWay(io.BytesIO):
    """A file that counts what is read of it."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.reads += len(data)
        return data


def test_every_byte_is_read_once(identity: Identity) -> None:
    signer = Signer(identity.pem, FileKey(identity.key_pem))
    source, output = OneWay(eifs.eif()), OneWay()
    sign(source, output, signer)
    assert source.reads <= len(eifs.eif()) + 548  # The header, which is small, twice.
    assert output.reads == 0
    output = OneWay()
    build(output, kernel=[b"k"], cmdline="c", ramdisks=[[b"r"]], metadata=TOLD, signer=signer)
    assert output.reads == 0


def test_progress_is_of_what_is_written() -> None:
    sizes: list[int] = []
    built(progress=sizes.append)
    assert sum(sizes) == len(b"kernel" + b"console=ttyS0" + TOLD.encode() + b"bootapplication")


def test_signed_images_check_out(identity: Identity) -> None:
    data, pcrs = written(signer=Signer(identity.pem, FileKey(identity.key_pem)))
    description = check(io.BytesIO(data), at=WITHIN)
    assert description.signature
    assert description.pcrs == pcrs
    assert description.pcrs[0] == describe(io.BytesIO(built())).pcrs[0]


def test_signing_again_replaces_the_signature(identity: Identity) -> None:
    source = io.BytesIO(eifs.eif([*SECTIONS, (SIGNATURE, b"nonsense" * 1000)]))
    output = io.BytesIO()
    sizes: list[int] = []
    pcrs = sign(
        source, output, Signer(identity.pem, FileKey(identity.key_pem)), progress=sizes.append
    )
    description = check(output, at=WITHIN)
    assert description.pcrs == pcrs
    assert pcrs[0] == eifs.pcrs()[0]
    assert sum(sizes) == sum(len(payload) for _, payload in SECTIONS)
    assert len(description.image.sections) == len(SECTIONS) + 1


def test_what_cannot_be_signed(identity: Identity) -> None:
    signer = Signer(identity.pem, FileKey(identity.key_pem))
    early = eifs.eif([*SECTIONS[:2], (SIGNATURE, b"x"), *SECTIONS[3:]])
    full = eifs.eif([*SECTIONS, *[(RAMDISK, b"x")] * 27])
    damaged = eifs.eif()[:-1] + b"\0"
    for data, reason in (
        (early, "not the last section"),
        (full, "no room for a signature"),
        (damaged, "the CRC is wrong"),
        (eifs.eif(flags=0x240), "how these count into PCR0 is not published"),
        (b"", "cut short"),
    ):
        with pytest.raises(EifError, match=reason):
            sign(io.BytesIO(data), io.BytesIO(), signer)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cmdline": "a\nb"}, "printable"),
        ({"cmdline": "x" * 2048}, "up to 2047 bytes"),
        ({"cmdline": ""}, "the cmdline is empty"),
        ({"kernel": []}, "the kernel is empty"),
        ({"ramdisks": []}, "0 ramdisks"),
        ({"ramdisks": [[b"x"]] * (MAX_RAMDISKS + 1)}, "29 ramdisks"),
        ({"ramdisks": [[b"x"], [b""]]}, "the ramdisk is empty"),
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        built(**changes)


def test_as_many_ramdisks_as_there_is_room_for(identity: Identity) -> None:
    signer = Signer(identity.pem, FileKey(identity.key_pem))
    data = built(ramdisks=[[b"x"]] * MAX_RAMDISKS, signer=signer)
    assert len(check(io.BytesIO(data), at=WITHIN).image.sections) == 32
