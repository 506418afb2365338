"""The numbers that agents in enclaves have, fetched in the background and passed on.

An enclave's text is hostile: it is read strictly and bounded (`vsock_proxy.service.exposition`),
and written anew with the enclave's name. It is fetched at intervals, not at requests: frequent
scrapes cost neither the enclave nor this process more.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from parent.enclaves.agent import VsockAgent
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.transitions import State
from vsock_proxy.errors import AgentError
from vsock_proxy.service.exposition import Family, read, single, write
from vsock_proxy.service.threads import call_together, start_thread
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.component import Component
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

INTERVAL: Final = 5.0
"""Seconds between two fetches."""

KEPT: Final = 45.0
"""Seconds for which numbers are passed on that could not be fetched again."""

PREFIX: Final = "enclave_agent_"
RESERVED: Final = ("enclave", "instance", "job")


@dataclass(frozen=True, slots=True)
class _Fetched:
    families: Sequence[Family]
    at: float


class EnclaveMetrics:
    """Fetches from every enclave that runs and whose settings name its agent.

    Args:
        components: of the daemon; called at each fetch.
        monotonic: the time.
        fetch: returns the text of the agent at an address.
    """

    def __init__(
        self,
        components: Callable[[], Sequence[Component]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        fetch: Callable[[Address], bytes] = lambda address: VsockAgent(address).metrics(),
    ) -> None:
        self._components = components
        self._monotonic = monotonic
        self._fetch = fetch
        self._fetched: dict[str, _Fetched] = {}
        self._warnings = Throttle(log, monotonic)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="operations-enclave-metrics", daemon=True
        )

    def start(self) -> None:
        """Fetch from now on."""
        start_thread(self._thread)

    def stop(self, timeout: float) -> None:
        """Fetch no more; a fetch under way ends by its own deadline."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(timeout)

    def text(self, name: str) -> bytes | None:
        """Return the numbers of an enclave, labelled ``enclave``; None if there are none."""
        found = self._fetched.get(name)
        if found is None:
            return None
        age = self._monotonic() - found.at
        if age > KEPT:
            return None
        text = "Since these numbers were fetched from the enclave."
        mine = single("enclave_parent_enclave_metrics_age_seconds", "gauge", text, round(age, 3))
        return write([*found.families, mine], [("enclave", name)])

    def refresh(self) -> None:
        """Fetch once from every enclave, at the same time."""
        wanted = {
            component.settings.name: component.settings.agent
            for component in self._components()
            if isinstance(component, EnclaveComponent)
            and component.settings.agent is not None
            and component.status().values["state"] == State.RUNNING
        }
        if wanted:
            call_together([partial(self._refresh, *item) for item in wanted.items()])
        self._fetched = {name: got for name, got in self._fetched.items() if name in wanted}
        self._warnings.catch_up()

    def _refresh(self, name: str, address: Address) -> None:
        try:
            families = read(self._fetch(address), prefix=PREFIX, reserved=RESERVED)
        except AgentError as e:
            self._warnings.warning("enclave/%s: no numbers: %s", name, e)
        else:
            self._fetched[name] = _Fetched(families, self._monotonic())

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            try:
                self.refresh()
            except Exception as e:
                # A bug of ours: missing numbers are no reason to end the daemon.
                log.error("operations: no numbers: internal error: %s", type(e).__name__)  # noqa: TRY400
                log.debug("internal error", exc_info=e)
