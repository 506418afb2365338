"""`Nsm`: each method asks the right thing, and what comes back is an answer or an `NsmError`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import NsmError, NsmRefusedError, NsmResponseError
from enclave.nsm import Nsm
from tests.enclave.nitro import Document
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable


class _Canned:
    """A device that has one answer, and remembers what it was asked."""

    def __init__(self, answer: object = None, *, wire: bytes | None = None) -> None:
        self.answer = cbor2.dumps(answer) if wire is None else wire
        self.asked: object = None

    def exchange(self, request: bytes) -> bytes:
        self.asked = cbor2.loads(request)
        return self.answer


def test_each_method_asks_and_answers() -> None:
    pcr = bytes(range(48))

    device = _Canned({"DescribePCR": {"lock": False, "data": pcr}})
    assert Nsm(device).describe_pcr(7).data == pcr
    assert device.asked == {"DescribePCR": {"index": 7}}

    device = _Canned({"ExtendPCR": {"data": pcr}})
    assert Nsm(device).extend_pcr(16, b"hello") == pcr
    assert device.asked == {"ExtendPCR": {"index": 16, "data": b"hello"}}

    device = _Canned("LockPCR")
    Nsm(device).lock_pcr(16)
    assert device.asked == {"LockPCR": {"index": 16}}

    device = _Canned("LockPCRs")
    Nsm(device).lock_pcrs(20)
    assert device.asked == {"LockPCRs": {"range": 20}}

    device = _Canned({"GetRandom": {"random": b"r" * 256}})
    assert Nsm(device).get_random() == b"r" * 256
    assert device.asked == "GetRandom"


def test_attesting() -> None:
    raw = Document(payload={"public_key": b"k", "user_data": b"u", "nonce": b"n"}).encode()
    device = _Canned({"Attestation": {"document": raw}})
    assert Nsm(device).attest(public_key=b"k", user_data=b"u", nonce=b"n") == raw
    assert device.asked == {"Attestation": {"public_key": b"k", "user_data": b"u", "nonce": b"n"}}


def test_empty_and_absent_are_one_when_attesting() -> None:
    raw = Document(payload={"user_data": b""}).encode()
    assert Nsm(_Canned({"Attestation": {"document": raw}})).attest(nonce=b"") == raw


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_a_document_made_for_another_request(name: str) -> None:
    raw = Document(payload={name: b"earlier"}).encode()
    nsm = Nsm(_Canned({"Attestation": {"document": raw}}))
    for asked in (b"mine", None):
        with pytest.raises(NsmResponseError, match=f"another {name}"):
            nsm.attest(**{name: asked})


def test_a_document_that_is_none() -> None:
    with pytest.raises(NsmResponseError, match="malformed attestation document"):
        Nsm(_Canned({"Attestation": {"document": b"doc"}})).attest()


def test_a_refusal_keeps_its_code() -> None:
    with pytest.raises(NsmRefusedError, match="LockPCR: ReadOnlyIndex"):
        Nsm(_Canned({"Error": "ReadOnlyIndex"})).lock_pcr(0)


def test_the_answer_to_something_else_is_none() -> None:
    with pytest.raises(NsmResponseError):
        Nsm(_Canned({"ExtendPCR": {"data": bytes(48)}})).describe_pcr(16)


CALLS: list[Callable[[Nsm], object]] = [
    lambda nsm: nsm.describe(),
    lambda nsm: nsm.describe_pcr(0),
    lambda nsm: nsm.extend_pcr(16, b""),
    lambda nsm: nsm.lock_pcr(16),
    lambda nsm: nsm.lock_pcrs(16),
    lambda nsm: nsm.get_random(),
    lambda nsm: nsm.attest(nonce=b"n"),
]


@given(wire=st.binary(max_size=100), call=st.sampled_from(CALLS))
def test_whatever_the_nsm_answers_only_nsm_errors_leave(
    wire: bytes, call: Callable[[Nsm], object]
) -> None:
    with pytest.raises(NsmError):
        call(Nsm(_Canned(wire=wire)))


def test_importing_it_is_light() -> None:
    """Start-up time: no X.509, no COSE, no AWS library comes along."""
    code = "import sys, enclave.nsm; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=TEST_TIMEOUT,
    ).stdout.split()
    assert "enclave.nsm.client" in loaded
    assert not {"cryptography", "pycose", "botocore", "urllib3", "ctypes"} & set(loaded)
