"""Optional parts of an installation: said by name where a command needs one that is missing."""

from __future__ import annotations

from importlib.util import find_spec

from vsock_proxy.errors import ConfigurationError


def require(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra of pyproject.toml can be imported.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"not installed here: {', '.join(missing)}",
            hint=f"pip install 'nitro-enclave-agent[{extra}]'",
        )
