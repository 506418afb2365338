"""What every NSM device must do, held over each implementation of `NsmDevice`.

A real NSM keeps what is done to it for the enclave's life, and tests run in any order and beside
each other: each that changes a PCR has one of its own.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from hashlib import sha256, sha384
from typing import TYPE_CHECKING

import cbor2
import pytest

from enclave.attestation import parse
from enclave.attestation.verify import verify
from enclave.errors import NsmRefusedError, NsmUnavailableError
from enclave.nsm import DevNsm, Nsm, NsmDevice, messages
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def simulated_nsm() -> SimulatedNsm:
    return SimulatedNsm(Authority.generate())


DEVICES: list[Callable[[], NsmDevice]] = [simulated_nsm, DevNsm]


@pytest.fixture(params=DEVICES, ids=lambda make: make.__name__)
def device(request: pytest.FixtureRequest) -> Iterator[NsmDevice]:
    try:
        made = request.param()
    except NsmUnavailableError as e:
        pytest.skip(f"{e} ({e.hint})")
    yield made
    if isinstance(made, DevNsm):
        made.close()


@pytest.fixture
def nsm(device: NsmDevice) -> Nsm:
    return Nsm(device)


def _unlocked(nsm: Nsm, index: int) -> messages.DescribePCRResponse:
    pcr = nsm.describe_pcr(index)
    if pcr.lock:
        pytest.skip(f"PCR{index} is locked, as an earlier run left it: start a new enclave")
    return pcr


def test_it_describes_itself(nsm: Nsm) -> None:
    described = nsm.describe()
    assert described.max_pcrs == 32
    assert described.locked_pcrs >= set(range(16))
    assert described.digest == "SHA384"
    assert described.module_id


def test_random_bytes(nsm: Nsm) -> None:
    first, second = nsm.get_random(), nsm.get_random()
    assert len(first) == len(second) == 256
    assert first != second


def test_pcrs_of_the_image_are_locked(nsm: Nsm) -> None:
    assert all(nsm.describe_pcr(index).lock for index in range(16))
    with pytest.raises(NsmRefusedError) as caught:
        nsm.extend_pcr(0, b"other")
    assert caught.value.code == "ReadOnlyIndex"


def test_extending_a_pcr(nsm: Nsm) -> None:
    value = _unlocked(nsm, 24).data
    for data in (b"hello", b"", b"x" * 1000):
        extended = nsm.extend_pcr(24, data)
        assert extended == sha384(value + data).digest()
        assert nsm.describe_pcr(24) == messages.DescribePCRResponse(lock=False, data=extended)
        value = extended


def test_locking_a_pcr(nsm: Nsm) -> None:
    value = _unlocked(nsm, 25).data
    nsm.lock_pcr(25)
    assert nsm.describe_pcr(25) == messages.DescribePCRResponse(lock=True, data=value)
    for again in (lambda: nsm.lock_pcr(25), lambda: nsm.extend_pcr(25, b"x")):
        with pytest.raises(NsmRefusedError) as caught:
            again()
        assert caught.value.code == "ReadOnlyIndex"
    assert 25 in nsm.describe().locked_pcrs
    assert parse(nsm.attest()).pcrs[25] == value


def test_locking_a_range_of_pcrs(nsm: Nsm) -> None:
    for _ in range(2):  # Unlike LockPCR, again is fine.
        nsm.lock_pcrs(18)
        assert nsm.describe().locked_pcrs >= set(range(18))
    nsm.lock_pcrs(0)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"ExtendPCR": {"index": 32, "data": b""}}, "InvalidIndex"),
        ({"LockPCR": {"index": 32}}, "InvalidIndex"),
        ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
        ({"GetRandom": {}}, "InvalidOperation"),
    ],
)
def test_what_it_refuses(device: NsmDevice, request_: object, code: str) -> None:
    """Sent as bytes: the typed requests cannot be made so."""
    assert cbor2.loads(device.exchange(cbor2.dumps(request_))) == {"Error": code}


@pytest.mark.parametrize("request_", [b"\xff", b"\0", b"\x6bDescribe", cbor2.dumps("Nothing")])
def test_a_request_that_is_none_is_answered_with_an_error(
    device: NsmDevice, request_: bytes
) -> None:
    assert list(cbor2.loads(device.exchange(request_))) == ["Error"]


def test_attesting(nsm: Nsm) -> None:
    raw = nsm.attest(public_key=b"k" * 1024, user_data=b"u" * 1024, nonce=b"n" * 1024)
    document = parse(raw)
    verify(
        raw,
        at=document.timestamp,
        max_age=timedelta(0),
        pcrs={index: nsm.describe_pcr(index).data for index in range(16)},
        public_key=b"k" * 1024,
        user_data=b"u" * 1024,
        nonce=b"n" * 1024,
        # Whose NSM it is, and whether in debug mode, is not the device's contract.
        root_fingerprint=sha256(document.cabundle[0]).digest(),
        allow_debug=True,
    )
    assert document.module_id == nsm.describe().module_id


def test_attesting_nothing(nsm: Nsm) -> None:
    document = parse(nsm.attest())
    assert document.public_key is document.user_data is document.nonce is None
    # Locked PCRs only; 26 is nobody's here.
    assert set(range(16)) <= set(document.pcrs)
    assert (26 in document.pcrs) == nsm.describe_pcr(26).lock


def test_threads_get_their_own_answers(nsm: Nsm) -> None:
    wrong: list[object] = []

    def ask(nonce: bytes) -> None:
        try:
            got = [parse(nsm.attest(nonce=nonce)).nonce for _ in range(3)]
            wrong.extend(other for other in got if other != nonce)
        except Exception as e:  # noqa: BLE001 (whatever it is, the test must hear of it)
            wrong.append(e)

    threads = [threading.Thread(target=ask, args=(bytes([i]) * 8,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()
    assert wrong == []
