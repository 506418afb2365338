"""The clock is compared with the NSM's each time the document is renewed, and kept right."""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.clock import SystemClock
from enclave.clock_watch import MAX_DRIFT, PRECISION, ClockWatch
from enclave.errors import NsmRefusedError
from enclave.nsm import Nsm
from enclave.recipient.recipient import REFRESH_AFTER, AttestedRecipient
from tests.doubles import ManualClock
from tests.enclave.nitro import Document, chain

if TYPE_CHECKING:
    from enclave_simulator.nsm import SimulatedNsm

BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
SLEW = 0.0005
"""Seconds the kernel moves the clock in a second, by adjtime(3)."""
KMS_ALLOWS = 300.0
CHAIN = chain()


@dataclass
class Machine:
    """True time, and a system clock that runs at `rate` and starts `off`."""

    rate: float = 1.0
    off: float = 0.0
    true: float = 0.0
    slewing: float = 0.0
    steps: list[float] = field(default_factory=list)
    went_back: bool = False

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.true + self.off)

    def monotonic(self) -> float:
        return self.true

    def sleep(self, seconds: float) -> None:
        self.true += seconds
        self.off += seconds * (self.rate - 1)
        moved = max(-SLEW * seconds, min(SLEW * seconds, self.slewing))
        self.off += moved
        self.slewing -= moved

    def step(self, timestamp: float) -> None:
        before = self.off
        self.off = timestamp - BEGAN.timestamp() - self.true
        self.steps.append(self.off - before)
        self.slewing = 0.0

    def slew(self, seconds: float) -> None:
        self.slewing = seconds

    def attest(self) -> bytes:
        made = BEGAN + timedelta(seconds=self.true)
        document = Document(CHAIN, payload={"timestamp": int(made.timestamp() * 1000)})
        payload = cbor2.dumps(document.payload)
        return cbor2.dumps([document.protected, {}, payload, bytes(96)])

    def watch(self, **options: float) -> ClockWatch:
        return ClockWatch(self, step=self.step, slew=self.slew, **options)


@settings(max_examples=50)
@given(st.floats(-1e6, 1e6), st.floats(0.5, 1.8))
def test_a_corrected_clock_stays_within_what_kms_allows(off: float, rate: float) -> None:
    machine = Machine(rate=rate, off=off)
    watch = machine.watch()
    watch.fetch(machine.attest)
    for _ in range(20):
        machine.sleep(REFRESH_AFTER)
        assert abs(machine.off) < KMS_ALLOWS
        watch.fetch(machine.attest)
        assert abs(machine.off) <= MAX_DRIFT + 0.01


@settings(max_examples=25)
@given(st.floats(-2, 2), st.floats(-SLEW / 2, SLEW / 2))
def test_an_ordinary_crystal_is_slewed_and_never_stepped(off: float, error: float) -> None:
    machine = Machine(rate=1 + error, off=off)
    watch = machine.watch()
    for _ in range(100):
        watch.fetch(machine.attest)
        machine.sleep(REFRESH_AFTER)
    assert not machine.steps
    assert abs(machine.off) < PRECISION + 2 * SLEW * REFRESH_AFTER


def test_a_clock_forty_times_too_fast_is_set_at_each_document() -> None:
    machine = Machine(rate=40.0)
    watch = machine.watch()
    for _ in range(5):
        machine.sleep(REFRESH_AFTER / 40)  # two minutes by the machine's own clock
        assert machine.off < KMS_ALLOWS
        watch.fetch(machine.attest)
    assert len(machine.steps) == 5


@pytest.mark.parametrize("drift", [-3600.0, -MAX_DRIFT - 1, MAX_DRIFT + 1, 3600.0])
def test_a_drift_is_logged_and_left_alone_unless_correction_is_asked_for(
    drift: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(off=drift)
    watch = ClockWatch(machine)
    watch.fetch(machine.attest)
    assert watch.drift == drift
    assert watch.is_off
    assert machine.off == drift
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    which = "ahead of" if drift > 0 else "behind"
    assert f"is {abs(drift):.1f} s {which} the NSM's" in record.getMessage()
    assert "serve --correct-clock" in record.getMessage()


def test_a_correct_clock_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    watch = machine.watch()
    watch.fetch(machine.attest)
    assert watch.drift == 0.0
    assert not watch.is_off
    assert not machine.steps
    assert not caplog.records


def test_a_kernel_that_refuses_costs_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: float) -> None:
        raise PermissionError(errno.EPERM, "x")

    machine = Machine(off=60.0)
    watch = ClockWatch(machine, step=refuse, slew=refuse)
    assert watch.fetch(machine.attest) == machine.attest()
    assert "CAP_SYS_TIME" in caplog.text


def test_the_nsms_own_failure_is_the_callers_to_see() -> None:
    def refuse() -> bytes:
        raise NsmRefusedError("Attestation", "InternalError")

    watch = ClockWatch()
    with pytest.raises(NsmRefusedError):
        watch.fetch(refuse)
    assert watch.drift is None


def test_a_document_that_cannot_be_read_leaves_the_drift_unknown() -> None:
    watch = ClockWatch()
    assert watch.fetch(lambda: b"no document") == b"no document"
    assert watch.drift is None


def test_the_clock_is_looked_at_each_time_the_document_is_renewed(
    simulated_nsm: SimulatedNsm,
) -> None:
    clock = ManualClock()
    watch = ClockWatch(clock)
    recipient = AttestedRecipient(Nsm(simulated_nsm), clock=clock, watch=watch)
    recipient.attestation_document()
    assert watch.drift is not None
    assert abs(watch.drift) < 60, "the simulated NSM has this machine's time"
    clock.elapsed += 3600.0
    recipient.attestation_document()
    assert 3500 < watch.drift < 3700
    clock.elapsed += REFRESH_AFTER / 2
    recipient.attestation_document()
    assert 3500 < watch.drift < 3700, "a document in use is not a new one"
    assert simulated_nsm.calls["Attestation"] == 2


def test_elapsed_time_counts_through_a_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_BOOTTIME: 900.0, time.CLOCK_MONOTONIC: 300.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    assert SystemClock().monotonic() == 900.0
