"""The interface between the daemon and the services that it runs: components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

JSON = bool | int | float | str | None | Sequence["JSON"] | Mapping[str, "JSON"]


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """The state of a component at one moment.

    Attributes:
        healthy: it works. One that is still starting, or was stopped, does not.
        detail: one line for people that says why; no secrets.
        values: the same for programs, by the names the component documents; no secrets.
    """

    healthy: bool
    detail: str
    values: Mapping[str, JSON] = field(default_factory=dict)


class Component(Protocol):
    """One service. `start` and `stop` are called by one thread, `status` by any."""

    @property
    def name(self) -> str:
        """Unique in a daemon, as it stands in logs and metrics: ``credentials``,
        ``enclave/worker``.
        """
        ...

    def start(self) -> None:
        """Open what it needs, then continue on threads of its own; called once.

        When this returns, its listeners are open, and the kernel queues connections.

        Raises:
            AgentError: it cannot start; nothing is left open or running.
        """
        ...

    def stop(self, timeout: float) -> None:
        """Stop cleanly within `timeout` seconds, then by force; a second call does nothing.

        Also called if `start` failed or was never called. Raises nothing.
        """
        ...

    def status(self) -> ComponentStatus:
        """Return its state; takes no time, waits for nothing, raises nothing."""
        ...
