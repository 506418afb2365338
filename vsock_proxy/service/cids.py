"""The key ``cids`` of a listener's section: which enclaves may connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT, Address, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsock_proxy.service.settings import Setting

MAX_CIDS = 64
"""That a setting may name; an instance has four enclaves at most."""


_HINT = "name the enclaves: cids: [16]; or all: cids: any"


def read_cids(
    section: Setting, fields: Mapping[str, Setting], listen: Address, *, required: bool
) -> frozenset[int] | None:
    """Read the key ``cids`` of a listener's section: a list, or ``any``, which is None.

    Args:
        section: of the configuration.
        fields: of the section.
        listen: where it listens.
        required: whether it must be said of a vsock listener who may come; else all may.

    Raises:
        ConfigurationError: says in which file and line, and why.
    """
    if not isinstance(listen, VsockAddress):
        if "cids" in fields:
            raise fields["cids"].wrong(
                "only for a vsock listener: other sockets have no CIDs",
                hint="who may connect to a UNIX socket is up to its path and permissions",
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
            # `cids: 16`, without its brackets, is what is written most.
            e.hint = _HINT
            raise
        return None
    return frozenset(
        cid.integer(VMADDR_CID_PARENT + 1, MAX_VSOCK - 1) for cid in cids.items(MAX_CIDS)
    )
