"""The section ``credentials`` of the configuration: where enclaves ask, and which may."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import VMADDR_CID_ANY, Address, TcpAddress, VsockAddress
from vsock_proxy.net.ports import CREDENTIALS_PORT
from vsock_proxy.service.cids import read_cids

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

DEFAULT_ADDRESS = VsockAddress(VMADDR_CID_ANY, CREDENTIALS_PORT)
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
    cids = read_cids(section, fields, listen, required=True)
    profile = fields["profile"].string(most=200) if "profile" in fields else None
    return CredentialSettings(listen, cids, profile)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
