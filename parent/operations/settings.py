"""Settings of the page, metrics and health: the section ``operations`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from parent.logs.intake import KEPT_LINES
from vsock_proxy.net.addresses import (
    Address,
    HybridAddress,
    UnixAddress,
    VsockAddress,
    is_host,
    without_brackets,
)

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

MAX_HOSTS: Final = 64
LOG_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """Settings of `OperationsService`.

    Attributes:
        listen: a TCP or UNIX address.
        hosts: names by which clients may request it, besides those in `hosts.may_be_named`.
        log_lines: of each enclave on the page and in ``/status``; with 0 they show none.
        control: where commands such as `enclave-parent restart` connect; None: nowhere.
    """

    listen: Address
    hosts: tuple[str, ...] = ()
    log_lines: int = LOG_LINES
    control: UnixAddress | None = None


def read_operations_section(section: Setting) -> OperationsSettings:
    """Read the value of the key ``operations``.

    Raises:
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    with section.reading("listen", "hosts", "log_lines", "control", required=("listen",)) as keys:
        return OperationsSettings(
            keys.read("listen", _listen),
            hosts=keys.read("hosts", lambda value: tuple(value.each(_host, MAX_HOSTS)), ()),
            log_lines=keys.read(
                "log_lines",
                lambda value: value.integer(0, KEPT_LINES),
                LOG_LINES,
            ),
            control=keys.read("control", _control, None),
        )


def _listen(value: Setting) -> Address:
    listen = value.listener()
    if isinstance(listen, HybridAddress | VsockAddress):
        raise value.wrong(
            "must not be a vsock address: metrics are not for enclaves",
            hint="write tcp://127.0.0.1:9100 or unix:/PATH",
        )
    return listen


def _control(value: Setting) -> UnixAddress:
    control = value.address()
    if not isinstance(control, UnixAddress):
        raise value.wrong(
            "must be a UNIX socket: who may connect to it may restart enclaves",
            hint="write unix:/run/enclave-parent/control",
        )
    return control


def _host(value: Setting) -> str:
    host = value.string()
    if not is_host(without_brackets(host)):
        raise value.wrong(
            f"not a host name: {host!r}",
            hint="write what stands in the browser's address line, without http:// and port",
        )
    return host
