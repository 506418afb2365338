"""What a Nitro image leaves to its first program: entropy, `lo`, and a look at the clock.

Each duty ends in one line in the log, and none of them ends the program: what an enclave cannot
do without fails again, by its own name, where it is used.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from enclave.attestation.document import parse
from enclave.boot.drift import clock_drift
from enclave.boot.entropy import add_entropy
from enclave.boot.loopback import raise_loopback
from enclave.clock import Clock, SystemClock
from enclave.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.boot.options import BootOptions
    from enclave.nsm import Nsm

log = logging.getLogger(__name__)

KMS_BYTES = 256
"""Random bytes asked of KMS: as many as the NSM gives at once."""

_NSM_BYTES = 256

_NSM_ENTROPY, _KMS_ENTROPY = "entropy from the NSM", "entropy from KMS"
_LOOPBACK, _CLOCK = "loopback", "clock"


class RandomSource(Protocol):
    """Who gets attested random bytes from KMS: an `enclave.Agent`."""

    def generate_random(self, number_of_bytes: int) -> bytes:
        """See `enclave.Agent.generate_random`."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one duty: whether it was done, and the line that says so."""

    duty: str
    done: bool
    text: str


class DutyError(AgentError):
    """A duty was not done; it never leaves this package."""


def _set_clock(timestamp: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, timestamp)


@dataclass(frozen=True, slots=True)
class System:
    """The kernel underneath; tests hand in another.

    Attributes:
        add_entropy: mixes bytes into the pool and returns the bits credited.
        raise_loopback: brings `lo` up, or returns False where it is up.
        set_clock: sets the system clock, in seconds since 1970. Needs CAP_SYS_TIME.
        clock: reads it.
        seed_from_nsm: mixes so many bytes of the NSM's into the pool by itself, credited in full,
            as AWS's C SDK does; None: they are read here, and added by `add_entropy`.
    """

    add_entropy: Callable[[bytes], int] = add_entropy
    raise_loopback: Callable[[], bool] = raise_loopback
    set_clock: Callable[[float], None] = _set_clock
    clock: Clock = SystemClock()  # noqa: RUF009 (it has no state to share)
    seed_from_nsm: Callable[[int], None] | None = None


def run_boot_duties(
    options: BootOptions,
    nsm: Nsm,
    agent: RandomSource | None = None,
    *,
    system: System | None = None,
) -> list[Outcome]:
    """Do what `options` ask for, in the order in which one needs the other.

    Without `agent` all of it is local and takes milliseconds. With one, KMS is asked last, which
    takes as long as the agent's deadline lets it: a server calls `seed_from_kms` by itself, once
    it listens.
    """
    system = system or System()
    outcomes = []
    # Entropy first: whatever comes after may draw keys. The clock before TLS needs it.
    if options.seed_from_nsm:
        outcomes.append(_outcome(_NSM_ENTROPY, lambda: _seed_from_nsm(system, nsm)))
    if options.raise_loopback:
        outcomes.append(_outcome(_LOOPBACK, lambda: _raise_loopback(system)))
    if options.check_clock:
        outcomes.append(_outcome(_CLOCK, lambda: _check_clock(system, nsm, options)))
    if agent is not None and options.seed_from_kms:
        outcomes.append(seed_from_kms(agent, system=system))
    return outcomes


def seed_from_kms(agent: RandomSource, *, system: System | None = None) -> Outcome:
    """Mix attested random bytes of KMS's into the pool.

    So the pool depends on two sources, the NSM and the HSMs behind KMS, and is good if one is.
    """
    system = system or System()
    return _outcome(_KMS_ENTROPY, lambda: _seed(system, agent.generate_random(KMS_BYTES)))


def _outcome(duty: str, do: Callable[[], str]) -> Outcome:
    """Do one duty; its only failures are the agent's errors and the kernel's."""
    done = False
    try:
        text = do()
        done = True
    except AgentError as e:
        text = f"{e} ({e.hint})" if e.hint else str(e)
    except OSError as e:
        text = f"the kernel refuses: {os.strerror(e.errno) if e.errno else e} ({_REMEDY[duty]})"
    log.log(logging.INFO if done else logging.WARNING, "boot, %s: %s", duty, text)
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


def _check_clock(system: System, nsm: Nsm, options: BootOptions) -> str:
    before = system.clock.now()
    # Not verified, and need not be: it comes from our own device, not over a wire, and who could
    # forge it there could forge every answer of the NSM's. Nor could it be: whether certificates
    # are still good is a question to the clock that is in doubt.
    signed = parse(nsm.attest()).timestamp
    drift = clock_drift(before, signed, system.clock.now())
    if abs(drift) <= options.max_drift:
        return f"within {options.max_drift:g} s of the NSM's"
    which = f"{abs(drift):.1f} s {'ahead of' if drift > 0 else 'behind'} the NSM's"
    if not options.correct_clock:
        raise DutyError(
            f"{which}: signatures, and certificates on the way to KMS, may fail on it",
            hint="--correct-clock sets it",
        )
    system.set_clock(system.clock.now().timestamp() - drift)
    return f"was {which}, and is set"
