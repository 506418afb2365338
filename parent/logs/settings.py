"""Where enclaves log to: the ``logs`` section of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import VMADDR_CID_ANY, Address, VsockAddress
from vsock_proxy.net.ports import LOG_PORT
from vsock_proxy.service.cids import read_cids

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

LISTEN = VsockAddress(VMADDR_CID_ANY, LOG_PORT)

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that never grows beyond `size` bytes, and `keep` older ones of that size."""

    path: Path
    size: int = 10 * _MIB
    keep: int = 5


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log sink.

    Attributes:
        listen: where enclaves connect.
        cids: those that may; None for everybody who can connect.
        to: ``journal``, ``stderr`` (the daemon's own log), or a file.
        lines_per_second: of one enclave; what is beyond is left out and counted.
        bytes_per_second: of one enclave; beyond it, its connections are read more slowly.
        connections: of one enclave at a time.
        connections_per_second: of one enclave, new ones; those beyond are closed and counted.
    """

    cids: frozenset[int] | None
    listen: Address = LISTEN
    to: str | LogFile = "journal"
    lines_per_second: int = 1000
    bytes_per_second: int = _MIB
    connections: int = 16
    connections_per_second: int = 10


def read_logs_section(node: Setting) -> LogSettings:
    """Read the section.

    Raises:
        ConfigurationError: something in it cannot be; says where.
    """
    fields = node.fields(
        *("listen", "cids", "to", "lines_per_second", "bytes_per_second"),
        *("connections", "connections_per_second"),
    )
    default = LogSettings(cids=None)
    listen = fields["listen"].address() if "listen" in fields else default.listen
    cids = read_cids(node, fields, listen, required=True)

    def number(key: str, otherwise: int, most: int) -> int:
        return fields[key].integer(1, most) if key in fields else otherwise

    return LogSettings(
        listen=listen,
        cids=cids,
        to=_target(fields["to"]) if "to" in fields else default.to,
        lines_per_second=number("lines_per_second", default.lines_per_second, 100_000),
        bytes_per_second=(
            fields["bytes_per_second"].size(4096, 1 << 30)
            if "bytes_per_second" in fields
            else default.bytes_per_second
        ),
        connections=number("connections", default.connections, 1024),
        connections_per_second=number(
            "connections_per_second", default.connections_per_second, 1000
        ),
    )


def _target(setting: Setting) -> str | LogFile:
    if isinstance(setting.node.value, str):
        return setting.choice("journal", "stderr")
    fields = setting.fields("file", "size", "keep", required=("file",))
    path = Path(fields["file"].string())
    if not path.is_absolute():
        raise fields["file"].wrong("not an absolute path")
    return LogFile(
        path,
        size=fields["size"].size(65536, 1 << 40) if "size" in fields else 10 * _MIB,
        keep=fields["keep"].integer(1, 1000) if "keep" in fields else 5,
    )
