"""Starts the components in order, reconfigures them, and stops them in reverse order."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from parent.credentials import CredentialService
from parent.enclaves.group import STOP as ENCLAVES_STOP
from parent.enclaves.group import Enclaves
from parent.logs.component import LogSink
from parent.operations import OperationsService
from parent.proxy import ProxyService
from vsock_proxy.service.threads import call_together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.component import Component
    from parent.daemon.configuration import Configuration

log = logging.getLogger(__name__)

LISTENERS_STOP = 5.0
"""Seconds for clients to receive their responses, and for the last log lines of the enclaves."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Components that are stopped at the same time, in `stop_timeout` seconds."""

    components: Sequence[Component]
    stop_timeout: float


class Supervisor:
    """All components of a configuration.

    The operations start first, so that everything else can be watched; then the services for
    enclaves; then the enclaves. They stop in reverse order.

    Attributes:
        configuration: what it was made with; reloads do not change it.
        operations: None if the configuration has none.
    """

    def __init__(self, configuration: Configuration) -> None:
        """Make the components. One that fails later does so by an exception in its thread."""
        self.configuration = configuration
        self._proxy: ProxyService | None = None
        self._credentials: CredentialService | None = None
        self.operations: OperationsService | None = None
        listeners: list[Component] = []
        if configuration.proxy:
            self._proxy = ProxyService(configuration.proxy)
            listeners.append(self._proxy)
        if configuration.credentials:
            self._credentials = CredentialService(configuration.credentials)
            listeners.append(self._credentials)
        self._logs: LogSink | None = None
        if configuration.logs:
            self._logs = LogSink(configuration.logs, names=_names(configuration))
            listeners.append(self._logs)
        self._enclaves = Enclaves(configuration.enclaves)
        if configuration.operations:
            self.operations = OperationsService(
                configuration.operations, lambda: [*listeners, *self._enclaves.components]
            )
        drain = configuration.proxy.drain_timeout if configuration.proxy else 0.0
        self._stages = [
            Stage([self.operations] if self.operations else [], LISTENERS_STOP),
            Stage(listeners, max(drain + 1.0, LISTENERS_STOP)),
            Stage([self._enclaves], ENCLAVES_STOP),
        ]

    def start(self) -> None:
        """Start everything.

        Raises:
            AgentError: one component cannot; those before it have been stopped.
        """
        try:
            for stage in self._stages:
                for component in stage.components:
                    component.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, in bounded time; what was not started is left alone."""
        for stage in reversed(self._stages):
            call_together(
                [
                    partial(self._stop, component, stage.stop_timeout)
                    for component in stage.components
                ]
            )

    def turns(self) -> int:
        """Return a number that grows while the relay works; without a relay it always grows."""
        return self._proxy.turns if self._proxy else time.monotonic_ns()

    def reload(self, new: Configuration) -> None:
        """Apply what can be changed without a restart; the log names the rest.

        Raises:
            AgentError: an enclave or the proxy rejects its new settings. Nothing has changed.
        """
        old = self.configuration
        stay: list[str] = []
        # First: only these can fail.
        change_enclaves = self._enclaves.prepare(new.enclaves)
        if self._proxy and new.proxy:
            stay += [f"proxy.{key}" for key in self._proxy.reconfigure(new.proxy)]
        elif old.proxy != new.proxy:
            stay.append("proxy")
        if self._credentials and new.credentials:
            stay += [f"credentials.{key}" for key in self._credentials.reconfigure(new.credentials)]
        elif old.credentials != new.credentials:
            stay.append("credentials")
        if self._logs and new.logs:
            stay += [f"logs.{key}" for key in self._logs.reconfigure(new.logs, _names(new))]
        elif old.logs != new.logs:
            stay.append("logs")
        if old.operations != new.operations:
            stay.append("operations")
        # Last: it takes time, and the services that enclaves need should be there.
        change_enclaves()
        if stay:
            log.warning("changed in the file, but applied only by a restart: %s", ", ".join(stay))

    @staticmethod
    def _stop(component: Component, timeout: float) -> None:
        try:
            component.stop(timeout)
        except Exception:
            log.exception("%s did not stop", component.name)


def _names(configuration: Configuration) -> dict[int, str]:
    return {enclave.cid: enclave.name for enclave in configuration.enclaves}
