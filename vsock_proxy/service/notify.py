"""Sends readiness notifications (sd_notify(3)).

systemd sets ``NOTIFY_SOCKET``; so does the simulator, which then need not poll. Without the
variable nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str = "READY=1") -> bool:
    """Send a state; return whether it was asked for and sent."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    target = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.sendto(state.encode(), target)
    except OSError as e:
        # Serve all the same.
        log.warning("cannot notify %s: %s", name, e)
        return False
    return True
