"""The whole state of a daemon as one JSON object, for `enclave-parent status` and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from parent.logs.component import LogSink
from parent.proxy import ProxyService
from vsock_proxy.errors import AgentError
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.component import Component
    from vsock_proxy.proxy.counters import ForwardSnapshot


def health(components: Sequence[Component]) -> dict[str, Any]:
    """Return the health of each component.

    Returns:
        ``status`` (``ok``, ``failing``) and ``components``, with ``healthy``, ``detail`` and
        ``values`` of each, by name.
    """
    shown: dict[str, Any] = {}
    healthy = True
    for component in components:
        status = component.status()
        healthy = healthy and status.healthy
        shown[component.name] = {
            "healthy": status.healthy,
            "detail": status.detail,
            **({"values": status.values} if status.values else {}),
        }
    return {"status": "ok" if healthy else "failing", "components": shown}


def state(components: Sequence[Component], *, log_lines: int = 0) -> dict[str, Any]:
    """Return `health`, ``version``, and of the proxy ``forwards``, ``leaving`` and ``reloads``.

    The fields of a forward are described in `vsock_proxy.proxy.counters.ForwardSnapshot`.

    Args:
        components: of the daemon.
        log_lines: how many of the last lines of each enclave to add, as ``last_lines``: its
            ``name`` and ``cid``, and ``lines``, each with ``age`` (seconds) and ``text``.
    """
    shown = {"version": VERSION, **health(components)}
    for component in components:
        if isinstance(component, ProxyService):
            try:
                snapshot = component.snapshot()
            except AgentError:
                continue  # Its loop is stuck, as its status tells.
            if snapshot is not None:
                shown["forwards"] = [_forward(forward) for forward in snapshot.forwards]
                shown["leaving"], shown["reloads"] = snapshot.leaving, snapshot.reloads
        if isinstance(component, LogSink) and log_lines:
            shown["last_lines"] = [
                {
                    "name": enclave.name,
                    "cid": enclave.cid,
                    "lines": [{"age": round(age, 1), "text": text} for age, text in enclave.lines],
                }
                for enclave in component.last_lines(log_lines)
            ]
    return shown


def _forward(forward: ForwardSnapshot) -> dict[str, Any]:
    addresses = {"listen": str(forward.listen), "target": str(forward.target)}
    return {**asdict(forward), **addresses}
