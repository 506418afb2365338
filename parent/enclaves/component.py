"""An enclave as a component of the daemon: a thread that drives its life cycle."""

from __future__ import annotations

import logging
import random
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from parent.eif.describe import describe
from parent.eif.errors import of_image
from parent.enclaves.agent import DIAL_TIMEOUT, RESPONSE_TIMEOUT, VsockAgent
from parent.enclaves.commands import list_enclaves, run_enclave, terminate_enclave
from parent.enclaves.lifecycle import LEAVING, Ask, Done, Lifecycle, Look, Run, Terminate, Wait
from parent.enclaves.nitro_cli import NitroCliError
from parent.enclaves.settings import check_memory
from parent.enclaves.transitions import State
from parent.files import opened
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from parent.component import JSON
    from parent.eif.describe import Description
    from parent.enclaves.agent import EnclaveAgent
    from parent.enclaves.console import Console
    from parent.enclaves.lifecycle import Command
    from parent.enclaves.nitro_cli import Enclave
    from parent.enclaves.runner import CommandRunner
    from parent.enclaves.settings import EnclaveSettings
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)


class EnclaveComponent:
    """Keeps one enclave running as its settings say, from `start` to `stop`.

    Status values: ``state`` (`State`), ``name``, ``cid``, ``enclave_id``, ``cpu_ids``,
    ``memory_mib``, ``debug``, ``pcr0``, ``starts``, ``ended``, ``failures`` (in a row),
    ``seconds`` (in this state), ``error``.

    Attributes:
        settings: of the enclave.
    """

    def __init__(
        self,
        settings: EnclaveSettings,
        runner: CommandRunner,
        *,
        turn: threading.Lock,
        console: Console | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        agent: Callable[[Address], EnclaveAgent] = VsockAgent,
    ) -> None:
        self.name = f"enclave/{settings.name}"
        self.settings = settings
        self._runner = runner
        self._turn = turn
        self._console = console if settings.debug else None
        self._monotonic = monotonic
        self._agent = agent
        self._machine = Lifecycle(settings, chance=chance, now=monotonic())
        self._stop_asked = self._given_up = self._changed = False
        self._restart_asked = False
        self._woken = threading.Condition()
        self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)
        self._shown: tuple[State, bool, str, dict[str, JSON]] = self._show()

    def start(self) -> None:
        """Check the image, unless that was done; start and watch the enclave in the background.

        Raises:
            AgentError: as `check`.
        """
        if not self._machine.pcr0:
            self.check()
        start_thread(self._thread)

    @property
    def started(self) -> bool:
        """Whether `start` has succeeded."""
        return self._thread.ident is not None

    def check(self) -> None:
        """Check that the image is valid and fits into the memory.

        Raises:
            AgentError: the image cannot be read, is invalid or damaged, or needs more memory.
        """
        self._measure()

    def reconfigure(self, settings: EnclaveSettings) -> None:
        """Change settings of the same enclave: `restart` and `poll`."""
        with self._woken:
            if settings != self.settings:
                self.settings = settings
                self._changed = True
                self._woken.notify_all()

    def restart(self) -> None:
        """End the enclave and start it again, in the background; `starts` tells when it did."""
        with self._woken:
            self._restart_asked = True
            self._woken.notify_all()

    @property
    def asking_seconds(self) -> float:
        """How long `stop` may wait for the enclave's program, beyond its time for nitro-cli."""
        if self.settings.agent is None:
            return 0.0
        return DIAL_TIMEOUT + self.settings.stop_timeout + RESPONSE_TIMEOUT + LEAVING

    def stop(self, timeout: float) -> None:
        """End the enclave if this component started it or took it over."""
        deadline = self._monotonic() + timeout
        with self._woken:
            self._stop_asked = True
            self._woken.notify_all()
        if not self.started:
            return
        # Half a second is kept to kill a nitro-cli that hangs.
        self._thread.join(max(0.0, timeout - 0.5))
        if self._thread.is_alive():
            log.warning("%s: nitro-cli did not terminate it in time; it may still run", self.name)
            self._runner.cancel()
            with self._woken:
                self._given_up = True
                self._woken.notify_all()
            self._thread.join(max(0.0, deadline - self._monotonic()))
        if self._console:
            self._console.stop()

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        _, healthy, detail, values = self._shown
        since = values["since"]
        seconds = self._monotonic() - since if isinstance(since, float) else 0.0
        shown = {key: value for key, value in values.items() if key != "since"}
        if self._restart_asked:  # and nitro-cli is at work still
            shown["state"] = str(State.RESTARTING)
        return ComponentStatus(healthy, detail, {**shown, "seconds": round(seconds, 1)})

    def _live(self) -> None:
        machine = self._machine
        while not self._given_up:
            now = self._monotonic()
            with self._woken:
                if self._changed:
                    machine.reconfigure(now, self.settings)
                    self._changed = False
                if self._restart_asked:
                    machine.restart(now)
                    self._restart_asked = False
                if self._stop_asked:
                    machine.stop(now)
            command = machine.next(now)
            if isinstance(command, Done):
                break
            if isinstance(command, Wait):
                self._wait(command.until)
            else:
                self._execute(command)
            self._publish()
        self._publish()

    def _wait(self, until: float) -> None:
        with self._woken:
            # A wait between two attempts to terminate is not cut short by the request to stop.
            told = self._stop_asked and self._machine.state is not State.STOPPING
            left = until - self._monotonic()
            told = told or self._restart_asked or self._changed
            if not told and not self._given_up and left > 0:
                self._woken.wait(min(left, threading.TIMEOUT_MAX))

    def _execute(self, command: Command) -> None:
        machine, settings = self._machine, self.settings
        try:
            match command:
                case Look():
                    enclaves, complete = list_enclaves(self._runner)
                    machine.looked(self._monotonic(), enclaves, complete=complete)
                case Run():
                    log.info("%s: starting %s", self.name, settings.eif)
                    enclave = self._run()
                    machine.ran(self._monotonic(), enclave)
                case Ask(enclave_id):
                    self._ask(enclave_id)
                case Terminate(enclave_id):
                    log.info("%s: terminating %s", self.name, enclave_id)
                    terminate_enclave(self._runner, enclave_id)
                    machine.terminated()
        except (AgentError, OSError) as e:
            # An OSError: the image cannot be read, or no descriptor is left. That is temporary.
            hint = getattr(e, "hint", "")
            error = f"{e} ({hint})" if hint else str(e)
            now = self._monotonic()
            match command:
                case Look():
                    machine.look_failed(now, error)
                case Run():
                    machine.run_failed(now, error)
                case _:
                    machine.terminate_failed(now, error)

    def _ask(self, enclave_id: str) -> None:
        settings = self.settings
        if settings.agent is None:  # not any more
            return
        log.info(
            "%s: asking the agent in %s to end its program, within %g s",
            self.name, enclave_id, settings.stop_timeout,
        )  # fmt: skip
        try:
            ended = self._agent(settings.agent).stop(settings.stop_timeout)
        except AgentError as e:
            log.warning("%s: it is terminated without: %s", self.name, e)
            self._machine.asked(self._monotonic(), ended=False, error=str(e))
        else:
            self._machine.asked(self._monotonic(), ended=ended)

    def _run(self) -> Enclave:
        while not self._turn.acquire(timeout=0.1):
            if self._stop_asked:
                raise NitroCliError("cancelled: shutting down")
        try:
            described, size = self._measure()
            expired = described.validity(datetime.now(UTC))
            if expired:
                # An enclave that runs from it goes on; nitro-cli would start none (E59).
                raise ConfigurationError(
                    f"{self.settings.eif}: {'; '.join(expired)}",
                    hint="sign it with a certificate that is valid: enclave-parent sign-eif",
                )
            return run_enclave(self._runner, self.settings, size)
        finally:
            self._turn.release()

    def _measure(self) -> tuple[Description, int]:
        """Measure the image, so that an enclave started from it can be told.

        Returns:
            What the image says, and its bytes. Whether its certificate is valid is not checked.

        Raises:
            ConfigurationError: it is not an image, was damaged, or needs more memory.
        """
        eif = self.settings.eif
        with of_image(eif), opened(eif) as stream:
            described = describe(stream)
            size = stream.seek(0, 2)
        failures = list(described.signature_failures)
        if not described.is_whole:
            failures.insert(0, "the CRC is wrong: the file was damaged")
        if failures:
            raise ConfigurationError(f"{eif}: {'; '.join(failures)}", hint="copy or build it again")
        self._machine.pcr0 = described.pcrs[0].hex()
        check_memory(self.settings, size)
        return described, size

    def _publish(self) -> None:
        before, after = self._shown, self._show()
        self._shown = after
        if (before[0], before[2]) != (after[0], after[2]):
            told = after[0] in (
                State.READY, State.STARTING, State.RESTARTING, State.STOPPING, State.STOPPED,
            )  # fmt: skip
            level = logging.INFO if after[1] or told else logging.WARNING
            log.log(level, "%s: %s", self.name, after[2])
        if self._console:
            running = self._machine.enclave if after[0] is State.RUNNING else None
            self._console.follow(running.id if running else "")

    def _show(self) -> tuple[State, bool, str, dict[str, JSON]]:
        machine, settings = self._machine, self.settings
        enclave = machine.enclave
        detail: str = machine.state
        if enclave and machine.state is State.RUNNING:
            detail += f", {enclave.id}"
        if machine.error and not (machine.healthy and not machine.blind):
            detail += f": {machine.error}"
        values: dict[str, JSON] = {
            "state": str(machine.state),
            "name": settings.name,
            "cid": settings.cid,
            "enclave_id": enclave.id if enclave else None,
            "cpu_ids": list(enclave.cpu_ids) if enclave else [],
            "memory_mib": enclave.memory_mib if enclave else settings.memory_mib,
            "debug": settings.debug,
            "pcr0": machine.pcr0,
            "starts": machine.starts,
            "ended": machine.ended,
            "failures": machine.failures,
            "error": machine.error,
            "since": machine.since,
        }
        return machine.state, machine.healthy, detail, values
