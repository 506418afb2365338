"""``enclave-simulator boot`` and ``setup-machine``: an image in a simulated enclave."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave_simulator.launcher import DEFAULT_CID
from enclave_simulator.machine import kernel, qemu
from enclave_simulator.machine.architecture import BY_NAME
from enclave_simulator.machine.parent_side import EXIT_PORT
from enclave_simulator.parent import services as parent_services
from enclave_simulator.parent.processes import exit_on_signals
from parent import files
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.ports import PROXY_PORT
from vsock_proxy.service.arguments import seconds
from vsock_proxy.service.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority
    from enclave_simulator.machine.boot import Image, UnsignedImage
    from enclave_simulator.machine.image import CheckedImage


def add_parser(subparsers: Any) -> None:
    """Add the commands ``boot`` and ``setup-machine`` to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "boot",
        help="boot an enclave image (EIF) with its own kernel under QEMU",
        description="Boot an enclave image with its own kernel, command line and ramdisks under "
        "QEMU. Its /dev/nsm signs documents with the image's PCRs; behind CID 3 are a simulated "
        f"KMS (through vsock-proxy on port {PROXY_PORT}), a credential service, a log sink whose "
        "lines are printed on stderr, and what --parent-port and --folder add. The console is on "
        "stdout. "
        f"The exit code is what the guest writes, in decimal, to vsock://3:{EXIT_PORT}; "
        "0 if it writes none.",
    )
    add = parser.add_argument
    add("image", metavar="IMAGE", type=Path, help="the EIF")
    add("--memory", type=_positive, metavar="MIB",
        help="(default: four times the image, 1024 at least)")  # fmt: skip
    add("--cpu-count", type=_positive, default=2, metavar="N", help="(default: %(default)s)")
    add("--cid", type=int, default=DEFAULT_CID, metavar="N",
        help="the enclave's context id (default: %(default)s)")  # fmt: skip
    add("--debug-mode", action="store_true",
        help="an enclave in debug mode: PCR0, PCR1 and PCR2 are zero")  # fmt: skip
    add("--role-arn", metavar="ARN", type=_role_arn,
        help="the parent's IAM role, which PCR3 measures (default: none)")  # fmt: skip
    add("--instance-id", metavar="ID", default="i-0123456789abcdef0", type=_instance_id,
        help="the parent's instance id, which PCR4 measures (default: %(default)s)")  # fmt: skip
    add("--signing-certificate", metavar="FILE", type=Path,
        help="PEM of the certificate that an unsigned image is treated as signed with (PCR8) "
        "(default: PCR8 from the image's own signature, zero without one)")  # fmt: skip
    add("--machine", choices=("microvm", "virt", "nitro-enclave"),
        help="nitro-enclave is QEMU's own enclave, if it has one: it measures the image itself "
        "and signs no document (default: microvm for x86_64 images, virt for aarch64)")  # fmt: skip
    add("--nitro-root", metavar="FILE", type=Path,
        help="write the root certificate of the documents to this file, PEM")  # fmt: skip
    add("--kms-ca", metavar="FOLDER", type=Path,
        help="keep the simulated KMS's authority here (ca.pem and ca.key), so that ca.pem can be "
        "built into the image (default: a new authority each time)")  # fmt: skip
    add("--folder", metavar="FOLDER", type=Path,
        help="UNIX sockets that stand for vsock: 3_PORT is the parent's port, CID takes 'CONNECT "
        "PORT' (default: a temporary folder)")  # fmt: skip
    add("--guest-port", metavar="PORT", action="append", default=[],
        type=parent_services.vsock_port,
        help="add CID_PORT to that folder for this port of the guest; may repeat")  # fmt: skip
    add("--timeout", type=seconds(0.1, 86400 * 365), metavar="SECONDS",
        help="stop the machine after this time (default: none)")  # fmt: skip
    add("--kvm", action="store_true",
        help="use KVM instead of emulation: faster; unreliable where it is emulated")  # fmt: skip
    add("--no-services", action="store_true", help="no KMS, no proxy, no credentials")
    add("--verbose", action="store_true", help="log connections to stderr")
    _add_cache(parser)
    parent_services.add_options(parser)
    parser.set_defaults(run=boot)

    parser = subparsers.add_parser(
        "setup-machine",
        help="unpack a QEMU that boot can use",
        description="Download a QEMU that boot can use from Debian's backports, and unpack it "
        "into a folder, unless the one in PATH is usable. It needs apt-get and dpkg-deb, no "
        "privilege, about 40 MB of download and 200 MB of room. Nothing is installed.",
    )
    _add_cache(parser)
    parser.add_argument("--arch", choices=tuple(BY_NAME), default="x86_64",
        help="of the images that are to boot (default: %(default)s)")  # fmt: skip
    parser.add_argument("--mirror", metavar="URL",
        help="a mirror of Debian (default: the one in this machine's apt)")  # fmt: skip
    parser.add_argument("--kernel", action="store_true",
        help="unpack Debian's kernel and busybox too, for `enclave-parent build-eif --kernel "
        "debian`: about 35 MB of download, 40 MB of room")  # fmt: skip
    parser.add_argument("--kms-ca", metavar="FOLDER", type=Path,
        help="make the authority for boot --kms-ca, unless it exists")  # fmt: skip
    parser.add_argument(
        "--again", action="store_true", help="unpack again, even if a usable one exists"
    )
    parser.set_defaults(run=set_up)


