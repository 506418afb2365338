"""Host names to socket addresses, by the system's resolver; blocking."""

from __future__ import annotations

import queue
import socket
import threading

from vsock_proxy.net.addresses import HybridAddress, TunnelAddress

InternetName = tuple[str, int] | tuple[str, int, int, int]
"""An argument of `socket.connect`: IPv4 or IPv6."""

SocketName = InternetName | tuple[int, int] | str | HybridAddress | TunnelAddress
"""The same for vsock and UNIX too; a `HybridAddress` for a port behind a UNIX socket, and a
`TunnelAddress` for a host behind a proxy."""

Candidate = tuple[socket.AddressFamily, SocketName]


def look_up(
    host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
) -> list[tuple[socket.AddressFamily, InternetName]]:
    """Look a host up (getaddrinfo(3)); return its addresses in the order to try them.

    This cannot be interrupted and takes as long as /etc/resolv.conf allows.

    Raises:
        OSError: no such name, or no response.
    """
    # As bytes: the idna codec, which has errors of its own, is not used then.
    found = socket.getaddrinfo(host.encode(), port, family, socket.SOCK_STREAM)
    # typeshed adds what a Python without IPv6 gives for IPv6 addresses.
    return [(family, name) for family, _, _, _, name in found]  # type: ignore[misc]


def look_up_within(
    timeout: float, host: str, port: int
) -> list[tuple[socket.AddressFamily, InternetName]]:
    """Look a host up, within `timeout` seconds.

    Raises:
        OSError: no such name; TimeoutError if it takes too long.
    """
    results: queue.SimpleQueue[list[tuple[socket.AddressFamily, InternetName]] | OSError]
    results = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(look_up(host, port))
        except OSError as e:
            results.put(e)

    try:
        threading.Thread(target=run, name="look-up", daemon=True).start()
    except RuntimeError as e:  # the system has no more threads
        raise OSError(f"cannot start a thread to look it up: {e}") from e
    try:
        result = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError("looking up the name takes too long") from None
    if isinstance(result, OSError):
        raise result
    return result
