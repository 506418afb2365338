"""Host names to socket addresses: the one place that asks the system's resolver."""

from __future__ import annotations

import queue
import socket
import threading

from vsock_proxy.net.addresses import HybridAddress

InternetName = tuple[str, int] | tuple[str, int, int, int]
"""What `socket.connect` takes: IPv4, IPv6."""

SocketName = InternetName | tuple[int, int] | str | HybridAddress
"""The same for vsock and UNIX as well, and where a UNIX socket leads on to."""

Candidate = tuple[socket.AddressFamily, SocketName]


def look_up(
    host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
) -> list[tuple[socket.AddressFamily, InternetName]]:
    """Ask the system (getaddrinfo(3)); the order is that in which to try them.

    It cannot be interrupted and takes as long as /etc/resolv.conf allows.

    Raises:
        OSError: no such name, or no answer.
    """
    # As bytes, so that the idna codec with errors of its own stays out of it.
    found = socket.getaddrinfo(host.encode(), port, family, socket.SOCK_STREAM)
    # typeshed adds what a Python without IPv6 gives for IPv6 addresses.
    return [(family, name) for family, _, _, _, name in found]  # type: ignore[misc]


def look_up_within(
    timeout: float, host: str, port: int
) -> list[tuple[socket.AddressFamily, InternetName]]:
    """Ask the system, but wait no longer than `timeout` seconds.

    Raises:
        OSError: no such name; TimeoutError where the answer takes too long.
    """
    answers: queue.SimpleQueue[list[tuple[socket.AddressFamily, InternetName]] | OSError]
    answers = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look_up(host, port))
        except OSError as e:
            answers.put(e)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError("looking up the name takes too long") from None
    if isinstance(answer, OSError):
        raise answer
    return answer
