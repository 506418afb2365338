"""Which Host headers a server on this machine may respond to. No I/O.

A web page that an operator visits can make the browser look its host's name up again and get the
address of this listener (DNS rebinding). The browser then takes this daemon for a part of that
site, and lets its script read what the daemon responds. The Host header still has the site's name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(:[0-9]{1,5})?")


def may_be_named(host: str, names: Collection[str]) -> bool:
    """Return whether a request with this Host header is for this machine.

    No name can be rebound if the header has an IP address or ``localhost``. A client without the
    header (HTTP/1.0) is not a browser.

    Args:
        host: the header's value; "" if there is none.
        names: others that are allowed, in lower case.
    """
    if not host:
        return True
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts[1].lower().removesuffix(".")
    if name.startswith("["):
        return _is_address(name[1:-1])
    return name == "localhost" or name in names or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
