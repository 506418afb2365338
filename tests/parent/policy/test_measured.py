"""Measurements out of documents, images' JSON and values, whatever the bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.policy import measured
from parent.policy.actions import Platform, PolicyError
from tests.parent.policy.policies import A0, B0, IMAGE, PCR, ROLE, TPM
from tests.vectors import vector

PCRS = {0: bytes([1]) * 48, 1: bytes([2]) * 48, 8: bytes([9]) * 48}
ZERO = bytes(48)


def document(pcrs: object = PCRS, module_id: object = "i-1-enc2", field: str = "pcrs") -> bytes:
    payload = cbor2.dumps({"module_id": module_id, field: pcrs})
    return cbor2.dumps([b"\xa1\x01\x38\x22", {}, payload, bytes(96)])


def nitro_cli(pcrs: dict[int, bytes] = PCRS, **changes: Any) -> dict[str, Any]:
    named = {f"PCR{index}": value.hex().upper() for index, value in pcrs.items()}
    return {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **named}, **changes}


def enclave(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "EnclaveName": name, "EnclaveID": f"i-1-enc{name}", "EnclaveCID": len(name),
        "Flags": "NONE", **nitro_cli(), **changes,
    }  # fmt: skip


def described(*enclaves: dict[str, Any]) -> bytes:
    return json.dumps(list(enclaves), indent=1).encode()


@pytest.mark.parametrize(
    "data",
    [
        document(),
        b"\xd2" + document(),
        document() + b"\n",
        document().hex().encode(),
        base64.b64encode(document()) + b"\n",
        json.dumps({"attestation": base64.b64encode(document()).decode()}).encode(),
    ],
    ids=["document", "tagged", "line end", "hex", "base64", "in JSON"],
)
def test_documents(data: bytes) -> None:
    found = measured.parse(data)
    assert (found.pcrs, found.platform, found.unknown) == (PCRS, Platform.ENCLAVE, frozenset())
    assert not found.is_debug
    assert found.context() == {
        "kms:recipientattestation:imagesha384": "01" * 48,
        "kms:recipientattestation:pcr0": "01" * 48,
        "kms:recipientattestation:pcr1": "02" * 48,
        "kms:recipientattestation:pcr8": "09" * 48,
    }
    assert found.value(f"{PCR}2") == ()


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(nitro_cli()).encode(),
        json.dumps(nitro_cli(EifVersion=4), indent=2).encode("utf-16"),
        described(enclave("a")),
        json.dumps(enclave("a")).encode(),
    ],
    ids=["build-enclave", "describe-eif", "describe-enclaves", "run-enclave"],
)
def test_json_of_nitro_cli(data: bytes) -> None:
    """It tells what the image determines; the parent's and the program's PCRs are not known."""
    found = measured.parse(data)
    assert {index: found.pcrs[index] for index in PCRS} == PCRS
    assert found.value(f"{PCR}5") == (ZERO.hex(),)
    for index in (3, 4, 16, 31):
        assert found.value(f"{PCR}{index}") is None
    assert found.value(f"{TPM}4") == ()


def test_an_unsigned_image_has_zero_in_pcr8() -> None:
    found = measured.parse(json.dumps(nitro_cli({0: b"\1" * 48})).encode())
    assert found.value(f"{PCR}8") == (ZERO.hex(),)


def test_debug_mode_means_zeros() -> None:
    found = measured.parse(described(enclave("a", Flags="DEBUG_MODE")))
    assert found.is_debug
    assert found.value(IMAGE) == found.value(f"{PCR}1") == (ZERO.hex(),)
    assert found.value(f"{PCR}8") is None


@pytest.mark.parametrize("wanted", ["bb", "i-1-encbb", "2"])
def test_one_of_several_enclaves(wanted: str) -> None:
    several = described(
        enclave("a"), enclave("bb", Measurements=nitro_cli({0: b"\5" * 48})["Measurements"])
    )
    assert measured.parse(several, enclave=wanted).pcrs[0] == b"\5" * 48


@pytest.mark.parametrize(
    ("data", "wanted", "message"),
    [
        (described(enclave("a"), enclave("b")), None, r"which enclave\? .* a \(i-1-enca\), b \("),
        (described(enclave("a"), enclave("b")), "c", r"no enclave is 'c': .* a \(i-1-enca\), b"),
        (described(enclave("a"), enclave("a", EnclaveID="x")), "a", r"a \(i-1-enca\), a \(x\)"),
        (described(enclave("a")), "b", "no enclave is 'b'"),
        (described(enclave("\x1b[2J"), enclave("b")), None, r"lists \?, b"),
        (b"[]", None, "listed no enclave"),
        (described(enclave("a", Measurements=None)), None, r"enclave a \(i-1-enca\) has no Meas"),
    ],
)
def test_which_enclave(data: bytes, wanted: str | None, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        measured.parse(data, enclave=wanted)


def tpm_json(**pcrs: str) -> bytes:
    return json.dumps({"Measurements": {"HashAlgorithm": "SHA384", **pcrs}}).encode()


def test_a_nitro_tpm() -> None:
    for data in (
        tpm_json(PCR4=A0, PCR7=A0, PCR12="00" * 48),
        document({4: b"\xa0" * 48, 7: b"\xa0" * 48, 12: ZERO}, field="nitrotpm_pcrs"),
    ):
        found = measured.parse(data)
        assert found.platform is Platform.INSTANCE
        assert not found.is_debug
        assert found.value(f"{TPM}4") == (A0,)
        assert found.value(f"{TPM}12") == (ZERO.hex(),)
        assert found.value(f"{PCR}4") == ()
    assert measured.parse(tpm_json(PCR4=A0)).value(f"{TPM}0") is None


def test_platforms() -> None:
    enclaves, tpm = json.dumps(nitro_cli()).encode(), tpm_json(PCR4=A0)
    assert measured.parse(enclaves, platform=Platform.SANDBOX).platform is Platform.SANDBOX
    for data, platform in (
        (enclaves, Platform.INSTANCE),
        (tpm, Platform.ENCLAVE),
        (tpm, Platform.SANDBOX),
    ):
        with pytest.raises(PolicyError, match="measurements of an"):
            measured.parse(data, platform=platform)


@pytest.mark.parametrize(
    ("name", "is_debug"), [("tee-verifier-0.bin", False), ("dstack-attest-dbg.bin", True)]
)
def test_real_documents(name: str, is_debug: bool) -> None:
    found = measured.parse(vector(f"attestation/{name}"))
    assert found.is_debug is is_debug
    assert set(range(16)) <= set(found.pcrs)
    assert found.origin.startswith("attestation document of i-")


def test_a_real_document_of_a_nitro_tpm() -> None:
    found = measured.parse(vector("nitrotpm/nitrotpm-2026-08.cbor"))
    assert (found.platform, set(found.pcrs)) == (Platform.INSTANCE, set(range(24)))


def test_what_the_parent_adds() -> None:
    image = measured.of_image(PCRS, "x")
    found = measured.with_parent(image, role=ROLE, instance="i-1")
    assert found.pcrs[3] == hashlib.sha384(bytes(48) + ROLE.encode()).digest()
    assert found.pcrs[4] == hashlib.sha384(bytes(48) + b"i-1").digest()
    assert not found.unknown & {3, 4}
    assert measured.with_parent(image, role=None, instance=None) == image
    with pytest.raises(PolicyError, match="has no parent"):
        measured.with_parent(measured.parse(tpm_json(PCR4=A0)), role=ROLE, instance=None)


def test_values() -> None:
    found = measured.of_values(f"PCR17={A0},PCR0={A0}", platform=Platform.SANDBOX)
    assert (found.platform, set(found.pcrs)) == (Platform.SANDBOX, {0, 17})
    assert found.value(f"{PCR}1") is None
    for wrong in ("PCR17=a0", f"PCR32={A0}", f"PCR00={A0}", f"PCR17={A0},", f"ImageSha384={A0}"):
        with pytest.raises(PolicyError, match="is not PCR0 to PCR31"):
            measured.of_values(wrong, platform=None)
    with pytest.raises(PolicyError, match="is not PCR0 to PCR23"):
        measured.of_values(f"PCR24={A0}", platform=Platform.INSTANCE)
    with pytest.raises(PolicyError, match="PCR8 is given twice"):
        measured.of_values(f"PCR8={A0},PCR0={A0},PCR8={B0}", platform=None)


def test_json_of_nitro_cli_pcr() -> None:
    found = measured.parse(json.dumps({"PCR8": A0}).encode())
    assert found.value(f"{PCR}8") == (A0,)
    assert found.value(IMAGE) is None
    assert not found.is_debug


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x81" * 5000, "neither"),
        (b"{", "not JSON, though they begin like it: line 1, column 2"),
        (b'[\n {"Measurements": x}]', "line 2, column 19"),
        (b"[" * 200 + b"]" * 200, "nested too deeply"),
        (b"{}", "no attestation document in the JSON"),
        # Which of the two was meant? Readers of JSON disagree.
        (f'{{"PCR8": "{A0}", "PCR8": "{B0}"}}'.encode(), "the name 'PCR8' twice"),
        (
            f'{{"Measurements": {{"PCR0": "{A0}", "PCR1": "{A0}", "PCR0": "{B0}"}}}}'.encode(),
            "the name 'PCR0' twice",
        ),
        (b"{\xff", "neither"),
        (b".eif1234", "an enclave image"),
        (json.dumps({"Measurements": {"PCR0": "00"}}).encode(), "PCR0 is not 48 bytes"),
        (json.dumps({"Measurements": {"PCR1": "00" * 48}}).encode(), "no PCR0"),
        (tpm_json(PCR4=A0, PCR24=A0), "PCR0 to PCR23"),
        (document({0: b"short"}), "not of SHA-384"),
        (document({32: bytes(48)}), "not of SHA-384"),
        (document({24: bytes(48)}, field="nitrotpm_pcrs"), "not of SHA-384"),
        (document({True: bytes(48)}), "not of SHA-384"),
        (document({1: bytes(48)}), "no PCR0"),
        (document([]), "neither|no PCR0"),
        (bytes(measured.MAX_INPUT + 1), "more than"),
    ],
)
def test_what_measures_nothing(data: bytes, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        measured.parse(data)


def test_origins_are_printable() -> None:
    assert measured.parse(document(module_id="\x1b[2J")).origin == "attestation document of ?"


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: document()[:60] + tail))
def test_only_the_documented_error(data: bytes) -> None:
    with contextlib.suppress(PolicyError):
        measured.parse(data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4) | st.just(A0),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Measurements", "PCR0", "PCR4", "EnclaveID", "EnclaveName", "Flags"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_only_the_documented_error_from_json(value: Any) -> None:
    with contextlib.suppress(PolicyError):
        measured.parse(json.dumps(value).encode())
