"""The life of one enclave as a state machine: no I/O, and time and chance come from outside.

Whoever drives it asks `next` for a command, carries it out, and reports how that went; a further
command comes only after that. Three rules hold whatever is reported:

- An enclave is started only right after a complete look that showed none with its name or CID.
- An enclave is terminated only if this machine started it, or took it over.
- After `stop`, the commands come to an end, however many of them fail.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.enclaves.nitro_cli import Enclave
    from parent.enclaves.settings import EnclaveSettings, Restart

STOP_ATTEMPTS = 5
"""Failures after which a machine that was told to stop ends, its enclave running or not."""

STOP_RETRY = 1.0
"""Seconds between them."""

BLIND_LOOKS = 3
"""Looks in a row that failed, after which a running enclave is no longer called healthy."""


class State(enum.StrEnum):
    """How an enclave is."""

    LOOKING = "looking"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    CONFLICT = "conflict"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Look:
    """List the enclaves; then `Lifecycle.looked` or `Lifecycle.look_failed`."""


@dataclass(frozen=True, slots=True)
class Run:
    """Start the enclave; then `Lifecycle.ran` or `Lifecycle.run_failed`."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """End an enclave; then `Lifecycle.terminated` or `Lifecycle.terminate_failed`."""

    enclave_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask `Lifecycle.next` again at this time, or once `Lifecycle.stop` was called."""

    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing more to do, ever."""


Command = Look | Run | Terminate | Wait | Done


def backoff(restart: Restart, failures: int, chance: float) -> float:
    """Seconds before the next start, after so many failures in a row.

    Doubled each time up to a limit; half of it is left to `chance` (in [0, 1)), so that
    instances that failed together do not start together.
    """
    full = min(restart.longest, restart.first * 2.0 ** min(failures - 1, 64))
    return full * (0.5 + chance / 2)


class Lifecycle:
    """One enclave, from the first look to the end.

    Attributes:
        state: how it is.
        enclave: the enclave, where one of ours is known to exist.
        pcr0: of the image that the next `Run` takes, hex; whoever measures it sets it.
        error: what went wrong last, or "".
        starts: enclaves started.
        ended: enclaves that ended by themselves.
        failures: of starting or of staying, in a row.
        since: when `state` began.
        blind: looks in a row that failed.
    """

    def __init__(
        self, settings: EnclaveSettings, *, chance: Callable[[], float], now: float
    ) -> None:
        self.settings = settings
        self.state = State.LOOKING
        self.enclave: Enclave | None = None
        self.pcr0 = ""
        self.error = ""
        self.starts = self.ended = self.failures = self.blind = 0
        self.since = now
        self._chance = chance
        self._at = now  # Nothing before this time.
        self._clear = False  # The last thing done was a look, and nothing is in our way.
        self._may_run = False  # An enclave of ours may exist.
        self._own = ""  # The id of the one we started or took over.
        self._stopping = False
        self._stop_attempts = 0

    @property
    def healthy(self) -> bool:
        """It runs, as far as can be seen."""
        return self.state is State.RUNNING and self.blind < BLIND_LOOKS

    def next(self, now: float) -> Command:
        """Return what is to be done now."""
        clear, self._clear = self._clear, False
        if self.state is State.STOPPED:
            return Done()
        if now < self._at:
            return Wait(self._at)
        if self._stopping and self.enclave:
            self._stop_attempts += 1
            return Terminate(self.enclave.id)
        if clear and not self._stopping:
            self._become(State.STARTING, now)
            self._may_run = True
            return Run()
        return Look()

    def stop(self, now: float) -> None:
        """End the enclave, if one of ours may run; for good."""
        if self._stopping:
            return
        self._stopping = True
        self._at = now
        self._become(State.STOPPING if self._may_run else State.STOPPED, now)

    def reconfigure(self, now: float, settings: EnclaveSettings) -> None:
        """Take other settings for the same enclave: `restart` and `poll`.

        One that stayed away gets another chance: somebody has thought about it.
        """
        self.settings = settings
        if self.state is State.FAILED:
            self.failures = 0
            self._become(State.WAITING, now)
            self._at = now

    def looked(self, now: float, enclaves: Sequence[Enclave], *, complete: bool) -> None:
        """Report the enclaves there are.

        Args:
            now: the time.
            enclaves: all that are seen.
            complete: there are no others; False where some did not answer.
        """
        if self.state is State.STOPPED:
            return
        found = self._find(enclaves)
        ours = found if found and self._is_ours(found) else None
        if not ours and not complete:
            self.look_failed(now, "not every enclave's process answered")
            return
        self.blind = 0
        if self._stopping:
            self._looked_while_stopping(now, ours)
        elif ours:
            self._take(ours, now)
        else:
            self._may_run = False
            if self.state is State.RUNNING:
                self.ended += 1
                self._failed(now, "it ended")
            elif found:
                self._become(State.CONFLICT, now)
                self.error = _conflict(found)
                self._at = now + self.settings.poll
            else:
                self._clear = True

    def look_failed(self, now: float, error: str) -> None:
        """Report that the enclaves could not be listed."""
        self.blind += 1
        self.error = error
        if self._stopping:
            self._stop_attempts += 1
            self._try_again(now)
        else:
            # An enclave is not restarted because nobody can see it.
            self._at = now + self.settings.poll

    def ran(self, now: float, enclave: Enclave) -> None:
        """Report that the enclave was started."""
        self.starts += 1
        self.blind = 0
        if self._stopping:
            self.enclave, self._own = enclave, enclave.id
        else:
            self._take(enclave, now)

    def run_failed(self, now: float, error: str) -> None:
        """Report that the enclave was not started, or that nobody knows whether it was."""
        if self._stopping:
            self.error = error
        else:
            self._failed(now, error)

    def terminated(self) -> None:
        """Report that terminating worked; a look will tell whether it is so."""
        self.enclave = None

    def terminate_failed(self, now: float, error: str) -> None:
        """Report that the enclave was not terminated, or that nobody knows whether it was."""
        self.enclave = None
        self.error = error
        self._try_again(now)

    def _looked_while_stopping(self, now: float, ours: Enclave | None) -> None:
        if not ours:
            self._become(State.STOPPED, now)
        elif ours.state == "RUNNING" and self._stop_attempts < STOP_ATTEMPTS:
            self.enclave, self._own = ours, ours.id
        else:
            self.error = "it takes its time to end"
            self._stop_attempts += 1
            self._try_again(now)

    def _try_again(self, now: float) -> None:
        self._at = now + STOP_RETRY
        if self._stop_attempts >= STOP_ATTEMPTS:
            self._become(State.STOPPED, now)

    def _take(self, enclave: Enclave, now: float) -> None:
        self.enclave, self._own = enclave, enclave.id
        self.error = ""
        self._may_run = True
        self._become(State.RUNNING, now)
        self._at = now + self.settings.poll

    def _find(self, enclaves: Sequence[Enclave]) -> Enclave | None:
        """Ours if it is there, else what is in its way."""
        same = [e for e in enclaves if e.cid == self.settings.cid or e.name == self.settings.name]
        ours = (e for e in enclaves if e.id == self._own)
        return next(ours, None) or next(filter(self._is_ours, same), same[0] if same else None)

    def _is_ours(self, found: Enclave) -> bool:
        """Tell whether it is the one we know, or just what we would have started.

        The second happens after a crash of the daemon, and after a start that took too long.
        """
        if found.id == self._own:
            return True
        wanted = self.settings
        cpus = sorted(found.cpu_ids) == sorted(wanted.cpu_ids) or not wanted.cpu_ids
        return (
            found.state == "RUNNING"
            and found.name == wanted.name
            and found.cid == wanted.cid
            and found.debug == wanted.debug
            and found.memory_mib >= wanted.memory_mib
            and len(found.cpu_ids) == wanted.cpus
            and cpus
            and found.pcr0 == self.pcr0 != ""
        )

    def _failed(self, now: float, error: str) -> None:
        restart = self.settings.restart
        if self.state is State.RUNNING and now - self.since >= restart.reset_after:
            self.failures = 0
        self.failures += 1
        self.enclave = None
        self.error = error
        limit = restart.give_up_after
        if not restart.always or (limit and self.failures > limit):
            self._become(State.FAILED, now)
            self._at = math.inf
        else:
            self._become(State.WAITING, now)
            self._at = now + backoff(restart, self.failures, self._chance())

    def _become(self, state: State, now: float) -> None:
        if state is not self.state:
            self.state = state
            self.since = now


def _conflict(found: Enclave) -> str:
    return (
        f"{found.id} (name {found.name!r}, CID {found.cid}, {found.state}) is in the way: it is not"
        " what is configured, from this image"
    )
