"""Settings of the log sink: the section ``logs`` of the configuration."""

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
_FILE = "{file: /PATH, size: 10 MiB, keep: 5}"


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that never grows beyond `size` bytes, and `keep` older ones of that size."""

    path: Path
    size: int = 10 * _MIB
    keep: int = 5


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Settings of `LogSink`.

    Attributes:
        listen: where enclaves connect.
        cids: the enclaves that may log; None for every client that can connect.
        to: ``journal``, ``stderr`` (the daemon's own log), or a file.
        lines_per_second: of one enclave; more are dropped and counted.
        bytes_per_second: of one enclave; with more, its connections are read more slowly.
        connections: of one enclave at a time.
        connections_per_second: of one enclave, new ones; more are closed and counted.
    """

    cids: frozenset[int] | None
    listen: Address = LISTEN
    to: str | LogFile = "journal"
    lines_per_second: int = 1000
    bytes_per_second: int = _MIB
    connections: int = 16
    connections_per_second: int = 10


def read_logs_section(section: Setting) -> LogSettings:
    """Read the value of the key ``logs``.

    Raises:
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    default = LogSettings(cids=None)
    with section.reading(
        *("listen", "cids", "to", "lines_per_second", "bytes_per_second"),
        *("connections", "connections_per_second"),
    ) as keys:

        def number(key: str, otherwise: int, most: int) -> int:
            return keys.read(key, lambda value: value.integer(1, most), otherwise)

        listen = keys.read("listen", lambda value: value.listener(), default.listen)
        return LogSettings(
            listen=listen,
            cids=read_cids(keys, listen, required=True),
            to=keys.read("to", _target, default.to),
            lines_per_second=number("lines_per_second", default.lines_per_second, 100_000),
            bytes_per_second=keys.read(
                "bytes_per_second",
                lambda value: value.size(4096, 1 << 30),
                default.bytes_per_second,
            ),
            connections=number("connections", default.connections, 1024),
            connections_per_second=number(
                "connections_per_second", default.connections_per_second, 1000
            ),
        )


def _target(value: Setting) -> str | LogFile:
    if not value.is_mapping:
        return value.choice("journal", "stderr", otherwise=_FILE)
    default = LogFile(Path("/"))
    with value.reading("file", "size", "keep", required=("file",)) as keys:
        return LogFile(
            keys.read("file", _absolute),
            size=keys.read("size", lambda size: size.size(65536, 1 << 40), default.size),
            keep=keys.read("keep", lambda keep: keep.integer(1, 1000), default.keep),
        )


def _absolute(value: Setting) -> Path:
    path = Path(value.string())
    if not path.is_absolute():
        raise value.wrong("not an absolute path")
    return path
