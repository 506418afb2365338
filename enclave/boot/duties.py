"""The duties of an enclave's first program: entropy, the loopback interface, and the clock.

Each duty writes one line to the log, and none of them stops the program: what depends on a failed
duty fails later, with an error of its own.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from enclave.boot.entropy import add_entropy
from enclave.boot.loopback import raise_loopback
from enclave.boot.slew import slew_clock
from enclave.clock import Clock, SystemClock
from enclave.clock_watch import ClockWatch
from enclave.drift import describe
from enclave.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.boot.options import BootOptions
    from enclave.nsm import Nsm

log = logging.getLogger(__name__)

KMS_BYTES = 256
"""Random bytes requested from KMS: as many as the NSM gives at once."""

_NSM_BYTES = 256

_NSM_ENTROPY, _KMS_ENTROPY = "entropy from the NSM", "entropy from KMS"
_LOOPBACK, _CLOCK = "loopback", "clock"
_ENTROPY = (_NSM_ENTROPY, _KMS_ENTROPY)


class RandomSource(Protocol):
    """A source of attested random bytes from KMS: an `enclave.Agent`."""

    def generate_random(self, number_of_bytes: int) -> bytes:
        """See `enclave.Agent.generate_random`."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one duty: whether it was done, and the line in the log."""

    duty: str
    done: bool
    text: str


class DutyError(AgentError):
    """A duty was not done; it never leaves this package."""


def _set_clock(timestamp: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, timestamp)


@dataclass(frozen=True, slots=True)
class System:
    """The kernel; tests pass another.

    Attributes:
        add_entropy: mixes bytes into the pool and returns the bits credited.
        raise_loopback: brings `lo` up, or returns False where it is up.
        set_clock: sets the system clock, in seconds since 1970. Needs CAP_SYS_TIME.
        slew_clock: moves it gradually by so many seconds. Needs CAP_SYS_TIME.
        clock: reads it.
        seed_from_nsm: mixes so many bytes of the NSM's into the pool by itself, credited in full,
            as AWS's C SDK does; None: they are read here, and added by `add_entropy`.
    """

    add_entropy: Callable[[bytes], int] = add_entropy
    raise_loopback: Callable[[], bool] = raise_loopback
    set_clock: Callable[[float], None] = _set_clock
    slew_clock: Callable[[float], None] = slew_clock
    clock: Clock = SystemClock()  # noqa: RUF009 (it has no state to share)
    seed_from_nsm: Callable[[int], None] | None = None


def run_boot_duties(
    options: BootOptions,
    nsm: Nsm,
    agent: RandomSource | None = None,
    *,
    system: System | None = None,
    watch: ClockWatch | None = None,
) -> list[Outcome]:
    """Do what `options` ask for, in the order in which one duty needs the other.

    Args:
        options: which duties.
        nsm: for entropy and the time.
        agent: for entropy from KMS, which comes last and takes up to the agent's deadline; None:
            everything is local and takes milliseconds. A server calls `seed_from_kms` itself,
            once it listens.
        system: the kernel, for tests.
        watch: as `clock_watch` makes it, to go on with after the boot.
    """
    system = system or System()
    watch = watch or clock_watch(options, system=system)
    outcomes = []
    # Entropy comes before anything that may make keys, and the clock before TLS.
    if options.seed_from_nsm:
        outcomes.append(_outcome(_NSM_ENTROPY, lambda: _seed_from_nsm(system, nsm)))
    if options.raise_loopback:
        outcomes.append(_outcome(_LOOPBACK, lambda: _raise_loopback(system)))
    if options.check_clock:
        outcomes.append(_outcome(_CLOCK, lambda: _check_clock(watch, nsm, options)))
    if agent is not None and options.seed_from_kms:
        outcomes.append(seed_from_kms(agent, system=system))
    return outcomes


def clock_watch(options: BootOptions, *, system: System | None = None) -> ClockWatch:
    """Return what compares the clocks, at boot and each time the document is renewed."""
    system = system or System()
    return ClockWatch(
        system.clock,
        max_drift=options.max_drift if options.check_clock else float("inf"),
        step=system.set_clock if options.correct_clock else None,
        slew=system.slew_clock if options.correct_clock else None,
    )


def seed_from_kms(agent: RandomSource, *, system: System | None = None) -> Outcome:
    """Mix attested random bytes from KMS into the pool.

    The pool then depends on two sources, the NSM and the HSMs of KMS, and one good one suffices.
    """
    system = system or System()
    return _outcome(_KMS_ENTROPY, lambda: _seed(system, agent.generate_random(KMS_BYTES)))


def _outcome(duty: str, do: Callable[[], str]) -> Outcome:
    """Do one duty; it fails with an error of the agent's or of the kernel's."""
    done = False
    level = logging.WARNING
    try:
        text = do()
        done = True
        level = logging.INFO
    except AgentError as e:
        text = f"{e} ({e.hint})" if e.hint else str(e)
    except OSError as e:
        text = f"the kernel refuses: {os.strerror(e.errno) if e.errno else e} ({_REMEDY[duty]})"
        if isinstance(e, PermissionError) and duty in _ENTROPY:
            # In an enclave the agent is root with every capability. Elsewhere, on a laptop or in
            # a container, the pool is ready and not this process's to fill.
            level = logging.INFO
    log.log(level, "boot, %s: %s", duty, text)
    return Outcome(duty, done, text)


_REMEDY = {
    _NSM_ENTROPY: "it takes CAP_SYS_ADMIN; or --no-seed-from-nsm",
    _KMS_ENTROPY: "it takes CAP_SYS_ADMIN; or --no-seed-from-kms",
    _LOOPBACK: "it takes CAP_NET_ADMIN; or --no-raise-loopback",
    _CLOCK: "it takes CAP_SYS_TIME; or --no-correct-clock",
}


def _seed(system: System, data: bytes) -> str:
    return f"{len(data)} bytes mixed in, {system.add_entropy(data)} bits credited"


def _seed_from_nsm(system: System, nsm: Nsm) -> str:
    if system.seed_from_nsm is None:
        return _seed(system, nsm.get_random())
    system.seed_from_nsm(_NSM_BYTES)
    return f"{_NSM_BYTES} bytes mixed in by AWS's C SDK, {8 * _NSM_BYTES} bits credited"


def _raise_loopback(system: System) -> str:
    return "lo was down and is up now" if system.raise_loopback() else "lo is up"


def _check_clock(watch: ClockWatch, nsm: Nsm, options: BootOptions) -> str:
    watch.measure(nsm.attest)
    if watch.is_off and not options.correct_clock:
        raise DutyError(
            f"{describe(watch.drift or 0.0)}: signatures, and certificates on the way to KMS, may "
            "be rejected",
            hint="--correct-clock sets it",
        )
    return watch.correct() or f"within {options.max_drift:g} s of the NSM's"
