"""``enclave-parent build-eif``: images without nitro-cli and without Docker."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.eif import cpio, cpio_reader, debian, programs, ramdisks, sign_command
from parent.eif.build import build
from parent.eif.console import warn
from parent.eif.cpio import CHUNK
from parent.eif.describe import measurements
from parent.eif.metadata import Metadata, parse_json
from parent.eif.root import command, source
from parent.eif.root.notes import Notes
from parent.eif.root.tree import Node
from parent.files import check_is_none_of, opened, print_json, progress, read_small, replacing, size
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.arguments import RawHelpFormatter
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from parent.eif.root.tree import Tree

MAX_CUSTOM_METADATA = 4096
"""Bytes in the file of ``--metadata``, as for ``nitro-cli``."""

_DEBIAN = "debian"
_MAX_PROGRAM = 64 * 1024 * 1024  # Bytes in init, or in a kernel module.

_EPILOG = """\
The same files make the same image. Its build time is 1970, or what
SOURCE_DATE_EPOCH says.

A root is a folder, a tar (plain, gzip, bzip2, xz), or a container image as
`docker save` or `skopeo copy ... oci-archive:FILE` writes it, of which
ENTRYPOINT, CMD, ENV and WORKDIR are used. What does not get into the image
unchanged is reported on stderr. Times and extended attributes do not: a
ramdisk has none.

Ramdisks are, in this order: the one made of --init, those of --ramdisk, the
one made of --rootfs. With --init and --rootfs the layout is nitro-cli's, for
AWS's init:
  enclave-parent build-eif --kernel bzImage --cmdline "$(cat cmdline)" \\
    --init init --nsm-module nsm.ko --rootfs root.tar --output app.eif \\
    -- /usr/bin/app --verbose
On a machine without nitro-cli, to try an image under QEMU:
  enclave-parent build-eif --kernel debian --rootfs app.tar --output app.eif
  enclave-simulator boot app.eif
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "build-eif",
        help="make an enclave image of a kernel, ramdisks and a root file system",
        epilog=_EPILOG,
        formatter_class=RawHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--kernel",
        metavar="FILE|debian",
        type=Path,
        required=True,
        help="bzImage, or Image on aarch64; debian: Debian's kernel with an init of this project, "
        "for `enclave-simulator boot` only, from `enclave-simulator setup-machine --kernel`",
    )
    add("--cache", metavar="FOLDER", type=Path, help="where Debian's kernel is unpacked")
    add("--cmdline", metavar="TEXT", help="the kernel's; may be left out with --kernel debian")
    add("--ramdisk", metavar="FILE", type=Path, action="append", default=[], help="a ramdisk")
    add("--init", metavar="FILE", type=Path, help="the program that the kernel starts")
    add("--nsm-module", metavar="FILE", type=Path, help="nsm.ko, beside init")
    add("--rootfs", metavar="PATH", type=Path, help="a folder, a tar, or a container image")
    add("--owners", choices=("root", "keep"), default="root",
        help="of the files in a folder; a tar has its own (default: %(default)s)")  # fmt: skip
    add("--add", metavar="FILE:PATH", action="append", default=[],
        help="put a file into the root at PATH, mode 0644; may repeat")  # fmt: skip
    add("--env", metavar="NAME=VALUE", action="append", default=[],
        help="for the command; before what the container image says")  # fmt: skip
    add("--gzip", action="store_true", help="compress the ramdisks that are made here")
    add(
        "--arch",
        choices=["x86_64", "aarch64"],
        help="default: that of the kernel; x86_64 with --kernel debian",
    )
    add("--name", metavar="TEXT", help="of the image; default: the name of the output")
    add("--version", metavar="TEXT", default="1.0", help="of the image; default: %(default)s")
    add("--metadata", metavar="FILE", type=Path, help="JSON to put in as custom metadata")
    add("--output", metavar="IMAGE", type=Path, required=True, help="the file to write")
    add("command", metavar="COMMAND", nargs="*",
        help="runs in the root; default: ENTRYPOINT and CMD of a container image")  # fmt: skip
    sign_command.add_options(parser, required=False)
    parser.set_defaults(run=run)


