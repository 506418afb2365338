"""The option ``--control`` of `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError
from vsock_proxy.net.addresses import Address, UnixAddress, VsockAddress, parse_address

if TYPE_CHECKING:
    import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--control``."""
    add = parser.add_argument_group("the parent (docs/life-cycle.md)").add_argument
    add("--control", metavar="ADDRESS",
        help="listen for the parent, CID 3, such as vsock://any:8010: it may read /metrics, and "
        "ask to end COMMAND before it terminates the enclave (default: no)")  # fmt: skip


def control_address(text: str) -> Address:
    """Return the address to listen on.

    Raises:
        ConfigurationError: it is not an address, or one that others than the parent reach.
    """
    address = parse_address(text)
    if not isinstance(address, VsockAddress | UnixAddress):
        raise ConfigurationError(
            f"--control: will not listen on {address}: who connects may end the program",
            hint="use vsock://any:8010, or unix:/PATH for tests",
        )
    return address
