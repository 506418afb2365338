"""Which attester an agent uses, and the calls of an agent on an EC2 instance."""

from __future__ import annotations

import errno
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from enclave import Agent
from enclave.attestation import parse
from enclave.attester import find_attester
from enclave.errors import (
    AttesterError,
    ConfigurationError,
    KmsRefusedError,
    NotNitroTpmError,
    NsmUnavailableError,
    TpmBusyError,
    TpmRefusedError,
    TpmUnavailableError,
)
from enclave.nitrotpm import DevTpm, NitroTpm
from enclave.nsm import DevNsm, Nsm
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from tests.doubles import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.authority import Authority
    from enclave_simulator.kms.threaded import KmsSimulator


def _failing(code: int) -> Callable[[str, int], int]:
    def refuse(_path: str, _flags: int) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


def _nsm(code: int | None) -> Callable[[], DevNsm]:
    if code is None:
        return lambda: DevNsm(_open=lambda _, flags: os.open(os.devnull, flags))
    return lambda: DevNsm(_open=_failing(code))


def _tpm(code: int) -> Callable[[], NitroTpm]:
    return lambda: NitroTpm(DevTpm(_open=_failing(code), _clock=ManualClock()))


def _never() -> Any:
    pytest.fail("it was looked for")


@pytest.mark.parametrize("name", ["auto", "nsm"])
def test_an_nsm_that_is_there(name: str) -> None:
    found = find_attester(name, open_nsm=_nsm(None), open_tpm=_never)
    assert isinstance(found.attester, Nsm)
    assert found.title == "the NSM"
    assert found.device
    found.device.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EBUSY, errno.EIO])
def test_an_nsm_that_cannot_be_used_is_not_replaced_by_a_tpm(code: int) -> None:
    with pytest.raises(NsmUnavailableError, match="/dev/nsm"):
        find_attester("auto", open_nsm=_nsm(code), open_tpm=_never)


def test_a_nitrotpm_where_there_is_no_nsm(simulated_nitrotpm: SimulatedNitroTpm) -> None:
    for name, nsm in (("auto", _nsm(errno.ENOENT)), ("nitrotpm", _never)):
        found = find_attester(name, open_nsm=nsm, open_tpm=lambda: NitroTpm(simulated_nitrotpm))
        assert isinstance(found.attester, NitroTpm)
        assert found.device is None
        assert found.title == "the NitroTPM at simulated TPM (NitroTPMv1.0)"
    with pytest.raises(NsmUnavailableError):
        find_attester("nsm", open_nsm=_nsm(errno.ENOENT), open_tpm=_never)


def test_neither() -> None:
    """As in an enclave without the driver, or on a developer's machine: as it always was."""
    with pytest.raises(NsmUnavailableError, match="cannot open /dev/nsm") as caught:
        find_attester("auto", open_nsm=_nsm(errno.ENOENT), open_tpm=_tpm(errno.ENOENT))
    assert ";" not in str(caught.value)
    assert "enclave-simulator run" in caught.value.hint
    with pytest.raises(TpmUnavailableError, match="there is no TPM"):
        find_attester("nitrotpm", open_nsm=_never, open_tpm=_tpm(errno.ENOENT))


def test_the_tpm_of_a_developers_machine(nitro_authority: Authority) -> None:
    """It is no NitroTPM, or may not be opened: what is missing is still an NSM."""
    other = SimulatedNitroTpm(nitro_authority, manufacturer="INTC", name="Intel")
    makers: list[tuple[Callable[[], NitroTpm], str, type[AttesterError]]] = [
        (lambda: NitroTpm(other), "is not a NitroTPM", NotNitroTpmError),
        (_tpm(errno.EACCES), "cannot open /dev/tpmrm0: Permission denied", TpmUnavailableError),
    ]
    for make, reason, error in makers:
        with pytest.raises(NsmUnavailableError, match=f"/dev/nsm: .*; .*{reason}") as caught:
            find_attester("auto", open_nsm=_nsm(errno.ENOENT), open_tpm=make)
        assert "enclave-simulator run" in caught.value.hint
        with pytest.raises(error, match=reason):
            find_attester("nitrotpm", open_nsm=_never, open_tpm=make)


