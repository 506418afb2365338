"""Who is at a listener: restricting it to some enclaves by their CIDs.

On the parent the kernel vouches for the CID of a vsock peer: the hypervisor gave it to the
enclave, and no program in there can send from another. UNIX sockets have no CIDs. Where one
stands in for vsock (``PREFIX_PORT``, the convention of Firecracker and vhost-device-vsock) the path
belongs to one virtual machine: who may come is decided by the path and its permissions, and a
listener that is restricted to CIDs takes nobody from there.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vsock_proxy.addresses import MAX_VSOCK, VMADDR_CID_PARENT, Address, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from vsock_proxy.settings import Setting
    from vsock_proxy.streams import Stream

MAX_CIDS = 64
"""That a setting may name; an instance has four enclaves at most."""


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
            raise section.wrong(
                "key 'cids' is missing", hint="name the enclaves: cids: [16]; or all: cids: any"
            )
        return None
    cids = fields["cids"]
    if not cids.is_list:
        cids.choice("any")
        return None
    return frozenset(
        cid.integer(VMADDR_CID_PARENT + 1, MAX_VSOCK - 1) for cid in cids.items(MAX_CIDS)
    )


def peer_cid(accepted: Stream, peer: object) -> int | None:
    """Return the CID of a vsock peer; None where the socket is not a vsock socket.

    Args:
        accepted: the connection.
        peer: its peer's address, as ``socket.accept`` returns it.
    """
    match peer:
        case (int(cid), int()) if accepted.family == socket.AF_VSOCK:
            return cid
        case _:
            return None


def cid_allowed(accepted: Stream, peer: object, cids: Container[int] | None) -> bool:
    """Tell whether a peer may use a listener that is meant for these CIDs; None: for all.

    Args:
        accepted: the connection.
        peer: its peer's address, as ``socket.accept`` returns it.
        cids: an empty one allows nobody.
    """
    return cids is None or peer_cid(accepted, peer) in cids
