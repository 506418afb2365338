"""The vsock ports of the parent that the enclave's side and the parent's side agree on."""

from __future__ import annotations

PROXY_PORT = 8000
"""vsock-proxy, as AWS's documentation has it."""

CREDENTIALS_PORT = 8002
"""The credential service."""

LOG_PORT = 8003
"""The log sink."""
