"""Reads the key ``cids`` of a listener's section: which enclaves may connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT, Address, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsock_proxy.service.settings import Setting

MAX_CIDS = 64
"""CIDs in one list; an instance has four enclaves at most."""

_HINT = "for certain enclaves, write cids: [16]; for all, cids: any"


def read_cids(
    section: Setting, fields: Mapping[str, Setting], listen: Address, *, required: bool
) -> frozenset[int] | None:
    """Read the key ``cids``: a list, or ``any``, which is None.

    Args:
        section: the listener's section.
        fields: its keys.
        listen: the listener's address.
        required: whether a vsock listener must have the key; if not, it defaults to ``any``.

    Raises:
        ConfigurationError: the message has file and line.
    """
    if not isinstance(listen, VsockAddress):
        if "cids" in fields:
            raise fields["cids"].wrong(
                "only for a vsock listener: other sockets have no CIDs",
                hint="restrict a UNIX socket by the permissions of its path",
            )
        return None
    if "cids" not in fields:
        if required:
            raise section.wrong("key 'cids' is missing", hint=_HINT)
        return None
    cids = fields["cids"]
    if not cids.is_list:
        try:
            cids.choice("any")
        except ConfigurationError as e:
            # `cids: 16`, without brackets, is the most frequent mistake.
            e.hint = _HINT
            raise
        return None
    return frozenset(
        cid.integer(VMADDR_CID_PARENT + 1, MAX_VSOCK - 1) for cid in cids.items(MAX_CIDS)
    )
