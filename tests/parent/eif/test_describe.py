"""What is said of an image: the JSON of nitro-cli, and what `check` refuses."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from parent.eif import metadata
from parent.eif.describe import as_nitro_cli, check, describe
from parent.eif.errors import EifError
from parent.eif.layout import SectionType
from tests.parent.conftest import NOT_AFTER, WITHIN, Identity
from tests.parent.eif import eifs
from tests.parent.eif.eifs import METADATA, SECTIONS, SIGNATURE
from vsock_proxy.service import json_text

if TYPE_CHECKING:
    from collections.abc import Callable


def described(data: bytes) -> dict[str, Any]:
    return as_nitro_cli(describe(io.BytesIO(data)))


def with_metadata(payload: bytes) -> bytes:
    return eifs.eif(
        [(kind, payload if kind == METADATA else content) for kind, content in SECTIONS]
    )


def signed(identity: Identity, pcr0: bytes | None = None) -> bytes:
    section = eifs.signature(pcr0 or eifs.pcrs()[0], identity.pem, identity.key)
    return eifs.eif([*SECTIONS, (SIGNATURE, section)])


def test_an_unsigned_image() -> None:
    pcrs = {f"PCR{index}": value.hex() for index, value in eifs.pcrs().items()}
    document = described(eifs.eif())
    assert document == {
        "EifVersion": 4,
        "Measurements": {"HashAlgorithm": "Sha384 { ... }", **pcrs},
        "IsSigned": False,
        "CheckCRC": True,
        "ImageName": "sample",
        "ImageVersion": "1.0",
        "Metadata": {
            **eifs.TELLING["BuildMetadata"],
            "DockerInfo": {"a": [2.5, None], "b": 1},
            "team": "x",  # Custom entries stand beside the others, and do not take their names.
        },
    }
    assert list(document["Metadata"]["DockerInfo"]) == ["a", "b"]
    assert list(document) == [
        "EifVersion", "Measurements", "IsSigned", "CheckCRC", "ImageName", "ImageVersion",
        "Metadata",
    ]  # fmt: skip


def test_a_signed_image(identity: Identity) -> None:
    document = described(signed(identity))
    assert document["IsSigned"] is document["SignatureCheck"] is True
    assert document["SigningCertificate"] == {
        # nitro-cli quotes as Rust does, then takes the quotation marks away.
        "IssuerName": {
            "commonName": "signer", "countryName": "DE", "organizationName": "A \\B\\ \\\\ Ü",
        },
        "Algorithm": "ecdsa-with-SHA256",
        "NotBefore": "Jan  5 07:08:09 2026 GMT",
        "NotAfter": "Nov 30 00:00:00 2999 GMT",
        "Signature": ":".join(f"{byte:02X}" for byte in identity.certificate.signature),
    }  # fmt: skip
    assert list(document)[2:6] == ["IsSigned", "SigningCertificate", "CheckCRC", "SignatureCheck"]
    assert list(document["Measurements"])[-1] == "PCR8"


def test_an_image_without_metadata() -> None:
    for data in (eifs.eif([*SECTIONS[:2], *SECTIONS[3:]]), with_metadata(b"null")):
        assert list(described(data)) == ["EifVersion", "Measurements", "IsSigned", "CheckCRC"]


@pytest.mark.parametrize(("custom", "shown"), [(None, {}), ([1], {"CustomMetadata": [1]})])
def test_custom_metadata_that_is_no_object(custom: Any, shown: dict[str, Any]) -> None:
    told = {**eifs.TELLING, "CustomMetadata": custom}
    document = described(with_metadata(json.dumps(told).encode()))
    assert list(document["Metadata"].items())[6:] == list(shown.items())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b"[" * 200_000,
        json.dumps({**eifs.TELLING, "ImageName": 7}).encode(),
        json.dumps({**eifs.TELLING, "BuildMetadata": {}}).encode(),
        json.dumps({k: v for k, v in eifs.TELLING.items() if k != "DockerInfo"}).encode(),
        json.dumps(eifs.TELLING).replace("2.5", "[" * 600 + "]" * 600).encode(),
        json.dumps(eifs.TELLING).replace("2.5", "NaN").encode(),
        json.dumps(eifs.TELLING).replace("2.5", "1e999").encode(),
        json.dumps(eifs.TELLING).replace("2.5", "9" * 5000).encode(),
        json.dumps(eifs.TELLING).replace('"x"', '"\\ud800"').encode(),
    ],
    ids=range(14),
)
def test_metadata_that_is_none(payload: bytes) -> None:
    with pytest.raises(EifError, match="the metadata section") as caught:
        described(with_metadata(payload))
    assert caught.value.offset == 548 + 12 + len(SECTIONS[0][1]) + 12 + len(SECTIONS[1][1]) + 12


def test_metadata_as_deep_as_aws_reads_it() -> None:
    """serde_json's limit is 128 levels, the document's own included."""
    for depth, is_read in ((json_text.MAX_DEPTH, True), (json_text.MAX_DEPTH + 1, False)):
        payload = "[" * depth + "]" * depth
        if is_read:
            metadata.parse_json(payload.encode())
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                metadata.parse_json(payload.encode())


def test_metadata_there_and_back() -> None:
    told = metadata.decode(json.dumps(eifs.TELLING).encode(), offset=0)
    assert told
    assert metadata.decode(told.encode(), offset=0) == told
    assert told.encode().startswith(b'{"ImageName":"sample","ImageVersion":"1.0","BuildMetadata":')


def damaged() -> bytes:
    data = bytearray(eifs.eif())
    data[-1] ^= 1
    return bytes(data)


def test_check_lets_good_images_pass(identity: Identity) -> None:
    assert check(io.BytesIO(eifs.eif()), at=WITHIN).pcrs == eifs.pcrs()
    assert check(io.BytesIO(signed(identity)), at=WITHIN).image.of_type(SectionType.SIGNATURE)


def test_check_refuses_and_describe_says(identity: Identity) -> None:
    cases: list[tuple[Callable[[], bytes], str, str]] = [
        (damaged, "the CRC is wrong", "CheckCRC"),
        (lambda: signed(identity, bytes(48)), "over another image", "SignatureCheck"),
    ]
    for make, reason, entry in cases:
        assert described(make())[entry] is False
        with pytest.raises(EifError, match=reason):
            check(io.BytesIO(make()), at=WITHIN)
    with pytest.raises(EifError, match="expired"):
        check(io.BytesIO(signed(identity)), at=NOT_AFTER + timedelta(days=1))


MEASURED = [payload for kind, payload in SECTIONS if kind in (eifs.KERNEL, eifs.CMDLINE)]
MEASURED += [payload for kind, payload in SECTIONS if kind == eifs.RAMDISK]


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        (MEASURED, "sections"),
        ([b"\x02\x40", *MEASURED], "flags before sections, big-endian"),
        ([b"\x40\x02", *MEASURED], "flags before sections, little-endian"),
        ([*MEASURED, b"\x02\x40"], "flags after sections, big-endian"),
        ([*MEASURED, b"\x40\x02"], "flags after sections, little-endian"),
    ],
)
def test_flags_count_as_the_signer_counted_them(
    identity: Identity, parts: list[bytes], rule: str
) -> None:
    pcr0 = eifs.pcr(*parts)
    section = eifs.signature(pcr0, identity.pem, identity.key)
    data = eifs.eif([*SECTIONS, (SIGNATURE, section)], flags=0x240)
    description = describe(io.BytesIO(data))
    assert description.pcrs[0] == pcr0
    assert description.pcr0_rule == rule
    assert description.pcrs[1] == eifs.pcrs()[1]
    assert check(io.BytesIO(data), at=WITHIN).is_whole
    assert as_nitro_cli(description).get("Pcr0Rule") == (None if rule == "sections" else rule)


def test_flags_that_nobody_vouches_for(identity: Identity) -> None:
    section = eifs.signature(bytes(48), identity.pem, identity.key)
    for data, reason in (
        (eifs.eif(flags=0x240), "0x0240.*not published, and it is not signed"),
        (eifs.eif([*SECTIONS, (SIGNATURE, section)], flags=0x241), "fits none of the likely ways"),
    ):
        with pytest.raises(EifError, match=reason):
            describe(io.BytesIO(data))


def test_validity_is_told_apart(identity: Identity) -> None:
    description = describe(io.BytesIO(signed(identity)))
    assert description.validity(WITHIN) == ()
    assert "expired" in description.validity(NOT_AFTER + timedelta(days=1))[0]
    assert describe(io.BytesIO(eifs.eif())).validity(WITHIN) == ()
