"""Fork at any moment: a forked child starts with fresh state.

A fork copies every lock as it is at that moment. One that another thread holds stays held in the
child for ever, since that thread is not there. So whatever has a lock, a thread or a connection
registers here, and is made fresh in the child before any code of the child's runs.

Importing holds a lock as well, one for each module, which Python does not renew in the child. What
is imported on first use is therefore imported under `importing`, for which a fork waits.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol


class ForkAware(Protocol):
    """An object with state that must not be shared between a process and its child."""

    def _after_fork(self) -> None:
        """Replace locks and drop what belongs to the parent process. Runs in the child."""
        ...


importing: Final = threading.RLock()
"""Held around an import inside a function that threads call."""

_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(aware: ForkAware) -> None:
    """Have `aware._after_fork` called in each child, as long as the object lives."""
    _aware.add(aware)


def _in_child() -> None:
    importing.release()
    for aware in tuple(_aware):
        aware._after_fork()  # noqa: SLF001 (its own kind)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=importing.acquire, after_in_parent=importing.release, after_in_child=_in_child
    )