@dataclass(slots=True)
class _Parts:
    """What an image is made of.

    Attributes:
        ramdisks: in their order, and whether each is to be compressed.
        size: bytes of all their contents, as far as it is known before.
        notes: differences between the root and the image.
    """

    ramdisks: list[tuple[Iterable[bytes], bool]] = field(default_factory=list)
    size: int = 0
    notes: Notes = field(default_factory=Notes)


def run(arguments: argparse.Namespace) -> int:
    """Build an image, and print its measurements as ``nitro-cli build-enclave`` does."""
    command.check_environment(arguments.env)
    check_is_none_of(arguments.output, _inputs(arguments))
    signer = sign_command.read_signer(arguments)
    base = _debian(arguments)
    if base:
        arguments.kernel = base.kernel
    kernel = _kernel(arguments)
    metadata = _metadata(arguments, kernel)
    with contextlib.ExitStack() as stack:
        # First: unpacking takes long, and an output that cannot be is told before.
        output = stack.enter_context(replacing(arguments.output))
        parts = _parts(arguments, kernel, base, stack)
        for line in parts.notes.lines():
            warn(line)
        with progress(parts.size + size(arguments.kernel), "building") as advance:
            pcrs = build(
                output,
                kernel=_counted(read_chunks(arguments.kernel), advance),
                cmdline=arguments.cmdline,
                ramdisks=[
                    cpio.gzipped(_counted(ramdisk, advance))
                    if compress
                    else _counted(ramdisk, advance)
                    for ramdisk, compress in parts.ramdisks
                ],
                metadata=metadata,
                architecture=kernel.architecture,
                signer=signer,
            )
    print_json({"Measurements": measurements(pcrs)})
    return 0


def _inputs(arguments: argparse.Namespace) -> Iterator[tuple[str, Path | None]]:
    for option in ("kernel", "init", "nsm_module", "rootfs", "metadata", "signing_certificate"):
        yield f"--{option.replace('_', '-')}", getattr(arguments, option)
    yield "--private-key", Path(arguments.private_key) if arguments.private_key else None
    for path in arguments.ramdisk:
        yield "--ramdisk", path
    for pair in arguments.add:
        yield "--add", Path(pair.rpartition(":")[0] or pair)


def _kernel(arguments: argparse.Namespace) -> programs.Kernel:
    with opened(arguments.kernel) as stream:
        kernel = programs.read_kernel(stream.read(programs.HEAD))
    if arguments.arch not in (None, kernel.architecture):
        raise ConfigurationError(
            f"--arch {arguments.arch}, but the kernel is for {kernel.architecture}",
            hint="an enclave started from it would not boot: nitro-cli says E36",
        )
    return kernel


def _debian(arguments: argparse.Namespace) -> debian.Debian | None:
    """Return Debian's packages, if they are to be used, and complete the options for them."""
    if str(arguments.kernel) != _DEBIAN:
        if arguments.cmdline is None:
            raise ConfigurationError(
                "--cmdline is missing",
                hint="nitro-cli's is in /usr/share/nitro_enclaves/blobs/cmdline",
            )
        return None
    if arguments.init or arguments.nsm_module:
        raise ConfigurationError("--init and --nsm-module do not go with --kernel debian")
    if not arguments.rootfs:
        raise ConfigurationError("--kernel debian needs a root file system: --rootfs PATH")
    if arguments.cmdline is None:
        arguments.cmdline = debian.CMDLINE
    return debian.find(arguments.cache, architecture=arguments.arch or programs.X86_64)


