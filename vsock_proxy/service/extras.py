"""Checks that the optional dependencies of a command are installed."""

from __future__ import annotations

from importlib.util import find_spec

from vsock_proxy.errors import ConfigurationError


def require(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra (pyproject.toml) are installed.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"not installed: {', '.join(missing)}",
            hint=f"pip install 'nitro-enclave-agent[{extra}]'",
        )
