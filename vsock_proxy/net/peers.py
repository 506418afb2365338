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

if TYPE_CHECKING:
    from collections.abc import Container

    from vsock_proxy.net.sockets import Stream


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
