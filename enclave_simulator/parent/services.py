"""The parent's services behind CID 3 of a simulated enclave, for ``run`` and ``boot``.

A simulated KMS, vsock-proxy in front of it, and optionally the credential service are processes;
the log sink is a thread.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave_simulator.kms import command as kms
from enclave_simulator.parent import logs
from enclave_simulator.parent.processes import Service
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_VSOCK,
    VMADDR_CID_PARENT,
    TcpAddress,
    UnixAddress,
    parse_address,
)
from vsock_proxy.net.ports import CREDENTIALS_PORT, LOG_PORT, PROXY_PORT
from vsock_proxy.service.quantities import whole_number

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence
    from pathlib import Path

_LISTENING = "listening on tcp://"


@dataclass(frozen=True, kw_only=True)
class ParentServices:
    """The services to start.

    Attributes:
        folder: where UNIX sockets named CID_PORT stand for vsock addresses.
        private: an empty folder for the services' files.
        nitro_root: PEM of the root that attestation documents must chain to.
        ca: where the certificate of the KMS's certificate authority is written, PEM.
        ca_key: file of the authority's key, for the same authority in each run; None for a new
            one.
        kms_options: further arguments of ``enclave-simulator kms``.
        with_credentials: start the credential service too.
        verbose: pass the services' standard error on.
    """

    folder: Path
    private: Path
    nitro_root: bytes
    ca: Path
    ca_key: Path | None = None
    kms_options: Sequence[str] = ()
    with_credentials: bool
    verbose: bool

    def start(self, stack: contextlib.ExitStack) -> list[Service]:
        """Start the services; leaving `stack` stops them.

        Raises:
            ServiceError: a service did not start.
        """
        stack.enter_context(logs.print_logs(parse_address(self._listen(LOG_PORT))))
        served, address = self.start_kms(stack)
        host, port = address.host, str(address.port)
        allowlist = self.private / "allowlist.yaml"
        allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
        proxy = stack.enter_context(
            Service(
                "vsock_proxy.proxy.command",
                ["--config", str(allowlist), self._listen(PROXY_PORT), host, port],
                show_stderr=self.verbose,
            )
        )
        if not self.with_credentials:
            return [served, proxy]
        service = stack.enter_context(
            Service(
                "enclave_simulator.cli",
                ["credentials", "--listen", self._listen(CREDENTIALS_PORT)],
                show_stderr=self.verbose,
            )
        )
        return [served, proxy, service]

    def start_kms(self, stack: contextlib.ExitStack) -> tuple[Service, TcpAddress]:
        """Start the KMS alone; leaving `stack` stops it.

        Raises:
            ServiceError: it did not start.
        """
        root = self.private / "nitro-root.pem"
        root.write_bytes(self.nitro_root)
        ca_key = [] if self.ca_key is None else [f"--ca-key={self.ca_key}"]
        served = stack.enter_context(
            Service(
                "enclave_simulator.cli",
                ["kms", "--listen", "tcp://127.0.0.1:0", f"--nitro-root={root}",
                 f"--ca-file={self.ca}", *ca_key, *self.kms_options],
                show_stderr=self.verbose,
            )
        )  # fmt: skip
        host, _, port = served.state["STATUS"].removeprefix(_LISTENING).rpartition(":")
        return served, TcpAddress(host, int(port))

    def _listen(self, port: int) -> str:
        return f"unix:{self.folder}/{VMADDR_CID_PARENT}_{port}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run`` and ``boot`` for the services behind CID 3."""
    add = parser.add_argument
    add("--parent-port", metavar="PORT=ADDRESS", action="append", default=[], type=_parent_port,
        help="a service behind CID 3 that listens on unix:/PATH; may repeat")  # fmt: skip
    add("--fault", metavar="NAME[:COUNT]", action=kms.FaultAction, default=[],
        help="a fault of the simulated KMS; may repeat; help lists the names")  # fmt: skip
    kms.add_key_options(parser)


def kms_options(options: argparse.Namespace) -> list[str]:
    """Return the arguments of ``enclave-simulator kms`` among the options of `add_options`."""
    faults = [word for fault in options.fault for word in ("--fault", fault)]
    return [*faults, *kms.key_option_words(options)]


def check_options(options: argparse.Namespace) -> None:
    """Check what the options of `add_options` say beside ``--no-services`` and ``--folder``.

    Raises:
        ConfigurationError: one of them would have no effect, or the folder is none.
    """
    given = kms_options(options)
    if options.no_services and given:
        raise ConfigurationError(
            f"{given[0].partition('=')[0]} with --no-services: there is no simulated KMS",
            hint="leave one of them out",
        )
    _check_folder(options.folder)


def check_cid(cid: int) -> None:
    """Check the context id of an enclave.

    Raises:
        ConfigurationError: it is reserved.
    """
    if not VMADDR_CID_PARENT < cid < MAX_VSOCK:
        raise ConfigurationError(
            f"not an enclave's CID: {cid}", hint="0 to 3 and the last one are reserved"
        )


def _check_folder(folder: Path | None) -> None:
    """Check the folder that is named for the sockets, if any is.

    Raises:
        ConfigurationError: it does not exist, or is none.
    """
    if folder is not None and not folder.is_dir():
        if folder.exists():
            raise ConfigurationError(f"--folder {folder}: not a folder")
        raise ConfigurationError(
            f"--folder {folder}: no such folder",
            hint=f"make it: mkdir -p {shlex.quote(str(folder))}",
        )


def _parent_port(text: str) -> tuple[int, UnixAddress]:
    port, _, target = text.partition("=")
    try:
        address = parse_address(target)
    except ConfigurationError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    if not isinstance(address, UnixAddress):
        raise argparse.ArgumentTypeError(f"not unix:/PATH: {target!r}")
    return vsock_port(port), address


def vsock_port(text: str) -> int:
    """Parse a vsock port: an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is not a vsock port.
    """
    port = whole_number(text, 0, MAX_VSOCK - 1)
    if port is None:
        raise argparse.ArgumentTypeError(f"not a vsock port: {text!r}")
    return port
