"""Documents of enclaves and of instances, told apart by their module ID and their PCRs."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.attestation import parse
from enclave.errors import ConfigurationError, DecodingError
from tests.enclave.attestation.verifying import failures_of, verified
from tests.enclave.nitro import Document


def test_an_enclave_has_32_pcrs_and_an_instance_24() -> None:
    [failure] = failures_of(Document(), pcrs={31: bytes(48)})
    assert failure.startswith("PCR31: expected")
    with pytest.raises(ConfigurationError, match="there is no PCR32"):
        verified(Document(), pcrs={32: bytes(48)})
    with pytest.raises(ConfigurationError, match="there is no PCR24"):
        verified(Document.of_an_instance(), platform="instance", pcrs={24: bytes(48)})


def test_a_document_of_an_instance() -> None:
    document = Document.of_an_instance(nonce=b"n")
    proven = verified(document, platform="instance", pcrs={4: b"\4" * 48, 23: [b"\x17" * 48]})
    assert proven.platform == "instance"
    assert proven.nitrotpm_pcrs[12] == b"\x0c" * 48
    assert not proven.pcrs
    assert not proven.is_debug
    [failure] = failures_of(document, platform="instance", pcrs={7: bytes(48)})
    assert failure == f"PCR7: expected {'00' * 48}, got {'07' * 48}"
    few = Document.of_an_instance(nitrotpm_pcrs={4: b"\4" * 48})
    [failure] = failures_of(few, platform="instance", pcrs={7: bytes(48)})
    assert failure == f"PCR7: expected {'00' * 48}, got none"


def test_an_instance_whose_first_pcrs_are_zero_is_not_in_debug_mode() -> None:
    """PCR0 to PCR2 are firmware's there; a debug mode is an enclave's."""
    pcrs = dict.fromkeys(range(24), bytes(48))
    assert not verified(Document.of_an_instance(nitrotpm_pcrs=pcrs), platform="instance").is_debug


@pytest.mark.parametrize("expectations", [{}, {"platform": "enclave"}, {"allow_debug": True}])
def test_who_expects_an_enclave_takes_no_instance(expectations: dict[str, Any]) -> None:
    """Nor are an instance's PCRs compared with those of an enclave, whose numbers they share."""
    [failure] = failures_of(Document.of_an_instance(), pcrs={4: b"\4" * 48}, **expectations)
    assert failure == (
        "platform: expected an enclave, got the document of an EC2 instance (NitroTPM)"
    )


def test_who_expects_an_instance_takes_no_enclave() -> None:
    [failure] = failures_of(Document(), platform="instance", pcrs={4: b"\4" * 48})
    assert failure == (
        "platform: expected an EC2 instance (NitroTPM), got the document of an enclave"
    )


@pytest.mark.parametrize(
    ("document", "platform"),
    [
        (Document(payload={"module_id": "i-0123456789abcdef0-tpm0000000000000000"}), "enclave"),
        (Document.of_an_instance(module_id="i-0123456789abcdef0-enc0123456789abcdef"), "instance"),
        (Document.of_an_instance(module_id="i-0123456789abcdef0"), "instance"),
    ],
)
def test_a_module_id_of_another_platform(document: Document, platform: str) -> None:
    [failure] = failures_of(document, platform=platform)
    assert failure.startswith(f"platform: {document.payload['module_id']} is not the module of")


@pytest.mark.parametrize("tpm", [{0: bytes(48)}, {}, None, 0])
def test_pcrs_of_both_platforms(tpm: object) -> None:
    raw = Document(payload={"nitrotpm_pcrs": tpm}).encode()
    with pytest.raises(DecodingError, match="has both pcrs and nitrotpm_pcrs"):
        parse(raw)


def test_pcrs_of_neither_platform() -> None:
    document = Document()
    del document.payload["pcrs"]
    with pytest.raises(DecodingError, match="has neither pcrs nor nitrotpm_pcrs"):
        parse(document.encode())


@pytest.mark.parametrize(
    "pcrs", [None, {}, [], {24: bytes(48)}, {-1: bytes(48)}, {"0": bytes(48)}, {0: bytes(32)}]
)
def test_nitrotpm_pcrs_that_are_none(pcrs: object) -> None:
    with pytest.raises(DecodingError):
        parse(Document.of_an_instance(nitrotpm_pcrs=pcrs).encode())
