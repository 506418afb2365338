"""Which addresses are the same place, however they are written. No I/O."""

from __future__ import annotations

import ipaddress
import os.path

from vsock_proxy.net.addresses import (
    VMADDR_CID_ANY,
    VMADDR_CID_LOCAL,
    Address,
    HybridAddress,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.proxy.allowlist import normal_host


def overlap(one: Address, other: Address) -> bool:
    """Return whether listening on both addresses is impossible."""
    one, other = _listening(one), _listening(other)
    match one, other:
        case VsockAddress(), VsockAddress():
            wildcard = VMADDR_CID_ANY in (one.cid, other.cid)
            return one.port == other.port and (wildcard or one.cid == other.cid)
        case TcpAddress(), TcpAddress():
            return one.port == other.port != 0 and (
                one.host == other.host or _is_wildcard_of(one.host, other.host)
                or _is_wildcard_of(other.host, one.host)
            )  # fmt: skip
        case _:
            return one == other


def reaches(target: Address, listen: Address) -> bool:
    """Return whether connecting to `target` certainly reaches what listens on `listen`."""
    target, listen = _canonical(target), _canonical(listen)
    match target, listen:
        case HybridAddress(), _:
            return False  # Into the machine, where something else listens.
        case VsockAddress(), VsockAddress():
            own = target.cid == listen.cid or (
                target.cid == VMADDR_CID_LOCAL and listen.cid == VMADDR_CID_ANY
            )
            return own and target.port == listen.port
        case TcpAddress(), TcpAddress():
            return target.port == listen.port != 0 and (
                target.host == listen.host
                or (_is_wildcard_of(listen.host, target.host) and _is_own(target.host))
            )
        case _:
            return target == _canonical(_listening(listen))


def _is_own(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_unspecified


def _listening(address: Address) -> Address:
    return _canonical(address.listening if isinstance(address, HybridAddress) else address)


def _canonical(address: Address) -> Address:
    """Return an address in the one spelling that it is compared in."""
    match address:
        case UnixAddress(path):
            # Of two leading slashes normpath keeps both; Linux does not care.
            return UnixAddress(os.path.normpath(path).replace("//", "/"))
        case TcpAddress(host, port):
            host = normal_host(host)
            return TcpAddress("127.0.0.1" if host == "localhost" else host, port)
    return address


def _is_wildcard_of(one: str, other: str) -> bool:
    """Return whether `one` stands for every address of the family of `other`."""
    try:
        all_of_them, address = ipaddress.ip_address(one), ipaddress.ip_address(other)
    except ValueError:
        return False
    # [::] takes IPv4 as well (`listening`).
    return all_of_them.is_unspecified and all_of_them.version >= address.version
