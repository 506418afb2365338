"""Building and signing: the same bytes every time, and as others lay them out."""

from __future__ import annotations

import io
from typing import Any

import pytest

from parent.eif import metadata
from parent.eif.build import MAX_RAMDISKS, build, sign
from parent.eif.describe import check, describe
from parent.eif.errors import EifError
from parent.eif.signature import Signer
from tests.parent.conftest import WITHIN, Identity
from tests.parent.eif import eifs
from tests.parent.eif.eifs import CMDLINE, KERNEL, METADATA, RAMDISK, SECTIONS, SIGNATURE
from vsock_proxy.errors import ConfigurationError

TOLD = metadata.Metadata("sample", "1.0", eifs.TELLING["BuildMetadata"])


def built(**changes: Any) -> bytes:
    inputs: dict[str, Any] = {
        "kernel": [b"ker", b"nel"],
        "cmdline": "console=ttyS0",
        "ramdisks": [[b"boot"], [b"app", b"lication"]],
        "metadata": TOLD,
    }
    output = io.BytesIO()
    build(output, **{**inputs, **changes})
    return output.getvalue()


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


def test_progress_is_of_what_is_written() -> None:
    sizes: list[int] = []
    built(progress=sizes.append)
    assert sum(sizes) == len(b"kernel" + b"console=ttyS0" + TOLD.encode() + b"bootapplication")


def test_signed_images_check_out(identity: Identity) -> None:
    data = built(signer=Signer(identity.pem, identity.key_pem))
    description = check(io.BytesIO(data), at=WITHIN)
    assert description.signature
    assert description.pcrs[0] == describe(io.BytesIO(built())).pcrs[0]


def test_signing_again_replaces_the_signature(identity: Identity) -> None:
    stream = io.BytesIO(eifs.eif([*SECTIONS, (SIGNATURE, b"nonsense" * 1000)]))
    sign(stream, Signer(identity.pem, identity.key_pem))
    description = check(stream, at=WITHIN)
    assert description.pcrs[0] == eifs.pcrs()[0]
    assert len(description.image.sections) == len(SECTIONS) + 1


def test_what_cannot_be_signed(identity: Identity) -> None:
    signer = Signer(identity.pem, identity.key_pem)
    early = eifs.eif([*SECTIONS[:2], (SIGNATURE, b"x"), *SECTIONS[3:]])
    full = eifs.eif([*SECTIONS, *[(RAMDISK, b"x")] * 27])
    damaged = eifs.eif()[:-1] + b"\0"
    for data, reason in (
        (early, "not the last section"),
        (full, "no room for a signature"),
        (damaged, "the CRC is wrong"),
        (b"", "cut short"),
    ):
        with pytest.raises(EifError, match=reason):
            sign(io.BytesIO(data), signer)


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
    signer = Signer(identity.pem, identity.key_pem)
    data = built(ramdisks=[[b"x"]] * MAX_RAMDISKS, signer=signer)
    assert len(check(io.BytesIO(data), at=WITHIN).image.sections) == 32
