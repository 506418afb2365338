"""vsock ports that the two sides of the boot test agree on."""

from __future__ import annotations

DOCUMENT_PORT = 7100
ECHO_PORT = 7101
GUEST_PORT = 5000
