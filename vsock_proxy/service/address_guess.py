"""Suggests an address for text that is not one. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import parse_address

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address

_URL = re.compile(r"(https?)://([^/?#:]+)(?::([0-9]+))?(?:[/?#].*)?")
_URL_PORTS = {"http": "80", "https": "443"}


def meant_address(text: str) -> Address | None:
    """Return the address that was probably meant; None if there is no good guess."""
    if text.isdecimal():
        guess = f"vsock://any:{text}"
    elif url := _URL.fullmatch(text):
        guess = f"tcp://{url[2]}:{url[3] or _URL_PORTS[url[1]]}"
    elif text.startswith("/"):
        guess = f"unix:{text}"
    elif "://" not in text and re.fullmatch(r"[^/]+:[0-9]+", text):
        guess = f"tcp://{text}"
    else:
        return None
    try:
        return parse_address(guess)
    except ConfigurationError:
        return None
