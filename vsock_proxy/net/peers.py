"""Restricts a listener to the CIDs of certain enclaves.

On the parent the hypervisor assigns the CIDs, and no program in an enclave can send from another
one. UNIX sockets have no CIDs. If one stands in for vsock (``PREFIX_PORT``, the convention of
Firecracker and vhost-device-vsock), the path belongs to one virtual machine, and the permissions of
the path decide; a listener that is restricted to CIDs rejects all clients of UNIX sockets.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from vsock_proxy.net.sockets import Stream


def peer_cid(accepted: Stream, peer: object) -> int | None:
    """Return the CID of a vsock peer; None for other sockets.

    Args:
        accepted: the accepted socket.
        peer: the peer's address, as ``socket.accept`` returns it.
    """
    match peer:
        case (int(cid), int()) if accepted.family == socket.AF_VSOCK:
            return cid
        case _:
            return None


def cid_allowed(accepted: Stream, peer: object, cids: Container[int] | None) -> bool:
    """Return whether a peer may use a listener.

    Args:
        accepted: the accepted socket.
        peer: the peer's address, as ``socket.accept`` returns it.
        cids: those allowed; None allows all, an empty one allows none.
    """
    return cids is None or peer_cid(accepted, peer) in cids
