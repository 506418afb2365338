"""The section ``credentials`` of the configuration: where enclaves ask, and which may."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.addresses import (
    MAX_VSOCK,
    VMADDR_CID_ANY,
    VMADDR_CID_PARENT,
    Address,
    TcpAddress,
    VsockAddress,
)

if TYPE_CHECKING:
    from vsock_proxy.settings import Setting

DEFAULT_ADDRESS = VsockAddress(VMADDR_CID_ANY, 8002)
"""Where the enclave's agent asks for credentials."""


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """What `CredentialService` takes.

    Attributes:
        listen: where enclaves ask.
        cids: the enclaves that get an answer; None for everybody who can connect.
        profile: of AWS's configuration file; None for what AWS_PROFILE says.
    """

    listen: Address = DEFAULT_ADDRESS
    cids: frozenset[int] | None = None
    profile: str | None = None


def read_credentials_section(section: Setting) -> CredentialSettings:
    """Read the value of the key ``credentials``.

    Raises:
        ConfigurationError: says in which file and line, and why.
    """
    fields = section.fields("listen", "cids", "profile")
    listen: Address = DEFAULT_ADDRESS
    if "listen" in fields:
        listen = fields["listen"].address()
        if isinstance(listen, TcpAddress) and not _is_loopback(listen.host):
            raise fields["listen"].wrong(
                f"{listen.host} is no loopback address",
                hint="whoever connects gets the credentials: keep them on this machine",
            )
    cids = None
    if isinstance(listen, VsockAddress):
        if "cids" not in fields:
            raise section.wrong(
                "key 'cids' is missing", hint="name the enclaves: cids: [16]; or all: cids: any"
            )
        cids = _cids(fields["cids"])
    elif "cids" in fields:
        raise fields["cids"].wrong(
            "only for a vsock listener: other sockets have no CIDs",
            hint="who may connect to a UNIX socket is up to its path and permissions",
        )
    profile = fields["profile"].string(most=200) if "profile" in fields else None
    return CredentialSettings(listen, cids, profile)


def _cids(setting: Setting) -> frozenset[int] | None:
    if not setting.is_list:
        setting.choice("any")
        return None
    return frozenset(item.integer(VMADDR_CID_PARENT + 1, MAX_VSOCK - 1) for item in setting.items())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