def boot(options: argparse.Namespace) -> int:
    """Boot an image, wait for its end, and return its exit code.

    Raises:
        EifError: the file is not an image.
        MachineError: no QEMU is usable, or the guest did not run to its end.
        ServiceError: a service of the parent did not start.
        ConfigurationError: an option.
    """
    # cryptography takes a moment to load; the other commands do without.
    from enclave_simulator.authority import Authority  # noqa: PLC0415
    from enclave_simulator.machine.boot import DESCRIPTORS, Enclave  # noqa: PLC0415
    from enclave_simulator.machine.image import CheckedImage  # noqa: PLC0415

    parent_services.check_cid(options.cid)
    parent_services.check_folder(options.folder)
    _check_machine(options)
    if options.verbose:
        logging.basicConfig(format="enclave-simulator: %(message)s", level=logging.DEBUG)
    exit_on_signals()
    raise_descriptor_limit(DESCRIPTORS)
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enclave-")))
        folder = options.folder or private
        image = CheckedImage(stack.enter_context(files.opened(options.image)))
        system = _system(options.machine, image.architecture)
        command = qemu.find(system, cache=options.cache)
        authority = Authority.generate()
        booted = _booted(options, system, image, authority, private)
        if options.nitro_root:
            with files.replacing(options.nitro_root) as stream:
                stream.write(authority.root_pem)
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
            cid=options.cid,
            folder=folder,
            parent_ports=dict(options.parent_port),
            guest_ports=options.guest_port,
            memory=options.memory or image.memory,
            cpus=options.cpu_count,
            kvm=options.kvm,
            command=command,
        )
        return enclave.boot(booted, private, timeout=options.timeout)


def _check_machine(options: argparse.Namespace) -> None:
    if options.machine != "nitro-enclave":
        return
    for name in ("debug_mode", "nitro_root", "signing_certificate"):
        if getattr(options, name):
            raise ConfigurationError(
                f"--{name.replace('_', '-')} does not apply to --machine nitro-enclave",
                hint="QEMU's own enclave measures by itself, and signs no document",
            )


def _system(named: qemu.System | None, architecture: str) -> qemu.System:
    """Return the machine for an image."""
    system = qemu.SYSTEMS[architecture]
    if named in (None, system) or (named == "nitro-enclave" and architecture == "x86_64"):
        return named or system
    raise ConfigurationError(
        f"--machine {named} does not boot images for {architecture}",
        hint=f"{system} does, and is the default for them",
    )


def _booted(
    options: argparse.Namespace,
    system: qemu.System,
    image: CheckedImage,
    authority: Authority,
    private: Path,
) -> Image | UnsignedImage:
    """Return the image with its NSM."""
    from enclave_simulator.machine import boot as machine  # noqa: PLC0415 (as in `boot`)
    from enclave_simulator.machine.image import measure_certificate  # noqa: PLC0415
    from enclave_simulator.nsm import SimulatedNsm  # noqa: PLC0415

    module_id = f"{options.instance_id}-enc{_ENCLAVE_ID}"
    if options.machine == "nitro-enclave":
        return machine.UnsignedImage(
            eif=options.image,
            module_id=module_id,
            instance_id=options.instance_id,
            role_arn=options.role_arn,
        )
    pcrs = dict(image.pcrs)
    if options.signing_certificate:
        if 8 in pcrs:
            raise ConfigurationError(
                "--signing-certificate is given, but the image is signed",
                hint="its PCR8 comes from its own signature",
            )
        pem = files.read_small(options.signing_certificate, _MAX_CERTIFICATE)
        pcrs[8] = measure_certificate(pem)
    nsm = SimulatedNsm(
        authority,
        module_id=module_id,
        pcrs=pcrs,
        role_arn=options.role_arn,
        debug_mode=options.debug_mode,
    )
    parts = image.unpack(private)
    return machine.Image(
        system=system,
        kernel=parts.kernel,
        ramdisk=parts.ramdisk,
        cmdline=parts.cmdline,
        exchange=nsm.exchange,
    )


def set_up(options: argparse.Namespace) -> int:
    """Unpack QEMU, and print the command that runs it.

    Raises:
        MachineError: it is unavailable.
    """
    architecture = BY_NAME[options.arch]
    with files.status_line() as report:
        for each in (qemu, kernel) if options.kernel else (qemu,):
            each.set_up(
                options.cache,
                architecture=architecture,
                mirror=options.mirror,
                again=options.again,
                report=report,
            )
    if options.kms_ca:
        _make_authority(options.kms_ca)
    found = qemu.find(qemu.SYSTEMS[architecture.name], cache=options.cache)
    sys.stdout.write(" ".join(found) + "\n")
    return 0


def _make_authority(folder: Path) -> None:
    # cryptography takes a moment to load.
    from enclave_simulator.kms.tls import (  # noqa: PLC0415
        CertificateAuthority,
        generate_key,
        key_pem,
    )

    key = folder / "ca.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if key.exists():
            return
        made = generate_key()
        with open(key, "xb", opener=partial(os.open, mode=0o600)) as stream:
            stream.write(key_pem(made))
        (folder / "ca.pem").write_bytes(CertificateAuthority(key=made).certificate_pem)
    except OSError as e:
        raise ConfigurationError(f"cannot write {folder}: {e.strerror}") from e


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", metavar="FOLDER", type=Path,
        help="folder of the unpacked QEMU (default: nitro-enclave-agent "
        "in $XDG_CACHE_HOME or ~/.cache)")  # fmt: skip


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def _role_arn(text: str) -> str:
    if not _ROLE_ARN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"not arn:aws:iam::ACCOUNT:role/NAME: {text!r}")
    return text


def _instance_id(text: str) -> str:
    if not _INSTANCE_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"not an instance id, such as i-0123456789abcdef0: {text!r}"
        )
    return text


_ENCLAVE_ID = "0123456789abcdef"
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,576}", re.ASCII)
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{1,17}")
_MAX_CERTIFICATE = 64 * 1024
