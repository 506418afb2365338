"""``enclave-simulator boot`` and ``setup-machine``: an image in a simulated enclave."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator import parent_services
from simulator.machine import debian, qemu
from simulator.machine.parent_side import EXIT_PORT

if TYPE_CHECKING:
    import argparse
    from types import FrameType

DEFAULT_CID = 16
"""What nitro-cli gives the first enclave of an instance."""


def add_parser(subparsers: Any) -> None:
    """Add the commands ``boot`` and ``setup-machine`` to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "boot",
        help="boot an enclave image (EIF) with its own kernel under QEMU",
        description="Boot an enclave image with its own kernel, command line and ramdisks under "
        "QEMU. Its /dev/nsm signs documents with the image's PCRs; behind CID 3 are a simulated "
        f"KMS (through vsock-proxy on port {parent_services.PROXY_PORT}), a service that gives "
        "out credentials for it, and what --parent-port and --folder add. The console is on "
        f"stdout. The exit code is what the guest writes, in decimal, to vsock://3:{EXIT_PORT}; "
        "0 where it ends without that.",
    )
    add = parser.add_argument
    add("image", metavar="IMAGE", type=Path, help="the EIF")
    add("--memory", type=int, default=1024, metavar="MIB", help="(default: %(default)s)")
    add("--cpus", type=int, default=2, metavar="N", help="(default: %(default)s)")
    add("--cid", type=int, default=DEFAULT_CID, metavar="N",
        help="the enclave's context id (default: %(default)s)")  # fmt: skip
    add("--debug-mode", action="store_true",
        help="an enclave in debug mode: PCR0, PCR1 and PCR2 are zero")  # fmt: skip
    add("--role-arn", metavar="ARN", help="the parent's IAM role, which PCR3 measures")
    add("--instance-id", metavar="ID", default="i-0123456789abcdef0",
        help="the parent's instance id, which PCR4 measures (default: %(default)s)")  # fmt: skip
    add("--nitro-root", metavar="FILE", type=Path,
        help="where to write the root certificate of the documents, PEM")  # fmt: skip
    add("--kms-ca", metavar="FOLDER", type=Path,
        help="where the simulated KMS keeps its authority (ca.pem and ca.key), so that ca.pem can "
        "be built into the image (default: a new authority each time)")  # fmt: skip
    add("--folder", metavar="FOLDER", type=Path,
        help="where vsock addresses are UNIX sockets: what listens on 3_PORT is behind CID 3; "
        "CID takes 'CONNECT PORT' (default: a temporary one)")  # fmt: skip
    add("--guest-port", metavar="PORT", action="append", default=[],
        type=parent_services.vsock_port,
        help="have a port of the guest as CID_PORT in that folder too; may repeat")  # fmt: skip
    add("--timeout", type=float, metavar="SECONDS", help="give up then")
    add("--kvm", action="store_true",
        help="use KVM instead of emulation: faster where it is real, unreliable where it is "
        "itself emulated")  # fmt: skip
    add("--no-services", action="store_true", help="no KMS, no proxy, no credentials")
    add("--verbose", action="store_true", help="tell on stderr what is connected")
    parent_services.add_options(parser)
    parser.set_defaults(run=boot)

    parser = subparsers.add_parser(
        "setup-machine",
        help="unpack a QEMU that boot can use",
        description="Download a QEMU that boot can use from Debian's backports, and unpack it "
        f"into {debian.cache_folder()}. It needs apt-get and dpkg-deb, no privilege, about 40 MB "
        "of download and 200 MB of room. Nothing is installed.",
    )
    parser.add_argument("--mirror", metavar="URL",
        help="a mirror of Debian (default: the one in this machine's apt)")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="even if there is one already")
    parser.set_defaults(run=set_up)


def boot(options: argparse.Namespace) -> int:
    """Boot an image, wait for its end, and return its exit code.

    Raises:
        EifError: it is no image.
        MachineError: no QEMU will do, or the guest did not run to its end.
        ServiceError: a service of the parent did not start.
        ConfigurationError: an option.
    """
    # cryptography takes a moment to load; the other commands do without.
    from simulator.authority import Authority  # noqa: PLC0415
    from simulator.machine import image  # noqa: PLC0415
    from simulator.machine.boot import Enclave  # noqa: PLC0415
    from simulator.nsm import SimulatedNsm  # noqa: PLC0415

    parent_services.check_cid(options.cid)
    command = qemu.find()
    if options.verbose:
        logging.basicConfig(format="enclave-simulator: %(message)s", level=logging.DEBUG)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enclave-")))
        folder = options.folder or private
        booted, pcrs = image.unpack(options.image, private)
        authority = Authority.generate()
        nsm = SimulatedNsm(
            authority,
            module_id=f"{options.instance_id}-enc{_ENCLAVE_ID}",
            pcrs=pcrs,
            role_arn=options.role_arn,
            debug_mode=options.debug_mode,
        )
        if options.nitro_root:
            options.nitro_root.write_bytes(authority.root_pem)
        if not options.no_services:
            ca = options.kms_ca or private
            parent_services.ParentServices(
                folder=folder,
                private=private,
                nitro_root=authority.root_pem,
                ca=ca / "ca.pem",
                ca_key=ca / "ca.key",
                kms_options=parent_services.kms_options(options),
                with_credentials=True,
                verbose=options.verbose,
            ).start(stack)
        enclave = Enclave(
            exchange=nsm.exchange,
            cid=options.cid,
            folder=folder,
            parent_ports=dict(options.parent_port),
            guest_ports=options.guest_port,
            memory=options.memory,
            cpus=options.cpus,
            kvm=options.kvm,
            command=command,
        )
        return enclave.boot(booted, private, timeout=options.timeout)


def set_up(options: argparse.Namespace) -> int:
    """Unpack QEMU.

    Raises:
        MachineError: it cannot be had.
    """
    folder = debian.cache_folder()
    if options.again or not (folder / "qemu").exists():
        begun = time.monotonic()
        packages = debian.Packages(folder / "apt", mirror=options.mirror)
        packages.update()
        qemu.set_up(packages, folder)
        print(f"unpacked in {time.monotonic() - begun:.0f} s", file=sys.stderr)  # noqa: T201
    sys.stdout.write(" ".join(qemu.find()) + "\n")
    return 0


_ENCLAVE_ID = "0123456789abcdef"


def _exit(number: int, _frame: FrameType | None) -> None:
    """End as by this signal, but through every `finally`."""
    sys.exit(128 + number)
