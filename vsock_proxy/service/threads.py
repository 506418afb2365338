"""Starting threads, and calling functions in several, where the system may give none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError
from vsock_proxy.service.scarcity import starting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        AgentError: the system has no more threads.
    """
    with starting():
        thread.start()


def call_together(calls: Sequence[Callable[[], object]]) -> None:
    """Call functions at the same time, each in a thread; return once all have returned.

    A function for which the system has no thread is called in this one, after the others were
    started: what ends a program's parts has to be called, and may take longer.

    Raises:
        Exception: the first that one of them raised.
    """
    raised: list[Exception] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as e:  # noqa: BLE001 (raised below)
            raised.append(e)

    threads, here = [], []
    for call in calls:
        thread = threading.Thread(target=run, args=(call,))
        try:
            start_thread(thread)
        except AgentError:
            here.append(call)
        else:
            threads.append(thread)
    for call in here:
        run(call)
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