def test_a_nitrotpm_that_cannot_be_used_is_named(simulated_nitrotpm: SimulatedNitroTpm) -> None:
    with pytest.raises(TpmBusyError):
        find_attester("auto", open_nsm=_nsm(errno.ENOENT), open_tpm=_tpm(errno.EBUSY))
    simulated_nitrotpm.fail_with(0x101)
    with pytest.raises(TpmRefusedError, match="TPM_RC_FAILURE"):
        find_attester(
            "auto", open_nsm=_nsm(errno.ENOENT), open_tpm=lambda: NitroTpm(simulated_nitrotpm)
        )


def test_no_such_attester() -> None:
    for make in (lambda: find_attester("tpm"), lambda: Agent(region="eu-west-1", attester="tpm")):
        with pytest.raises(ConfigurationError, match="no such attester: 'tpm'") as caught:
            make()
        assert caught.value.hint == "there are auto, nsm, nitrotpm"


def test_what_an_agent_says_about_its_attester(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    simulated_nitrotpm: SimulatedNitroTpm,
) -> None:  # fmt: skip
    monkeypatch.setattr("enclave.agent.find_attester", lambda name: find_attester(
        name, open_nsm=_nsm(errno.ENOENT), open_tpm=lambda: NitroTpm(simulated_nitrotpm)
    ))  # fmt: skip
    with (
        caplog.at_level(logging.DEBUG, "enclave"),
        Agent(region="eu-west-1", credentials="environment", sign_requests=False) as agent,
    ):
        document = parse(agent.recipient().attestation_document())
    assert document.platform == "instance"
    said = {
        level: [each.getMessage() for each in caplog.records if each.levelno == level]
        for level in (logging.INFO, logging.DEBUG)
    }
    # --verbose: the module id has the platform in it; --debug: the device as well.
    pcr4 = document.nitrotpm_pcrs[4].hex()
    [line] = [each for each in said[logging.INFO] if "attested by" in each]
    assert f"attested by {document.module_id}, PCR4 {pcr4}" in line
    assert (
        "the key pair is attested by the NitroTPM at simulated TPM (NitroTPMv1.0)"
        in said[logging.DEBUG]
    )


def test_every_attested_operation_on_an_instance(
    instance_agent: Agent, kms_simulator: KmsSimulator, simulated_nitrotpm: SimulatedNitroTpm
) -> None:
    kms_simulator.service.add_key("alias/mine")
    assert len(instance_agent.generate_random(32)) == 32
    data_key = instance_agent.generate_data_key("alias/mine", number_of_bytes=32)
    decrypted = instance_agent.decrypt(data_key.ciphertext_blob)
    assert decrypted.plaintext == data_key.plaintext
    assert len(simulated_nitrotpm.calls) > 0
    assert not simulated_nitrotpm.nv


def test_kms_guards_a_key_by_the_pcrs_of_the_nitrotpm(
    instance_agent: Agent, agent: Agent, simulated_nitrotpm: SimulatedNitroTpm
) -> None:
    """AWS's documented conditions: PCR4 with PCR12. An enclave's document does not meet them."""
    pcrs = simulated_nitrotpm.pcrs
    for pcr12, allowed in ((pcrs[12], True), (pcrs[4], False)):
        key_id = _key(instance_agent, {4: pcrs[4], 12: pcr12})
        sealed = instance_agent.call("Encrypt", {"KeyId": key_id, "Plaintext": "aGVsbG8="})
        parameters = {"CiphertextBlob": sealed.content["CiphertextBlob"]}
        if allowed:
            content = instance_agent.call("Decrypt", parameters).content
            assert content["Plaintext"] == b"hello"
        else:
            with pytest.raises(KmsRefusedError, match="AccessDenied"):
                instance_agent.call("Decrypt", parameters)
        with pytest.raises(KmsRefusedError, match="AccessDenied"):
            agent.call("Decrypt", parameters)


def _key(agent: Agent, pcrs: dict[int, bytes]) -> str:
    conditions = {
        f"kms:RecipientAttestation:NitroTPMPCR{index}": value.hex() for index, value in pcrs.items()
    }
    attested = ["kms:Decrypt", "kms:GenerateDataKey*", "kms:DeriveSharedSecret"]
    everyone = {"AWS": "*"}
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": everyone, "NotAction": attested, "Resource": "*"},
            {"Effect": "Allow", "Principal": everyone, "Action": attested, "Resource": "*",
             "Condition": {"StringEqualsIgnoreCase": conditions}},
        ],
    }  # fmt: skip
    made = agent.call("CreateKey", {"Policy": json.dumps(policy)})
    key_id: str = made.content["KeyMetadata"]["KeyId"]
    return key_id
