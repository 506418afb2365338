"""Telling whoever started us that we are ready: the datagram of sd_notify(3), nothing more.

systemd sets ``NOTIFY_SOCKET``; so does the simulator, which then waits for an event instead of
polling. Without the variable this does nothing.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str = "READY=1") -> bool:
    """Send one state line; True where somebody asked for it and was told."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    target = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.sendto(state.encode(), target)
    except OSError as e:
        # Whoever asked is gone or deaf; that is no reason not to serve.
        log.warning("cannot notify %s: %s", name, e)
        return False
    return True
