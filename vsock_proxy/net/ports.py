"""Vsock ports on the parent instance, where enclaves expect its services."""

from __future__ import annotations

PROXY_PORT = 8000
"""vsock-proxy to KMS; the port of AWS's documentation."""

CREDENTIALS_PORT = 8002
"""The credential service."""

LOG_PORT = 8003
"""The log sink."""

EGRESS_PORT = 8004
"""The egress proxy."""

CONTROL_PORT = 8010
"""In an enclave: where its agent listens for the parent (``serve --control``)."""
