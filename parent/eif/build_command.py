"""``enclave-parent build-eif`` and ``sign-eif``: images without nitro-cli and without Docker."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.eif import cpio, rootfs
from parent.eif.build import build, sign
from parent.eif.describe import describe, measurements
from parent.eif.metadata import Metadata, parse_json
from parent.eif.signature import Signer
from parent.files import opened, print_json, progress, read_small, replacing, size
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_CUSTOM_METADATA = 4096
"""Bytes in the file of ``--metadata``, as for ``nitro-cli``."""

_MAX_KEY = 64 * 1024  # Bytes in a PEM file.
_MAX_PROGRAM = 64 * 1024 * 1024  # Bytes in init, or in a kernel module.

_EPILOG = """\
The same files make the same image. Its build time is 1970, or what SOURCE_DATE_EPOCH says.

Ramdisks are, in this order: the one made of --init, those of --ramdisk, the one made of --rootfs.
With --init and --rootfs the layout is nitro-cli's, for AWS's init:
  enclave-parent build-eif --kernel bzImage --cmdline "$(cat cmdline)" --init init \\
    --nsm-module nsm.ko --rootfs root.tar --output app.eif -- /usr/bin/app --verbose
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    parser = subparsers.add_parser(
        "build-eif",
        help="make an enclave image of a kernel, ramdisks and a root file system",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kernel", metavar="FILE", type=Path, required=True, help="bzImage, or Image on aarch64")
    add("--cmdline", metavar="TEXT", required=True, help="the kernel's command line")
    add("--ramdisk", metavar="FILE", type=Path, action="append", default=[], help="a ramdisk")
    add("--init", metavar="FILE", type=Path, help="what the kernel starts, in a first ramdisk")
    add("--nsm-module", metavar="FILE", type=Path, help="nsm.ko, beside init")
    add("--rootfs", metavar="PATH", type=Path, help="a folder, or a tar that is not compressed")
    add("--env", metavar="NAME=VALUE", action="append", default=[], help="for the command")
    add("--gzip", action="store_true", help="compress the ramdisks that are made here")
    add("--arch", choices=["x86_64", "aarch64"], help="default: what the kernel is")
    add("--name", metavar="TEXT", help="of the image; default: what the output is called")
    add("--version", metavar="TEXT", default="1.0", help="of the image; default: %(default)s")
    add("--metadata", metavar="FILE", type=Path, help="JSON to put in as custom metadata")
    add("--output", metavar="IMAGE", type=Path, required=True, help="what to write")
    add("command", metavar="COMMAND", nargs="*", help="what runs in the root file system")
    _add_signer(parser, required=False)
    parser.set_defaults(run=run_build)

    parser = subparsers.add_parser(
        "sign-eif", help="sign an enclave image, or replace its signature"
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the enclave image file")
    parser.add_argument("--output", metavar="IMAGE", type=Path, help="default: the same file")
    _add_signer(parser, required=True)
    parser.set_defaults(run=run_sign)


def _add_signer(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--signing-certificate", metavar="FILE", type=Path, required=required, help="PEM"
    )
    parser.add_argument(
        "--private-key", metavar="FILE", type=Path, required=required,
        help="PEM, on P-256, P-384 or P-521",
    )  # fmt: skip


def run_build(arguments: argparse.Namespace) -> int:
    """Build an image, and print its measurements as ``nitro-cli build-enclave`` does."""
    signer = _signer(arguments)
    metadata = _metadata(arguments)
    with contextlib.ExitStack() as stack:
        ramdisks = _ramdisks(arguments, stack)
        kernel = stack.enter_context(opened(arguments.kernel))
        head = kernel.read(64)
        total = sum(map(size, (arguments.kernel, *arguments.ramdisk)))
        output = stack.enter_context(replacing(arguments.output))
        with progress(total, "building") as advance:
            build(
                output,
                kernel=rootfs.read_chunks(arguments.kernel),
                cmdline=arguments.cmdline,
                ramdisks=ramdisks,
                metadata=metadata,
                architecture=arguments.arch or _architecture(head),
                signer=signer,
                progress=advance,
            )
        pcrs = describe(output).pcrs
    print_json({"Measurements": measurements(pcrs)})
    return 0


def run_sign(arguments: argparse.Namespace) -> int:
    """Sign an image, and print its measurements as ``nitro-cli sign-eif`` does."""
    signer = _signer(arguments)
    assert signer  # noqa: S101 (argparse requires both options)
    with (
        opened(arguments.image) as source,
        replacing(arguments.output or arguments.image) as output,
    ):
        shutil.copyfileobj(source, output)
        sign(output, signer)
        pcrs = describe(output).pcrs
    print_json({"Measurements": measurements(pcrs)})
    return 0


def _ramdisks(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> list[Iterable[bytes]]:
    pack = _gzipped_archive if arguments.gzip else cpio.archive
    ramdisks: list[Iterable[bytes]] = []
    if arguments.nsm_module and not arguments.init:
        raise ConfigurationError("--nsm-module goes beside --init, which is not there")
    if arguments.init:
        module = arguments.nsm_module and read_small(arguments.nsm_module, _MAX_PROGRAM)
        init = read_small(arguments.init, _MAX_PROGRAM)
        ramdisks.append(pack(rootfs.boot_ramdisk(init, module)))
    ramdisks += [rootfs.read_chunks(path) for path in arguments.ramdisk]
    if arguments.rootfs:
        root = _root(arguments.rootfs, stack)
        ramdisks.append(pack(rootfs.application_ramdisk(root, arguments.command, arguments.env)))
    elif arguments.command or arguments.env:
        raise ConfigurationError("a command or --env, and no --rootfs that they would run in")
    return ramdisks


def _gzipped_archive(entries: Iterable[cpio.Entry]) -> Iterator[bytes]:
    return cpio.gzipped(cpio.archive(entries))


def _root(path: Path, stack: contextlib.ExitStack) -> list[cpio.Entry]:
    if path.is_dir():
        return rootfs.from_folder(path)
    stream = stack.enter_context(opened(path))
    try:
        archive = stack.enter_context(tarfile.TarFile(fileobj=stream))
    except tarfile.TarError:
        raise ConfigurationError(
            f"{path} is neither a folder nor an uncompressed tar",
            hint="decompress it first, for example with gunzip",
        ) from None
    return rootfs.from_tar(archive)


def _architecture(kernel: bytes) -> str:
    """Tell by the header (Linux, ``Documentation/arch/arm64/booting.rst``)."""
    return "aarch64" if kernel[56:60] == b"ARM\x64" else "x86_64"


def _metadata(arguments: argparse.Namespace) -> Metadata:
    custom: Any = None
    if arguments.metadata:
        try:
            custom = parse_json(read_small(arguments.metadata, MAX_CUSTOM_METADATA))
        except ValueError as e:
            raise ConfigurationError(f"{arguments.metadata}: {e}") from None
        if not isinstance(custom, dict):
            raise ConfigurationError(
                f"{arguments.metadata} is not a JSON object, which describe-eif could not print"
            )
    build = {
        "BuildTime": _build_time().isoformat(),
        "BuildTool": "enclave-parent",
        "BuildToolVersion": VERSION,
        "OperatingSystem": "Linux",
        "KernelVersion": "Unknown",
    }
    return Metadata(arguments.name or arguments.output.stem, arguments.version, build, None, custom)


def _build_time() -> datetime:
    """Return what reproducible-builds.org's SOURCE_DATE_EPOCH says, or the epoch itself."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise ConfigurationError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds")
    return datetime.fromtimestamp(int(text), UTC)


def _signer(arguments: argparse.Namespace) -> Signer | None:
    certificate, key = arguments.signing_certificate, arguments.private_key
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise ConfigurationError("--signing-certificate and --private-key go together")
    return Signer(read_small(certificate, _MAX_KEY), read_small(key, _MAX_KEY))
