"""`NitroTpm`: what it makes of a TPM that is not there, not AWS's, busy, full, or out of order."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.attestation import parse
from enclave.errors import (
    AttesterError,
    ConfigurationError,
    NotNitroTpmError,
    NsmRefusedError,
    TpmBusyError,
    TpmRefusedError,
    TpmResponseError,
    TpmTimeoutError,
    TpmUnavailableError,
)
from enclave.nitrotpm import DevTpm, NitroTpm
from enclave.nitrotpm.client import LEFT_BEHIND_AFTER, NV_INDEX, TIMEOUT
from enclave_simulator import nitrotpm as simulated
from enclave_simulator.authority import Authority
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from enclave_simulator.nsm import SimulatedNsm
from tests.doubles import ManualClock
from tests.enclave.nitrotpm.swtpm import swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enclave.nitrotpm import TpmChannel


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tpm(simulated_nitrotpm: SimulatedNitroTpm, clock: ManualClock) -> NitroTpm:
    return NitroTpm(simulated_nitrotpm, clock=clock)


def test_nothing_is_left_in_the_tpm(tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm) -> None:
    for _ in range(3):
        tpm.attest()
        assert not simulated_nitrotpm.nv


def test_which_tpm_it_is(tpm: NitroTpm) -> None:
    described = tpm.describe()
    assert described.manufacturer == "AMZN"
    assert described.name == "NitroTPMv1.0"


@pytest.mark.parametrize("buffer_size", [1, 7, 512, 1024, 2048])
def test_as_much_at_once_as_the_tpm_takes(nitro_authority: Authority, buffer_size: int) -> None:
    device = SimulatedNitroTpm(nitro_authority, buffer_size=buffer_size)
    given: dict[str, Any] = dict.fromkeys(("public_key", "user_data", "nonce"), b"x" * 1024)
    assert parse(NitroTpm(device).attest(**given)).nonce == b"x" * 1024


def test_too_much_for_a_field_is_refused_before_anything_is_sent(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm
) -> None:
    with pytest.raises(ConfigurationError, match="over 1024"):
        tpm.attest(nonce=bytes(1025))
    assert not simulated_nitrotpm.calls


def test_a_tpm_of_another_maker(nitro_authority: Authority) -> None:
    device = SimulatedNitroTpm(nitro_authority, manufacturer="IBM", name="SW\x1b  TPM")
    for use in (NitroTpm(device).describe, NitroTpm(device).attest):
        with pytest.raises(NotNitroTpmError, match=r"manufacturer is 'IBM', its name 'SW\?  TPM'"):
            use()
    assert not device.calls[simulated.NV_DEFINE_SPACE]


def test_swtpm_is_not_a_nitrotpm(tmp_path: Path) -> None:
    with swtpm(tmp_path) as device, pytest.raises(NotNitroTpmError, match="'SW   TPM'") as caught:
        NitroTpm(device).attest()
    assert "attestable AMI" in caught.value.hint


def test_a_tpm_whose_nv_memory_is_full(nitro_authority: Authority) -> None:
    device = SimulatedNitroTpm(nitro_authority, nv_space=8000)
    with pytest.raises(TpmRefusedError, match="TPM2_NV_DefineSpace: TPM_RC_NV_SPACE") as caught:
        NitroTpm(device).attest()
    assert "full" in caught.value.hint
    assert not device.nv


def test_a_password_on_the_owner_hierarchy(nitro_authority: Authority) -> None:
    device = SimulatedNitroTpm(nitro_authority, owner_password=b"secret")
    with pytest.raises(TpmRefusedError, match="TPM_RC_BAD_AUTH") as caught:
        NitroTpm(device).attest()
    assert "owner hierarchy has a password" in caught.value.hint


@pytest.mark.parametrize(
    "command",
    [simulated.GET_CAPABILITY, simulated.NV_DEFINE_SPACE, simulated.NV_WRITE,
     simulated.NSM_REQUEST, simulated.NV_READ],
)  # fmt: skip
@pytest.mark.parametrize("garbage", [b"", b"\x80\x01", b"x" * 4097, bytes(10), b"\xff" * 100])
def test_a_tpm_that_answers_nonsense(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, command: int, garbage: bytes
) -> None:
    simulated_nitrotpm.respond_with(garbage, command=command, times=1)
    with pytest.raises(TpmResponseError, match="malformed"):
        tpm.attest()
    # What was defined is undefined, except an index whose definition was not confirmed.
    assert (NV_INDEX in simulated_nitrotpm.nv) <= (command == simulated.NV_DEFINE_SPACE)
    assert parse(tpm.attest()).platform == "instance"


@pytest.mark.parametrize(
    "response",
    [
        {"Error": "InternalError"},
        {"Attestation": {"user_data": None, "nonce": None, "public_key": None}},
        {"Attestation": {"document": b""}},
        {"Attestation": {"document": b"no document"}},
        {"Attestation": {}},
        {"GetRandom": {"random": bytes(256)}},
        "Attestation",
        [],
        {"Attestation": {"document": bytes(8000)}},
    ],
)
def test_an_nsm_response_that_is_none(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, response: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(simulated_nitrotpm, "_nsm", lambda _: response)
    with pytest.raises((TpmResponseError, NsmRefusedError)) as caught:
        tpm.attest()
    assert isinstance(caught.value, AttesterError)
    assert "enclave" not in caught.value.hint.replace("enclave-agent", "")
    assert not simulated_nitrotpm.nv


def test_a_document_of_something_else(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, nitro_authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An enclave's, or one that was made for another request."""
    nsm = SimulatedNsm(nitro_authority)
    request = {"Attestation": {"public_key": None, "user_data": None, "nonce": None}}
    enclave = cbor2.loads(nsm.exchange(cbor2.dumps(request)))
    monkeypatch.setattr(simulated_nitrotpm, "_nsm", lambda _: enclave)
    with pytest.raises(TpmResponseError, match="lists the PCRs of an enclave"):
        tpm.attest()
    monkeypatch.undo()
    other = {"Attestation": {"document": tpm.attest(nonce=b"other")}}
    monkeypatch.setattr(simulated_nitrotpm, "_nsm", lambda _: other)
    with pytest.raises(TpmResponseError, match="holds another nonce"):
        tpm.attest(nonce=b"mine")


