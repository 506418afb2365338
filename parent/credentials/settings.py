"""Settings of the credential service: the section ``credentials`` of the configuration."""

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
    """Settings of `CredentialService`.

    Attributes:
        listen: where enclaves connect.
        cids: the enclaves that get credentials; None for every client that can connect.
        profile: of AWS's configuration file; None for AWS_PROFILE, or the default one.
    """

    listen: Address = DEFAULT_ADDRESS
    cids: frozenset[int] | None = None
    profile: str | None = None


def read_credentials_section(section: Setting) -> CredentialSettings:
    """Read the value of the key ``credentials``.

    Raises:
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    with section.reading("listen", "cids", "profile") as keys:
        listen = keys.read("listen", _listen, DEFAULT_ADDRESS)
        cids = read_cids(keys, listen, required=True)
        profile = keys.read("profile", lambda value: value.string(most=200), None)
    return CredentialSettings(listen, cids, profile)


def _listen(value: Setting) -> Address:
    listen = value.listener()
    if isinstance(listen, TcpAddress) and not _is_loopback(listen.host):
        raise value.wrong(
            f"{listen.host} is not a loopback address",
            hint="every client that connects gets the credentials: keep them on this machine",
        )
    return listen


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
