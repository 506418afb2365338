"""The architectures of images that boot here, and of machines that boot them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave_simulator.machine.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture, as each tool calls it.

    Attributes:
        name: as in ``uname -m`` and in the header of an image.
        debian: as in Debian's packages.
        emulator: QEMU's program for guests of it.
        package: Debian's package of that program.
        firmware: folders of QEMU's firmware, below ``usr/share``.
        loader: the dynamic loader of its programs, below the root.
        kernel: Debian's package of the kernel for virtual machines.
    """

    name: str
    debian: str
    emulator: str
    package: str
    firmware: tuple[str, ...]
    loader: str
    kernel: str

    @property
    def libraries(self) -> str:
        """The folder of its shared libraries, below the root."""
        return f"usr/lib/{self.name}-linux-gnu"

    def folder(self, cache: Path) -> Path:
        """Return the folder of what was unpacked for guests of this architecture."""
        return cache if self is X86_64 else cache / self.name


X86_64 = Architecture(
    name="x86_64",
    debian="amd64",
    emulator="qemu-system-x86_64",
    package="qemu-system-x86",
    firmware=("qemu", "seabios"),
    loader="usr/lib64/ld-linux-x86-64.so.2",
    kernel="linux-image-cloud-amd64",
)
AARCH64 = Architecture(
    name="aarch64",
    debian="arm64",
    emulator="qemu-system-aarch64",
    package="qemu-system-arm",
    firmware=("qemu",),
    loader="usr/lib/ld-linux-aarch64.so.1",
    kernel="linux-image-cloud-arm64",
)
BY_NAME = {each.name: each for each in (X86_64, AARCH64)}


def host(machine: str | None = None) -> Architecture:
    """Return this machine's architecture.

    Args:
        machine: its name; None asks the kernel.

    Raises:
        MachineError: Debian's packages for it are not known here.
    """
    name = machine or platform.machine()
    try:
        return BY_NAME[name]
    except KeyError:
        raise MachineError(
            f"an image cannot be booted on {name}", hint="x86_64 and aarch64 machines can"
        ) from None