def _parts(
    arguments: argparse.Namespace,
    kernel: programs.Kernel,
    base: debian.Debian | None,
    stack: contextlib.ExitStack,
) -> _Parts:
    parts = _Parts(notes=Notes(os.geteuid() if hasattr(os, "geteuid") else 0))
    if arguments.nsm_module and not arguments.init:
        raise ConfigurationError("--nsm-module goes beside --init, which is missing")
    if arguments.init:
        boot = _boot_ramdisk(arguments, kernel, parts.notes)
        parts.ramdisks.append((cpio.archive(boot), arguments.gzip))
    if base:
        parts.ramdisks.append((cpio.archive(base.boot_ramdisk()), arguments.gzip))
    for path in arguments.ramdisk:
        note = _check_ramdisk(path)
        if note:
            parts.notes.say(note)
        parts.ramdisks.append((read_chunks(path), False))
        parts.size += size(path)
    if arguments.rootfs:
        with progress(_size(arguments.rootfs), "unpacking") as advance:
            tree, container = source.read(
                arguments.rootfs,
                kernel.architecture,
                parts.notes,
                stack,
                keep_owners=arguments.owners == "keep",
                spool=arguments.output.parent,
                progress=advance,
            )
        for pair in arguments.add:
            _add_file(tree, pair)
        run = command.resolve(
            tree, container, arguments.command, arguments.env, kernel.architecture, parts.notes
        )
        entries = ramdisks.application_ramdisk(tree.entries(), run.words, run.environment)
        parts.ramdisks.append((cpio.archive(entries), arguments.gzip))
        parts.size += tree.size()
    elif arguments.command or arguments.env or arguments.add:
        raise ConfigurationError("a command, --env or --add, but no --rootfs that they are for")
    return parts


def _add_file(tree: Tree, pair: str) -> None:
    name, colon, path = pair.rpartition(":")
    if not colon or not name or not path.startswith("/"):
        raise ConfigurationError(f"--add {pair}: not FILE:PATH with an absolute path")
    found = tree.find(path)
    if path.endswith("/") or (found and found[1].is_dir):
        raise ConfigurationError(
            f"--add {pair}: {path} is a directory, and all of it would be lost",
            hint=f"name the file: {path.rstrip('/')}/{Path(name).name}",
        )
    content = read_small(Path(name), _MAX_PROGRAM)
    tree.add(path, Node(stat.S_IFREG | 0o644, size=len(content), open=lambda: io.BytesIO(content)))


def _size(path: Path) -> int:
    return 0 if path.is_dir() else size(path)


def _boot_ramdisk(
    arguments: argparse.Namespace, kernel: programs.Kernel, notes: Notes
) -> list[cpio.Entry]:
    init = read_small(arguments.init, _MAX_PROGRAM)
    note = programs.check_init(init, kernel.architecture, alone=not arguments.ramdisk)
    if note:
        notes.say(note)
    module = arguments.nsm_module and read_small(arguments.nsm_module, _MAX_PROGRAM)
    if module is not None:
        note = programs.check_module(module, kernel)
        if note:
            notes.say(note)
    return ramdisks.boot_ramdisk(init, module)


def _check_ramdisk(path: Path) -> str:
    """Return what may be wrong with a ramdisk: the kernel would not say much."""
    with opened(path) as stream:
        head = stream.read(cpio_reader.HEAD)
    if not head or cpio_reader.may_be_archive(head):
        return ""  # An empty one is refused when it is written.
    return f"{path} begins like no archive and no compression that Linux takes for a ramdisk"


def _counted(chunks: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    """Pass chunks on, and count them: before compression, for the total is of what comes in."""
    for chunk in chunks:
        yield chunk
        advance(len(chunk))


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file, in pieces.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with opened(path) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e


def _metadata(arguments: argparse.Namespace, kernel: programs.Kernel) -> Metadata:
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
        "KernelVersion": kernel.release or "Unknown",
    }
    return Metadata(arguments.name or arguments.output.stem, arguments.version, build, None, custom)


def _build_time() -> datetime:
    """Return what reproducible-builds.org's SOURCE_DATE_EPOCH says, or the epoch itself."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise ConfigurationError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds")
    return datetime.fromtimestamp(int(text), UTC)
