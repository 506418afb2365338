"""The section ``operations`` of the configuration: where metrics and health are to be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import Address, HybridAddress, VsockAddress

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """What `OperationsService` takes.

    Attributes:
        listen: a TCP or UNIX address.
    """

    listen: Address


def read_operations_section(section: Setting) -> OperationsSettings:
    """Read the value of the key ``operations``.

    Raises:
        ConfigurationError: says in which file and line, and why.
    """
    fields = section.fields("listen", required=("listen",))
    listen = fields["listen"].address()
    if isinstance(listen, HybridAddress | VsockAddress):
        raise fields["listen"].wrong(
            "no vsock address: how the parent does is no business of enclaves",
            hint="write tcp://127.0.0.1:9100 or unix:/PATH",
        )
    return OperationsSettings(listen)
