"""All enclaves of one instance, and how they follow their configuration."""

from __future__ import annotations

import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.console import Console
from parent.enclaves.runner import Subprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from parent.enclaves.settings import EnclaveSettings

log = logging.getLogger(__name__)

STOP = 40.0
"""Seconds for nitro-cli to end enclaves; it needs a few for each."""


class Enclaves:
    """See `parent.component.Component`; its `components` are those that are looked at.

    They start one after the other: nitro-cli waits for a new enclave's first sign on vsock port
    9000, so two that start at once fail.
    """

    name = "enclaves"

    def __init__(self, enclaves: Sequence[EnclaveSettings], *, program: str = "nitro-cli") -> None:
        self._program = program
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._stopped = False
        self._components = [self._make(settings) for settings in enclaves]

    @property
    def components(self) -> list[EnclaveComponent]:
        """One for each enclave, in the order of the file."""
        return self._components

    def start(self) -> None:
        """See `Component.start`."""
        for component in self._components:
            component.start()

    def stop(self, timeout: float) -> None:
        """See `Component.stop`. They stop beside each other."""
        with self._lock:
            self._stopped = True
        _stop(self._components, timeout)

    def status(self) -> ComponentStatus:
        """See `Component.status`; that of each tells more."""
        healthy = all(component.status().healthy for component in self._components)
        return ComponentStatus(healthy, f"{len(self._components)} enclaves")

    def prepare(self, wanted: Sequence[EnclaveSettings]) -> Callable[[], None]:
        """Make ready for other settings; what is returned has them taken, in up to `STOP` seconds.

        An enclave goes on if what nitro-cli is told of it is the same; else it is ended, and one
        is started as it is wanted now.

        Raises:
            AgentError: an image that is to be started cannot be. Nothing has changed.
        """
        before = {component.settings.name: component for component in self._components}
        new: list[EnclaveComponent] = []
        going_on: list[tuple[EnclaveComponent, EnclaveSettings]] = []
        for settings in wanted:
            component = before.get(settings.name)
            if component and _same_enclave(component.settings, settings):
                going_on.append((component, settings))
                new.append(component)
            else:
                made = self._make(settings)
                made.check()
                new.append(made)

        def take() -> None:
            for component, settings in going_on:
                component.reconfigure(settings)
            leaving = [component for component in before.values() if component not in new]
            for component in leaving:
                log.info("%s: as it was, it is no longer in the configuration", component.name)
            _stop(leaving, STOP)
            with self._lock:
                if not self._stopped:
                    self._components = new
                    for component in new:
                        if component not in before.values():
                            component.start()

        return take

    def _make(self, settings: EnclaveSettings) -> EnclaveComponent:
        return EnclaveComponent(
            settings,
            Subprocess(self._program),
            turn=self._turn,
            console=Console(settings.name, self._program),
        )


def _same_enclave(one: EnclaveSettings, other: EnclaveSettings) -> bool:
    """Whether they differ only in what the daemon does about an enclave."""
    return dataclasses.replace(one, restart=other.restart, poll=other.poll) == other


def _stop(components: Iterable[EnclaveComponent], timeout: float) -> None:
    stopping = list(components)
    with ThreadPoolExecutor(max(1, len(stopping))) as threads:
        for done in [threads.submit(component.stop, timeout) for component in stopping]:
            done.result()