@pytest.mark.parametrize("code", [0x922, 0x90A, 0x908])
def test_a_tpm_that_asks_for_a_retry(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, clock: ManualClock, code: int
) -> None:
    simulated_nitrotpm.fail_with(code, command=simulated.NSM_REQUEST, times=3)
    assert parse(tpm.attest()).platform == "instance"
    assert len(clock.slept) == 3


def test_a_tpm_that_asks_for_retries_for_ever(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, clock: ManualClock
) -> None:
    simulated_nitrotpm.fail_with(0x922)
    with pytest.raises((TpmTimeoutError, TpmRefusedError)):
        tpm.attest()
    assert clock.elapsed <= TIMEOUT


def test_what_a_crash_left_behind(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A process that was killed in the middle leaves the index, written to or not."""
    for command in (simulated.NV_WRITE, simulated.NSM_REQUEST):
        _crash(simulated_nitrotpm, before=command)
        started = clock.elapsed
        with caplog.at_level(logging.INFO, "enclave"):
            assert parse(tpm.attest(nonce=b"n")).nonce == b"n"
        assert LEFT_BEHIND_AFTER <= clock.elapsed - started < LEFT_BEHIND_AFTER + 1
        assert "left behind by a crash" in caplog.text
        assert not simulated_nitrotpm.nv


def _crash(device: SimulatedNitroTpm, *, before: int) -> None:
    """Kill a process before a command: none of its clean-up is sent."""

    class Killed(BaseException):
        pass

    class Channel:
        path = "killed"
        is_dead = False

        @contextlib.contextmanager
        def open(self, *, timeout: float) -> Iterator[TpmChannel]:  # noqa: ARG002 (the Protocol's)
            yield self

        def exchange(self, command: bytes, *, timeout: float) -> bytes:
            self.is_dead = self.is_dead or int.from_bytes(command[6:10], "big") == before
            if self.is_dead:
                raise Killed
            return device.exchange(command, timeout=timeout)

    with pytest.raises(Killed):
        NitroTpm(Channel()).attest()
    assert NV_INDEX in device.nv


def test_an_index_that_is_given_back_in_time(
    simulated_nitrotpm: SimulatedNitroTpm, clock: ManualClock
) -> None:
    """Of a program in a container with a device node of its own, which the lock does not reach."""
    _crash(simulated_nitrotpm, before=simulated.NSM_REQUEST)

    class Clock(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.elapsed > 1:
                simulated_nitrotpm.nv.clear()

    other = Clock()
    NitroTpm(simulated_nitrotpm, clock=other).attest()
    assert 1 < other.elapsed < LEFT_BEHIND_AFTER


def test_others_that_follow_each_other_keep_their_indexes(
    simulated_nitrotpm: SimulatedNitroTpm, caplog: pytest.LogCaptureFixture
) -> None:
    """In containers with nodes of their own: the index is always there, of one after another."""
    _crash(simulated_nitrotpm, before=simulated.NV_WRITE)
    unwritten = simulated_nitrotpm.nv.copy()
    simulated_nitrotpm.nv.clear()
    _crash(simulated_nitrotpm, before=simulated.NSM_REQUEST)
    written = simulated_nitrotpm.nv.copy()

    class Clock(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            simulated_nitrotpm.nv.clear()
            if self.elapsed < 3 * LEFT_BEHIND_AFTER:
                simulated_nitrotpm.nv.update(written if int(self.elapsed) % 2 else unwritten)

    clock = Clock()
    with caplog.at_level(logging.INFO, "enclave"):
        assert parse(NitroTpm(simulated_nitrotpm, clock=clock).attest(nonce=b"n")).nonce == b"n"
    assert clock.elapsed >= 3 * LEFT_BEHIND_AFTER
    assert "left behind" not in caplog.text


def test_an_index_of_another_program(tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm) -> None:
    """It is never undefined, whatever waits for it."""
    _crash(simulated_nitrotpm, before=simulated.NSM_REQUEST)
    foreign = simulated_nitrotpm.nv[NV_INDEX]
    foreign.size = 32
    with pytest.raises(TpmBusyError, match="0x01804e54 is another program's: 32 bytes") as caught:
        tpm.attest()
    assert "tpm2_nvundefine" in caught.value.hint
    assert simulated_nitrotpm.nv[NV_INDEX] is foreign


@pytest.mark.parametrize("code", [0x18B, 0x28B, 0x98E, 0x149, 0x14A])
def test_an_index_that_is_replaced_in_the_middle(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, code: int
) -> None:
    simulated_nitrotpm.fail_with(code, command=simulated.NSM_REQUEST, times=2)
    assert parse(tpm.attest()).platform == "instance"
    simulated_nitrotpm.fail_with(code, command=simulated.NSM_REQUEST)
    with pytest.raises(TpmRefusedError):
        tpm.attest()
    assert not simulated_nitrotpm.nv


def test_a_document_although_the_index_stays(
    tpm: NitroTpm, simulated_nitrotpm: SimulatedNitroTpm, caplog: pytest.LogCaptureFixture
) -> None:
    simulated_nitrotpm.fail_with(0x923, command=simulated.NV_UNDEFINE_SPACE, times=1)
    assert parse(tpm.attest()).platform == "instance"
    assert "stays defined, until the next document: the TPM refused" in caplog.text
    assert parse(tpm.attest()).platform == "instance"
    assert not simulated_nitrotpm.nv


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_tpm_sends_only_attester_errors_leave(data: st.DataObject) -> None:
    """One response of one command is altered, at any place, or truncated, or made longer."""
    device = SimulatedNitroTpm(AUTHORITY, buffer_size=data.draw(st.sampled_from([64, 1024])))
    command = data.draw(st.sampled_from(COMMANDS))

    def change(response: bytes) -> bytes:
        altered = bytearray(response)
        for _ in range(data.draw(st.integers(0, 3))):
            altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
        end = data.draw(st.integers(0, len(altered)))
        return bytes(altered[:end]) + data.draw(st.binary(max_size=5))

    device.alter(change, command=command, times=1)
    clock = ManualClock()
    with contextlib.suppress(AttesterError):
        parse(NitroTpm(device, clock=clock).attest(nonce=b"nonce"))
    assert clock.elapsed <= TIMEOUT
    # The next document is not spoiled by what became of this one.
    assert parse(NitroTpm(device, clock=clock).attest(nonce=b"nonce")).nonce == b"nonce"
    assert not device.nv


AUTHORITY = Authority.generate()
COMMANDS = (
    simulated.GET_CAPABILITY,
    simulated.NV_DEFINE_SPACE,
    simulated.NV_WRITE,
    simulated.NSM_REQUEST,
    simulated.NV_READ,
    simulated.NV_UNDEFINE_SPACE,
)


class Unavailable:
    """A device that cannot be opened, as `DevTpm` finds it."""

    def __init__(self, code: int) -> None:
        self.path = "/dev/tpmrm0"
        self._code = code

    def open(self, *, timeout: float) -> contextlib.AbstractContextManager[TpmChannel]:
        def refuse(_path: str, _flags: int) -> int:
            raise OSError(self._code, os.strerror(self._code))

        return DevTpm(_open=refuse, _clock=ManualClock()).open(timeout=timeout)


@pytest.mark.parametrize("managed", ["missing", "without the vendor command"])
def test_without_a_resource_manager(
    simulated_nitrotpm: SimulatedNitroTpm, nitro_authority: Authority, managed: str
) -> None:
    """There is none, or it rejects what it does not know: then the TPM itself is asked."""
    first: Any = Unavailable(errno.ENOENT)
    if managed != "missing":
        first = SimulatedNitroTpm(nitro_authority, has_vendor_command=False)
    tpm = NitroTpm(first, simulated_nitrotpm)
    assert parse(tpm.attest(nonce=b"n")).nonce == b"n"
    assert simulated_nitrotpm.calls[simulated.NSM_REQUEST] == 1
    assert managed == "missing" or not first.nv


def test_neither_device_knows_the_vendor_command(nitro_authority: Authority) -> None:
    device = SimulatedNitroTpm(nitro_authority, has_vendor_command=False)
    for other in (device, Unavailable(errno.ENOENT)):
        with pytest.raises(TpmRefusedError, match="AWS_NSM_REQUEST: TPM_RC_COMMAND_CODE"):
            NitroTpm(device, other).attest()


@pytest.mark.parametrize(
    ("codes", "error", "reason"),
    [
        ((errno.ENOENT, errno.ENOENT), TpmUnavailableError, "neither /dev/tpmrm0 nor /dev/tpmrm0"),
        ((errno.EACCES, errno.ENOENT), TpmUnavailableError, "Permission denied"),
        ((errno.ENOENT, errno.EACCES), TpmUnavailableError, "Permission denied"),
        ((errno.ENOENT, errno.EBUSY), TpmBusyError, "held open"),
    ],
)
def test_no_device_that_can_be_opened(
    codes: tuple[int, ...], error: type[AttesterError], reason: str
) -> None:
    """The reason that says most: of the device that is there."""
    with pytest.raises(error, match=reason) as caught:
        NitroTpm(*map(Unavailable, codes)).attest()
    assert caught.value.hint
