"""Suggests an address for text that is not one. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import is_host, parse_address, without_brackets

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address

_URL = re.compile(r"(https?)://([^/?#:]+)(?::([0-9]+))?(?:[/?#].*)?")
_NETWORK = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")
_WITH_PORT = re.compile(r"(\[[^\]]+\]|[^\[\]:/]+):[0-9]*")
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


def host_hint(text: str) -> str:
    """Return what to write in place of text that is not a host; "" if there is no good guess."""
    if not text.isascii():
        # Which one it is depends on the version of IDNA: "straße" is "strasse" in the older.
        return "write the name's ASCII form, which begins with xn--"
    if "://" in text:
        return "write the host alone, without scheme, port and path"
    if _NETWORK.fullmatch(text):
        return "networks cannot be listed: name each address"
    with_port = _WITH_PORT.fullmatch(text)
    if with_port and is_host(without_brackets(with_port[1])):
        return f"write {without_brackets(with_port[1])}: the port stands apart"
    return ""
