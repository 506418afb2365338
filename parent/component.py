"""What every service on the parent is to the daemon that runs them: a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

JSON = bool | int | float | str | None | Sequence["JSON"] | Mapping[str, "JSON"]


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """How a component is at one moment.

    Attributes:
        healthy: it does what it is there for. One that is still starting, or was stopped, does
            not.
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
        """Open what it needs, then go on with its own threads; called once.

        What it listens on is open, and holds what comes in, when this returns.

        Raises:
            AgentError: it cannot; nothing is left open or running.
        """
        ...

    def stop(self, timeout: float) -> None:
        """End cleanly within `timeout` seconds, and by force after that; again does nothing.

        Called too where `start` failed or was never called. Raises nothing.
        """
        ...

    def status(self) -> ComponentStatus:
        """Tell how it is; takes no time, waits for nothing, raises nothing."""
        ...
