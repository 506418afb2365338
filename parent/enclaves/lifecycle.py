"""The life cycle of one enclave as a state machine. No I/O; time and chance are arguments.

The driver gets a command from `Lifecycle.next`, executes it, and reports the outcome; the next
command comes only after that. Three rules hold whatever is reported. `TRANSITIONS` shows them:

- An enclave is started only directly after a complete look that showed none with its name or CID:
  STARTING is entered from READY alone, and READY by that look alone.
- An enclave is terminated only if this machine started it or took it over: only in STOPPING and
  RESTARTING. If the settings name its agent, that is asked first to end the program.
- After `stop` the commands come to an end, however many fail: STOPPING leads to STOPPED alone,
  and the attempts are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parent.enclaves.transitions import TRANSITIONS, Event, State
from vsock_proxy.service.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.enclaves.nitro_cli import Enclave
    from parent.enclaves.settings import EnclaveSettings, Restart

STOP_ATTEMPTS = 5
"""Failures after which a machine that was told to stop gives up; the enclave may still run."""

STOP_RETRY = 1.0
"""Seconds between these attempts."""

LEAVING = 7.0
"""Seconds that an enclave gets to end by itself once its program has ended: the agent delivers the
last log lines, for 5 s at most by default, and the enclave ends with it."""

LEAVING_LOOK = 0.3
"""Seconds between two looks meanwhile."""

BLIND_LOOKS = 3
"""Failed looks in a row after which a running enclave no longer counts as healthy."""


@dataclass(frozen=True, slots=True)
class Look:
    """List the enclaves; then call `Lifecycle.looked` or `Lifecycle.look_failed`."""


@dataclass(frozen=True, slots=True)
class Run:
    """Start the enclave; then call `Lifecycle.ran` or `Lifecycle.run_failed`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the agent of an enclave to end its program; then call `Lifecycle.asked`."""

    enclave_id: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Terminate an enclave; then call `Lifecycle.terminated` or `Lifecycle.terminate_failed`."""

    enclave_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Call `Lifecycle.next` at this time, or after `Lifecycle.stop`."""

    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """There will be no further command."""


Command = Look | Run | Ask | Terminate | Wait | Done


def backoff(restart: Restart, failures: int, chance: float) -> float:
    """Return the seconds before the next start, after so many failures in a row.

    Doubled each time up to a limit; half of it is left to `chance` (in [0, 1)), so that
    instances that failed together do not start together.
    """
    delays = Backoff(restart.first, restart.longest, jitter=0.5)
    return delays.delay(failures, lambda low, high: low + chance * (high - low))


class Lifecycle:
    """One enclave, from the first look to the end.

    Args:
        settings: how it is to be.
        chance: returns a random number in [0, 1).
        now: the time; monotonic seconds, as everywhere here.

    Attributes:
        state: its state.
        enclave: the enclave, if one of ours is known to exist.
        pcr0: of the image that the next `Run` takes, hex; set by the driver, which measures it.
        error: the last error, or "".
        starts: how often it was started.
        ended: how often it ended by itself.
        failures: of starting or of staying, in a row.
        since: when `state` began.
        blind: failed looks in a row.
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
        self._due = now  # No command but Wait before this time.
        self._may_exist = False  # An enclave of ours: no complete look has shown otherwise.
        self._own = ""  # The id of the one we started or took over.
        self._stop_attempts = 0
        self._asked = False
        self._leaving_until = -math.inf

    @property
    def healthy(self) -> bool:
        """Whether it runs, as far as can be seen."""
        return self.state is State.RUNNING and self.blind < BLIND_LOOKS

    @property
    def _ending(self) -> bool:
        return self.state in (State.STOPPING, State.STOPPED)

    @property
    def _ends_ours(self) -> bool:
        return self.state in (State.STOPPING, State.RESTARTING)

    def next(self, now: float) -> Command:
        """Return what is to be done now."""
        if self.state is State.STOPPED:
            return Done()
        if now < self._due:
            return Wait(self._due)
        if self._ends_ours and self.enclave:
            if self.settings.agent is not None and not self._asked:
                self._asked = True
                return Ask(self.enclave.id)
            if now < self._leaving_until:
                return Look()
            self._stop_attempts += 1
            return Terminate(self.enclave.id)
        if self.state is State.READY:
            self._may_exist = True
            self._on(Event.RUN, now)
            return Run()
        return Look()

    def stop(self, now: float) -> None:
        """End the enclave, if one of ours may exist; for good."""
        if not self._ending:
            self._due = now
            self._stop_attempts = 0
            self._on(Event.STOP if self._may_exist else Event.STOP_IDLE, now)

    def restart(self, now: float) -> None:
        """End the enclave, then start it; one that waits to be started is started now.

        In other states it is being started or ended already, or another one is in the way.
        """
        if (self.state, Event.RESTART) not in TRANSITIONS:
            return
        self.failures = self._stop_attempts = 0
        self._asked, self._leaving_until = False, -math.inf
        self._due = now
        self._on(Event.RESTART, now)

    def asked(self, now: float, *, ended: bool, error: str = "") -> None:
        """Report the agent's response.

        Args:
            now: the time.
            ended: the program has ended, so that the enclave may end by itself.
            error: why there is none; then the enclave is terminated as it is.
        """
        if ended:
            self._leaving_until = now + LEAVING
        if error:
            self.error = error

    def reconfigure(self, now: float, settings: EnclaveSettings) -> None:
        """Take other settings for the same enclave: `restart` and `poll`.

        One that had failed for good gets another chance.
        """
        self.settings = settings
        if self.state is State.FAILED:
            self.failures = 0
            self._on(Event.RECONFIGURED, now)
            self._due = now

    def looked(self, now: float, enclaves: Sequence[Enclave], *, complete: bool) -> None:
        """Report the enclaves that exist.

        Args:
            now: the time.
            enclaves: all that are seen.
            complete: there are no others; False if some did not respond.
        """
        if self.state is State.STOPPED:
            return
        found = self._find(enclaves)
        ours = found if found and self._is_ours(found) else None
        if not ours and not complete:
            self.look_failed(now, "not every enclave's process responded")
            return
        self.blind = 0
        if self._ends_ours:
            self._looked_while_ending(now, found, ours)
        elif ours:
            self._take(ours, now)
        else:
            self._may_exist = False
            if self.state is State.RUNNING:
                self.ended += 1
                self._failed(now, "it ended")
            elif found:
                self._on(Event.TAKEN, now)
                self.error = _conflict(found)
                self._due = now + self.settings.poll
            else:
                self._on(Event.CLEAR, now)

    def look_failed(self, now: float, error: str) -> None:
        """Report that the enclaves could not be listed."""
        self.blind += 1
        self.error = error
        if self._ends_ours:
            self._stop_attempts += 1
            self._retry_stop(now)
        else:
            # An enclave is not restarted because it cannot be seen.
            self._due = now + self.settings.poll

    def ran(self, now: float, enclave: Enclave) -> None:
        """Report that the enclave was started."""
        self.starts += 1
        self.blind = 0
        self._take(enclave, now)

    def run_failed(self, now: float, error: str) -> None:
        """Report that the enclave was not started, or that the outcome is unknown."""
        if self._ending:
            self.error = error
        else:
            self._failed(now, error)

    def terminated(self) -> None:
        """Report that terminating worked; the next look verifies it."""
        self.enclave = None

    def terminate_failed(self, now: float, error: str) -> None:
        """Report that the enclave was not terminated, or that the outcome is unknown."""
        self.enclave = None
        self.error = error
        self._retry_stop(now)

    def _on(self, event: Event, now: float) -> None:
        state = TRANSITIONS[self.state, event]
        if state is not self.state:
            self.state = state
            self.since = now

    def _looked_while_ending(self, now: float, found: Enclave | None, ours: Enclave | None) -> None:
        if not ours and self.state is State.STOPPING:
            self._on(Event.GONE, now)
        elif not ours:
            self._gone_for_restart(now, found)
        elif ours.state == "RUNNING" and self._stop_attempts < STOP_ATTEMPTS:
            self.enclave, self._own = ours, ours.id
            if now < self._leaving_until:
                self._due = min(now + LEAVING_LOOK, self._leaving_until)
        else:
            self.error = "it takes its time to end"
            self._stop_attempts += 1
            self._retry_stop(now)

    def _gone_for_restart(self, now: float, found: Enclave | None) -> None:
        self.enclave, self._may_exist, self.error = None, False, ""
        if found:
            self._on(Event.TAKEN, now)
            self.error = _conflict(found)
            self._due = now + self.settings.poll
        else:
            self._on(Event.CLEAR, now)

    def _retry_stop(self, now: float) -> None:
        self._due = now + STOP_RETRY
        if self._stop_attempts < STOP_ATTEMPTS:
            return
        if self.state is State.STOPPING:
            self._on(Event.GONE, now)
        elif self.state is State.RESTARTING:
            self.error = f"not restarted, since it did not end: {self.error}"
            self._on(Event.REMAINS, now)

    def _take(self, enclave: Enclave, now: float) -> None:
        """Take an enclave as ours: to watch it, or to terminate it."""
        self.enclave, self._own = enclave, enclave.id
        if self._ending:
            return
        self.error = ""
        self._may_exist = True
        self._asked, self._leaving_until = False, -math.inf
        self._on(Event.SEEN, now)
        self._due = now + self.settings.poll

    def _find(self, enclaves: Sequence[Enclave]) -> Enclave | None:
        """Return ours if it is there, otherwise one with its name or CID."""
        same = [e for e in enclaves if e.cid == self.settings.cid or e.name == self.settings.name]
        ours = (e for e in enclaves if e.id == self._own)
        return next(ours, None) or next(filter(self._is_ours, same), same[0] if same else None)

    def _is_ours(self, found: Enclave) -> bool:
        """Return whether it is the one we know, or exactly what we would have started.

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
            self._on(Event.LAST_FAILURE, now)
            self._due = math.inf
        else:
            self._on(Event.FAILURE, now)
            self._due = now + backoff(restart, self.failures, self._chance())


def _conflict(found: Enclave) -> str:
    return (
        f"{found.id} (name {found.name!r}, CID {found.cid}, {found.state}) is in the way: it is not"
        " what is configured, from this image"
    )
