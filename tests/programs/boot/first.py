"""Runs a command in a booted image as AWS's init does: tells the parent that it began, and how it
ended (enclave_simulator.machine reads both). Standard library only: it is put into any image with
Python.
"""

from __future__ import annotations

import socket
import subprocess
import sys

PARENT = 3
HEARTBEAT_PORT = 9000
EXIT_PORT = 9001
TIMEOUT = 60.0


def main(command: list[str]) -> int:
    """Return the command's exit status."""
    with _connect(HEARTBEAT_PORT) as end:
        end.sendall(b"\xb7")
        assert end.recv(1) == b"\xb7"
    code = subprocess.run(command, check=False).returncode
    with _connect(EXIT_PORT) as end:
        end.sendall(b"%d\n" % (code if code >= 0 else 128 - code))
    return code


def _connect(port: int) -> socket.socket:
    connecting = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    connecting.settimeout(TIMEOUT)
    connecting.connect((PARENT, port))
    return connecting


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
