"""Reads the key ``cids``: which enclaves may connect to a listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT, Address, VsockAddress

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Keys, Setting

MAX_CIDS = 64
"""That a setting may name; an instance has four enclaves at most."""


_HINT = "for certain enclaves, write cids: [16]; for all, cids: any"


def read_cids(keys: Keys, listen: Address | None, *, required: bool) -> frozenset[int] | None:
    """Read the key ``cids`` of a listener's section: a list, or ``any``, which is None.

    Mistakes are added to `keys`.

    Args:
        keys: of the section.
        listen: where it listens; None if that could not be read: the list itself is checked then.
        required: whether a vsock listener must have the key; otherwise all enclaves may connect.
    """
    if "cids" in keys:
        if listen is not None and not isinstance(listen, VsockAddress):
            keys.add(
                keys["cids"].wrong(
                    "only for a vsock listener: other sockets have no CIDs",
                    hint="restrict a UNIX socket by the permissions of its path",
                )
            )
            return None
        cids: frozenset[int] | None = keys.read("cids", _cids)
        if listen is not None and listen.cid in (cids or ()):
            # Clients' CIDs are in `cids`; a listener's is the machine's own.
            keys.add(
                keys["cids"].wrong(
                    f"{listen.cid} is also the CID in `listen`, which is this machine's own",
                    hint=f"write listen: vsock://any:{listen.port}",
                )
            )
        return cids
    if required and isinstance(listen, VsockAddress) and "cids" not in keys.guessed:
        keys.add(keys.setting.wrong("key 'cids' is missing", hint=_HINT))
    return None


def _cids(value: Setting) -> frozenset[int] | None:
    if value.is_list:
        return frozenset(value.each(_cid, MAX_CIDS))
    try:
        value.choice("any", otherwise="a list of CIDs")
    except ConfigurationError as e:
        # `cids: 16`, without its brackets, is the most common mistake.
        e.hint = _HINT
        raise
    return None


def _cid(value: Setting) -> int:
    return value.integer(VMADDR_CID_PARENT + 1, MAX_VSOCK - 1)
