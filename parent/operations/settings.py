"""Settings of metrics and health: the section ``operations`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import Address, HybridAddress, VsockAddress

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """Settings of `OperationsService`.

    Attributes:
        listen: a TCP or UNIX address.
    """

    listen: Address


def read_operations_section(section: Setting) -> OperationsSettings:
    """Read the value of the key ``operations``.

    Raises:
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    with section.reading("listen", required=("listen",)) as keys:
        listen = keys.read("listen", _listen)
    return OperationsSettings(listen)


def _listen(value: Setting) -> Address:
    listen = value.address()
    if isinstance(listen, HybridAddress | VsockAddress):
        raise value.wrong(
            "must not be a vsock address: metrics are not for enclaves",
            hint="write tcp://127.0.0.1:9100 or unix:/PATH",
        )
    return listen
