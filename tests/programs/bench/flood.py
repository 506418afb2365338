"""One client that floods the endpoint: ``python -m tests.programs.bench.flood WHICH PORT``.

``pipelining`` sends thousands of requests ahead, reads nothing and resets, over and over;
``connecting`` opens a connection and resets it. At most for a minute, and until killed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

REQUESTS = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 6000
SECONDS = 60.0


def main() -> None:
    """Flood until killed."""
    which, port = sys.argv[1], int(sys.argv[2])
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.settimeout(0.1)
            if which == "pipelining":
                one.sendall(REQUESTS)


if __name__ == "__main__":
    main()
