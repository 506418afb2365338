"""All enclaves of one instance; applies changes of their settings."""

from __future__ import annotations

import dataclasses
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.console import Console
from parent.enclaves.runner import Subprocess
from vsock_proxy.errors import AgentError
from vsock_proxy.service.threads import call_together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from parent.enclaves.settings import EnclaveSettings

log = logging.getLogger(__name__)

STOP = 40.0
"""Seconds for nitro-cli to terminate enclaves; it needs a few for each. What their programs get to
end is added (`EnclaveComponent.asking_seconds`)."""


class Enclaves:
    """See `parent.component.Component`; `components` has one for each enclave.

    They start one after the other: nitro-cli waits for the first byte of a new enclave on vsock
    port 9000, so two that start at once fail.
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
        """See `Component.stop`. They stop at the same time."""
        with self._lock:
            self._stopped = True
        _stop(self._components, timeout)

    def status(self) -> ComponentStatus:
        """See `Component.status`; the status of each enclave tells more."""
        healthy = all(component.status().healthy for component in self._components)
        return ComponentStatus(healthy, f"{len(self._components)} enclaves")

    def prepare(self, wanted: Sequence[EnclaveSettings]) -> Callable[[], None]:
        """Prepare other settings; the function returned applies them, in up to `STOP` seconds.

        An enclave goes on if the arguments of nitro-cli stay the same; otherwise it is terminated,
        and started with its new settings.

        Raises:
            AgentError: an image is not usable. Nothing has changed.
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
                log.info("%s: removed or changed in the configuration; stopping it", component.name)
            _stop(leaving, STOP)
            with self._lock:
                if not self._stopped:
                    self._components = new
                    for component in new:
                        if not component.started:
                            _start(component)

        return take

    def _make(self, settings: EnclaveSettings) -> EnclaveComponent:
        return EnclaveComponent(
            settings,
            Subprocess(self._program),
            turn=self._turn,
            console=Console(settings.name, self._program),
        )


def _same_enclave(one: EnclaveSettings, other: EnclaveSettings) -> bool:
    """Return whether they differ only in what the daemon does about an enclave."""
    ours = {name: getattr(other, name) for name in ("restart", "poll", "agent", "stop_timeout")}
    return dataclasses.replace(one, **ours) == other


def _start(component: EnclaveComponent) -> None:
    """Start an enclave that a reload adds; the other changes are made, whatever comes."""
    try:
        component.start()
    except AgentError as e:
        text = "%s: not started: %s (%s); the next reload tries again"
        log.error(text, component.name, e, e.hint)  # noqa: TRY400 (no traceback)


def _stop(components: Iterable[EnclaveComponent], timeout: float) -> None:
    call_together(
        [partial(component.stop, timeout + component.asking_seconds) for component in components]
    )
