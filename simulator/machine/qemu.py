"""Finding a QEMU that can have its devices served from outside, and starting it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.machine import debian, nsm_device
from simulator.machine.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "qemu-system-x86_64"
_DEVICES = "vhost-user-test-device", "vhost-user-vsock-device"
"""The first is a generic device, user-creatable from QEMU 10.2 on."""

_WITHIN = 60.0
_HINT = "enclave-simulator setup-machine unpacks one from Debian's packages, without privilege"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is to be booted.

    Attributes:
        kernel: a bzImage or vmlinux.
        ramdisk: all ramdisks, one after the other.
        cmdline: the image's own command line.
        memory: MiB.
        cpus: how many.
        kvm: with the processor's help instead of emulation. Not by default: where KVM is
            itself emulated, as in some clouds, guests crash.
        nsm: the UNIX socket of the NSM's vhost-user backend.
        vsock: that of vsock.
    """

    kernel: Path
    ramdisk: Path
    cmdline: str
    memory: int
    cpus: int
    kvm: bool
    nsm: Path
    vsock: Path


def find(folder: Path | None = None) -> list[str]:
    """Return the command that runs a usable QEMU: PATH's, or the one that was unpacked.

    Raises:
        MachineError: there is none; says what those that are there lack.
    """
    found = []
    if installed := shutil.which(PROGRAM):
        found.append([installed])
    unpacked = (folder or debian.cache_folder()) / "qemu"
    if unpacked.exists():
        found.append(_from(unpacked))
    reasons = []
    for command in found:
        lacking = _lacks(command)
        if not lacking:
            return command
        reasons.append(f"{command[-1] if len(command) == 1 else unpacked} {lacking}")
    raise MachineError(
        "no usable QEMU: " + ("; ".join(reasons) or f"no {PROGRAM} in PATH"), hint=_HINT
    )


def set_up(packages: debian.Packages, folder: Path) -> None:
    """Unpack QEMU from Debian's backports.

    Raises:
        MachineError: it cannot be had.
    """
    packages.unpack(["qemu-system-x86"], folder / "qemu", backports=True)


def arguments(machine: Machine) -> list[str]:
    """QEMU's arguments, without the program."""
    cmdline = f"{machine.cmdline} {_ADDED}" + ("" if machine.kvm else _calibration())
    # The guest's memory is a file that the backends map as well. ACPI announces the devices:
    # Debian's kernels do not take them from the command line.
    memory = f"memory-backend-memfd,id=memory,size={machine.memory}M,share=on"
    # fmt: off
    return [
        "-M", "microvm,acpi=on,memory-backend=memory",
        "-object", memory,
        "-m", f"{machine.memory}M",
        "-smp", str(machine.cpus),
        "-cpu", "max",
        "-accel", "kvm" if machine.kvm else "tcg,thread=multi",
        "-kernel", str(machine.kernel),
        "-initrd", str(machine.ramdisk),
        "-append", cmdline,
        "-chardev", f"socket,id=nsm,path={machine.nsm}",
        "-device", f"vhost-user-test-device,chardev=nsm,virtio-id={nsm_device.VIRTIO_ID},num_vqs=1",
        "-chardev", f"socket,id=vsock,path={machine.vsock}",
        "-device", "vhost-user-vsock-device,chardev=vsock",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-run-with", "exit-with-parent=on",
    ]
    # fmt: on


_ADDED = "reboot=t"
"""Restart by triple fault, which ends QEMU; the last `reboot=` counts. Nitro's own `reboot=k`
asks a keyboard controller that this machine does not have, and waits."""


def _calibration() -> str:
    """What the guest would measure, and on a busy machine measure for ever.

    An emulated guest's time stamp counter is the host's.
    """
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:  # noqa: PTH123
        for line in f:
            name, _, value = line.partition(":")
            if name.strip() == "cpu MHz":
                khz = int(float(value) * 1000)
                # Loops in a jiffy of 4 ms (CONFIG_HZ=250); delays by it need not be exact.
                return f" tsc_early_khz={khz} lpj={khz * 4} no_timer_check"
    return " no_timer_check"


def _from(folder: Path) -> list[str]:
    """The command that runs QEMU with the folder's loader, libraries and firmware."""
    share = folder / "usr/share"
    return [
        str(folder / debian.LOADER),
        "--library-path",
        str(folder / debian.LIBRARIES),
        str(folder / "usr/bin" / PROGRAM),
        "-L",
        str(share / "qemu"),
        "-L",
        str(share / "seabios"),
    ]


def _lacks(command: list[str]) -> str:
    """What a QEMU lacks, in words; nothing where it will do."""
    try:
        done = subprocess.run(  # noqa: S603 (QEMU, asked for its devices)
            [*command, "-device", "help"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"does not run: {e}"
    if done.returncode:
        return f"does not run: {done.stderr.strip()[-200:]}"
    missing = [device for device in _DEVICES if f'"{device}"' not in done.stdout]
    return f"has no {' and no '.join(missing)} (QEMU 10.2 and later have)" if missing else ""
