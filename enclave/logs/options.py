"""Where what a program prints goes: options of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from enclave.errors import ConfigurationError
from enclave.logs.outbox import LEAST_LIMIT, LIMIT, MOST_LIMIT
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, VsockAddress, parse_address
from vsock_proxy.service.log_lines import LOG_PORT

if TYPE_CHECKING:
    import argparse

DEFAULT_SINK: Final = VsockAddress(VMADDR_CID_PARENT, LOG_PORT)

FLUSH: Final = 5.0
"""Seconds after the program's end for what still waits, by default."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where lines go, and how much is kept of them.

    Attributes:
        to: the parent's log sink.
        also_stderr: whether they are also written to standard error, the console.
        buffer: bytes that wait while the sink is slow or away, at most.
        flush: seconds, after the program's end, for what still waits.
    """

    to: Address
    also_stderr: bool = False
    buffer: int = LIMIT
    flush: float = FLUSH

    def __post_init__(self) -> None:
        if not LEAST_LIMIT <= self.buffer <= MOST_LIMIT:
            raise ConfigurationError(
                f"a log buffer of {self.buffer} bytes",
                hint=f"{LEAST_LIMIT} to {MOST_LIMIT}",
            )
        if not (math.isfinite(self.flush) and 0 <= self.flush <= 3600):
            raise ConfigurationError(
                f"{self.flush:g} s to flush the log", hint="0 to 3600; it is a deadline"
            )

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self | None:
        """What the options of `add_options` said; None where no sink was named.

        Raises:
            ConfigurationError: one of them makes no sense.
        """
        if arguments.log_to is None:
            return None
        return cls(
            parse_address(arguments.log_to),
            arguments.log_also_stderr,
            arguments.log_buffer,
            arguments.log_flush,
        )


def add_options(parser: argparse.ArgumentParser, *, prefix: str = "", default: str | None) -> None:
    """Add ``--to`` and the others, as ``--{prefix}to``; `default` is what ``--to`` is without."""
    add = parser.add_argument_group("logs (docs/logs.md)").add_argument
    without = f"(default: {default})" if default else "(default: standard error, as it is)"
    add(f"--{prefix}to", dest="log_to", metavar="ADDRESS", default=default,
        help=f"the parent's log sink, such as {DEFAULT_SINK} {without}")  # fmt: skip
    add(f"--{prefix}also-stderr", dest="log_also_stderr", action="store_true",
        help="write the lines to standard error as well: the console, in debug mode")  # fmt: skip
    add(f"--{prefix}buffer", dest="log_buffer", type=int, default=LIMIT, metavar="BYTES",
        help="what waits while the sink is slow or away; beyond it the oldest lines are left out "
        "and counted (default: %(default)s)")  # fmt: skip
    add(f"--{prefix}flush", dest="log_flush", type=float, default=FLUSH, metavar="SECONDS",
        help="for what still waits when the program has ended (default: %(default)g)")  # fmt: skip
