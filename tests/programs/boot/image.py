"""Images that boot: Debian's kernel, and a root file system; and that of the boot test: Debian's
Python, the agent, and what runs inside.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

from enclave_simulator.machine import kernel
from enclave_simulator.machine.architecture import BY_NAME, X86_64
from enclave_simulator.machine.debian import Packages, locked
from parent.eif import build as eif
from parent.eif import cpio, debian, ramdisks
from parent.eif.metadata import BUILD_FIELDS, Metadata
from parent.eif.root.folder import read as read_folder
from parent.eif.root.notes import Notes
from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from enclave_simulator.machine.architecture import Architecture

COMMAND = ("/usr/bin/python3", "-B", "-m", "tests.programs.boot.guest")
ENVIRONMENT = ("PATH=/usr/bin", "PYTHONPATH=/opt/agent:/opt/site")
PYTHON_VERSION = "3.13"  # trixie's

_LEFT_OUT = (
    # What no program in there asks for; the machine boots the faster for it.
    "etc", "usr/lib/systemd", "usr/lib/udev", "usr/sbin", "usr/share", "var",
    *(f"{each.libraries}/{name}" for each in BY_NAME.values() for name in ("gconv", "perl-base")),
)  # fmt: skip
_TEST_TOOLS = "pytest==", "pytest-timeout==", "hypothesis=="
_BOTOCORE_KEPT = (
    "kms",
    "s3",
    "endpoints.json",
    "partitions.json",
    "sdk-default-configuration.json",
)


def fetch(cache: Path, architecture: Architecture = X86_64) -> None:
    """Get what the image is made of, as far as it is not there yet.

    Raises:
        MachineError: Debian's packages cannot be had.
        subprocess.CalledProcessError: Python's cannot.
    """
    kernel.set_up(cache, architecture=architecture)
    with locked(cache):
        _fetch(architecture.folder(cache), architecture)


def _fetch(cache: Path, architecture: Architecture) -> None:
    packages = Packages(cache / "apt", architecture=architecture.debian)
    if not (cache / "python").exists():
        packages.update()
        packages.unpack(["python3"], cache / "python")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = [each for each in extras["dev"] if each.startswith(_TEST_TOOLS)]
    wanted = [*project["dependencies"], *extras["parent"], *extras["simulator"], *tools]
    stamp = cache / "site" / "wanted"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        # For the guest's Python, not this one's: so wheels only.
        shutil.rmtree(cache / "site", ignore_errors=True)
        platforms = [
            f"--platform=manylinux{version}_{architecture.name}"
            for version in ("2014", "_2_28", "_2_34")
        ]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
             "--target", str(cache / "site"), "--python-version", PYTHON_VERSION,
             *platforms, "--only-binary=:all:", *wanted],
            check=True,
        )  # fmt: skip
        stamp.write_text("\n".join(wanted))


def build(
    cache: Path,
    output: Path,
    architecture: Architecture = X86_64,
    *,
    kms_ca: bytes,
    files: Mapping[str, bytes] | None = None,
    only: Sequence[str] = (),
    tests: str = "",
) -> None:
    """Pack the image of the boot test.

    Args:
        cache: filled by `fetch`.
        output: the EIF to write.
        architecture: of the image.
        kms_ca: PEM of the authority that the KMS in there is trusted by.
        files: further files, by path.
        only: names of the checks to make; all if there are none.
        tests: arguments of pytest for the launcher's; all if it is empty.
    """
    root = [
        *_root(architecture.folder(cache)),
        *_static_program(architecture, output.parent),
        *(cpio.file(path, content) for path, content in (files or {}).items()),
    ]
    environment = (*ENVIRONMENT, f"BOOT_TEST_ONLY={','.join(only)}", f"BOOT_TEST_TESTS={tests}")
    pack(cache, output, root, COMMAND, environment, architecture, kms_ca=kms_ca)


def pack(
    cache: Path,
    output: Path,
    root: Iterable[cpio.Entry],
    command: Sequence[str],
    environment: Iterable[str],
    architecture: Architecture = X86_64,
    *,
    kms_ca: bytes,
) -> None:
    """Pack an image that boots into a command in a root file system.

    Args:
        cache: filled by `fetch`.
        output: the EIF to write.
        root: what the command needs.
        command: an absolute path, and arguments.
        environment: NAME=VALUE, beside where it is and whom it trusts.
        architecture: of the image.
        kms_ca: PEM of the authority that the KMS in there is trusted by.
    """
    base = debian.find(cache, architecture=architecture.name)
    application = ramdisks.application_ramdisk(
        [*root, cpio.file("etc/kms-ca.pem", kms_ca)],
        command,
        ("AWS_DEFAULT_REGION=us-east-1", "AWS_CA_BUNDLE=/etc/kms-ca.pem", *environment),
    )
    with output.open("w+b") as stream:
        eif.build(
            stream,
            kernel=[base.kernel.read_bytes()],
            cmdline=debian.CMDLINE,
            ramdisks=[cpio.archive(base.boot_ramdisk()), cpio.archive(application)],
            architecture=architecture.name,
            metadata=Metadata(output.stem, "1", dict.fromkeys(BUILD_FIELDS, "")),
        )


def _root(cache: Path) -> Iterator[cpio.Entry]:
    for entry in read_folder(cache / "python", Notes()).entries():
        if not entry.path.startswith(_LEFT_OUT):
            yield entry
    busybox = (cache / "busybox/usr/bin/busybox").read_bytes()
    yield cpio.file("usr/bin/busybox", busybox, 0o755)
    for name in ("sh", "test", "sleep", "cat", "env", "false", "kill", "ls", "true"):
        yield _link(f"usr/bin/{name}", b"busybox")
    yield cpio.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    yield cpio.file("etc/hosts", b"127.0.0.1 localhost\n")  # the launcher adds names to a copy
    for link in ("bin", "lib", "lib64"):
        yield _link(link, f"usr/{link}".encode())
    for entry in read_folder(cache / "site", Notes()).entries():
        parts = entry.path.split("/")
        unused = parts[:2] == ["botocore", "data"] and parts[2:3] not in (
            [], *([kept] for kept in _BOTOCORE_KEPT)
        )  # fmt: skip
        if not unused and "__pycache__" not in parts:
            yield cpio.Entry(f"opt/site/{entry.path}", entry.mode, entry.size, entry.content)
    sources = [*ROOT.glob("enclave/**/*"), *ROOT.glob("vsock_proxy/**/*")]
    # A product's image has neither tests nor simulator. This one runs tests.
    sources += [ROOT / "pyproject.toml", *ROOT.glob("enclave_simulator/**/*")]
    sources += ROOT.glob("parent/**/*")
    sources += [*ROOT.glob("tests/*.py"), *ROOT.glob("tests/programs/*.py")]
    for folder in ("programs/boot", "contracts", "vsock_proxy", "enclave_simulator"):
        sources += ROOT.glob(f"tests/{folder}/**/*.py")
    for path in sorted(sources):
        if path.is_file() and path.suffix != ".pyc":
            name = path.relative_to(ROOT).as_posix()
            yield cpio.file(f"opt/agent/{name}", path.read_bytes())


def _static_program(architecture: Architecture, private: Path) -> list[cpio.Entry]:
    """Return the C program of the launcher's tests, if there is a compiler for it here.

    In the guest there is none.
    """
    cross = f"{architecture.name}-linux-gnu-gcc"
    compiler = shutil.which("gcc" if architecture.name == os.uname().machine else cross)
    if compiler is None:
        return []
    source = ROOT / "tests/enclave_simulator/launcher/programs/enclave.c"
    binary = private / "enclave"
    subprocess.run([compiler, "-static", "-pthread", "-O1", "-o", binary, source], check=True)
    path = source.with_suffix("").relative_to(ROOT)
    return [cpio.file(f"opt/agent/{path}", binary.read_bytes(), 0o755)]


def _link(path: str, target: bytes) -> cpio.Entry:
    return cpio.Entry(path, stat.S_IFLNK | 0o777, len(target), lambda: [target])
