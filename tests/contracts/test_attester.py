"""What everything that vouches for a public key must do, held over each `Attester`."""

from __future__ import annotations

import contextlib
import socket
import threading
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from enclave.attestation import parse
from enclave.attestation.verify import verify
from enclave.errors import (
    AgentError,
    AttestationError,
    AttesterError,
    ConfigurationError,
)
from enclave.nitrotpm import DevTpm, NitroTpm
from enclave.nsm import DevNsm, Nsm
from enclave_simulator.authority import Authority
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from enclave_simulator.nsm import SimulatedNsm
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave.attester import Attester


def simulated_nsm(_stack: contextlib.ExitStack) -> Attester:
    return Nsm(SimulatedNsm(Authority.generate()))


def simulated_nitrotpm(_stack: contextlib.ExitStack) -> Attester:
    return NitroTpm(SimulatedNitroTpm(Authority.generate()))


def simulated_nitrotpm_behind_the_driver(_stack: contextlib.ExitStack) -> Attester:
    """Through `DevTpm`, whose descriptors lead to the simulated TPM."""
    tpm = SimulatedNitroTpm(Authority.generate())

    def open_(_path: str, _flags: int) -> int:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def serve() -> None:
            with far:
                while command := far.recv(4096):
                    far.send(tpm.exchange(command))

        threading.Thread(target=serve, daemon=True).start()
        return near.detach()

    return NitroTpm(DevTpm(_open=open_))


def dev_nsm(stack: contextlib.ExitStack) -> Attester:
    return Nsm(stack.enter_context(DevNsm()))


def dev_tpm(_stack: contextlib.ExitStack) -> Attester:
    tpm = NitroTpm()
    tpm.describe()
    return tpm


ATTESTERS: list[Callable[[contextlib.ExitStack], Attester]] = [
    simulated_nsm,
    simulated_nitrotpm,
    simulated_nitrotpm_behind_the_driver,
    dev_nsm,
    dev_tpm,
]


@pytest.fixture(params=ATTESTERS, ids=lambda make: make.__name__)
def attester(request: pytest.FixtureRequest) -> Iterator[Attester]:
    with contextlib.ExitStack() as stack:
        try:
            made = request.param(stack)
        except AttesterError as e:
            pytest.skip(f"{e} ({e.hint})")
        yield made


def test_a_document_holds_what_was_given(attester: Attester) -> None:
    raw = attester.attest(public_key=b"k" * 1024, user_data=b"u" * 1024, nonce=b"n" * 1024)
    document = parse(raw)
    verify(
        raw,
        at=document.timestamp,
        max_age=timedelta(0),
        platform=document.platform,
        pcrs=document.pcrs or document.nitrotpm_pcrs,
        public_key=b"k" * 1024,
        user_data=b"u" * 1024,
        nonce=b"n" * 1024,
        # Whose root it is, and whether in debug mode, is not the contract.
        root_fingerprint=sha256(document.cabundle[0]).digest(),
        allow_debug=True,
    )


def test_a_document_of_nothing(attester: Attester) -> None:
    document = parse(attester.attest())
    assert document.public_key is document.user_data is document.nonce is None


def test_a_document_lists_the_pcrs_of_one_platform(attester: Attester) -> None:
    document = parse(attester.attest())
    is_enclave = document.platform == "enclave"
    assert bool(document.pcrs) is is_enclave
    assert bool(document.nitrotpm_pcrs) is not is_enclave
    other = "instance" if is_enclave else "enclave"
    with pytest.raises(AttestationError) as caught:
        verify(document, at=document.timestamp, max_age=None, pcrs=None, platform=other)
    assert caught.value.failures[0].startswith("platform: expected")


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
def test_fields_are_bytes_of_at_most_1024(attester: Attester, field: str) -> None:
    for value in (bytes(1025), "text"):
        with pytest.raises(ConfigurationError, match=field):
            attester.attest(**{field: value})  # type: ignore[arg-type]


def test_threads_get_their_own_documents(attester: Attester) -> None:
    wrong: list[object] = []

    def ask(nonce: bytes) -> None:
        try:
            got = [parse(attester.attest(nonce=nonce)).nonce for _ in range(3)]
            wrong.extend(other for other in got if other != nonce)
        except AgentError as e:
            wrong.append(e)

    threads = [threading.Thread(target=ask, args=(bytes([i]) * 8,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()
    assert wrong == []
