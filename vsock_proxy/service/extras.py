"""Optional dependencies: whether they are installed, and the command that installs them."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vsock_proxy.errors import ConfigurationError

PROJECT = "nitro-enclave-agent"


def require(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra (pyproject.toml) are installed.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"not installed: {', '.join(missing)}", hint=install_command(extra)
        )


def install_command(extra: str) -> str:
    """Return the command that adds an extra, from where the project itself was installed.

    The name alone would lead to a package index. The project is on none: there, the name is
    anybody's.
    """
    pip = Path(sys.prefix, "bin", "pip")
    program = shlex.quote(str(pip)) if sys.prefix != sys.base_prefix and pip.exists() else "pip"
    return f"{program} install {requirement(_origin(), extra)}"


def requirement(origin: str | None, extra: str) -> str:
    """Return what pip installs, as a shell takes it.

    Args:
        origin: the distribution's direct_url.json (PEP 610). pip writes none for what it finds by
            name.
        extra: an extra of pyproject.toml.
    """
    if origin is None:
        return f"'{PROJECT}[{extra}]'"
    try:
        read = json.loads(origin)
        url = urlsplit(read["url"])
        path = Path(unquote(url.path))
        if url.scheme == "file" and path.exists():
            editable = "-e " if read.get("dir_info", {}).get("editable") else ""
            return f"{editable}{shlex.quote(f'{path}[{extra}]')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # another installer's: as if the folder was gone
    return f"'.[{extra}]' in a checkout of {PROJECT}"


def _origin() -> str | None:
    from importlib import metadata  # noqa: PLC0415 (slow, and only for an error)

    # More than one: setuptools leaves its own in a checkout.
    for each in metadata.distributions(name=PROJECT):
        if origin := each.read_text("direct_url.json"):
            return origin
        if each.read_text("INSTALLER"):
            return None
    return "{}"
