"""Command-line options for sending output to the log sink."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from enclave.errors import ConfigurationError
from enclave.logs.outbox import LEAST_LIMIT, LIMIT, MOST_LIMIT
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, VsockAddress, parse_destination
from vsock_proxy.net.ports import LOG_PORT

if TYPE_CHECKING:
    import argparse

DEFAULT_SINK: Final = VsockAddress(VMADDR_CID_PARENT, LOG_PORT)

FLUSH: Final = 5.0
"""Default of the seconds after the program's end in which buffered lines are sent."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where lines are sent, and how many are buffered.

    Attributes:
        to: the parent's log sink.
        also_stderr: whether they are also written to standard error, the console.
        buffer: bytes buffered while the sink is slow or unreachable.
        flush: seconds after the program's end in which buffered lines are sent.
    """

    to: Address
    also_stderr: bool = False
    buffer: int = LIMIT
    flush: float = FLUSH

    def __post_init__(self) -> None:
        if not LEAST_LIMIT <= self.buffer <= MOST_LIMIT:
            raise ConfigurationError(
                f"a log buffer of {self.buffer} bytes is out of range",
                hint=f"{LEAST_LIMIT} to {MOST_LIMIT}",
            )
        if not (math.isfinite(self.flush) and 0 <= self.flush <= 3600):
            raise ConfigurationError(
                f"a log flush timeout of {self.flush:g} s is out of range", hint="0 to 3600"
            )

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self | None:
        """Return the values of `add_options`; None if no sink is named.

        Raises:
            ConfigurationError: one of them is invalid.
        """
        if arguments.log_to is None:
            return None
        return cls(
            parse_destination(arguments.log_to),
            arguments.log_also_stderr,
            arguments.log_buffer,
            arguments.log_flush,
        )


def add_options(parser: argparse.ArgumentParser, *, prefix: str = "", default: str | None) -> None:
    """Add ``--{prefix}to`` and the others; `default` is that of ``--{prefix}to``."""
    add = parser.add_argument_group("logs (docs/logs.md)").add_argument
    without = (
        f"(default: {default})" if default else "(default: none, output stays on standard error)"
    )
    add(f"--{prefix}to", dest="log_to", metavar="ADDRESS", default=default,
        help=f"the parent's log sink, such as {DEFAULT_SINK} {without}")  # fmt: skip
    add(f"--{prefix}also-stderr", dest="log_also_stderr", action="store_true",
        help="also write the lines to standard error, the console in debug mode")  # fmt: skip
    add(f"--{prefix}buffer", dest="log_buffer", type=int, default=LIMIT, metavar="BYTES",
        help="buffer for a sink that is slow or unreachable; beyond it the oldest lines are "
        "dropped and counted (default: %(default)s)")  # fmt: skip
    add(f"--{prefix}flush", dest="log_flush", type=float, default=FLUSH, metavar="SECONDS",
        help="time to send what is buffered after its end (default: %(default)g)")  # fmt: skip
