"""Finds a QEMU whose devices can be served through vhost-user, and makes its arguments."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from enclave_simulator.machine import debian, nsm_device
from enclave_simulator.machine.architecture import AARCH64, X86_64, host
from enclave_simulator.machine.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from enclave_simulator.machine.architecture import Architecture

System = Literal["microvm", "virt", "nitro-enclave"]
"""``-M``: microvm (x86_64) and virt (aarch64) have an NSM that this project serves; QEMU's own
enclave has one that signs nothing."""

_HINT = "enclave-simulator setup-machine{} unpacks one from Debian's packages, without privilege"
_WITHIN = 60.0
_EMULATED = "reboot=t no_timer_check tsc=reliable"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """What ``-M help`` and ``-device help`` must name."""

    machine: str
    devices: tuple[str, ...]
    versions: str


_NEEDS: dict[System, _Needs] = {
    "microvm": _Needs(
        machine="microvm",
        # The first is a generic device, which a user can create.
        devices=("vhost-user-test-device", "vhost-user-vsock-device"),
        versions="QEMU 10.2 and later",
    ),
    "virt": _Needs(
        machine="virt",
        devices=("vhost-user-test-device", "vhost-user-vsock-device"),
        versions="QEMU 10.2 and later",
    ),
    "nitro-enclave": _Needs(
        machine="nitro-enclave",
        devices=(),
        versions="QEMU 9.2 and later built with libcbor; no package of Debian's",
    ),
}


SYSTEMS: dict[str, System] = {"x86_64": "microvm", "aarch64": "virt"}
"""The machine that images of an architecture boot in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The options that both systems share.

    Attributes:
        memory: MiB.
        cpus: how many.
        kvm: use KVM instead of emulation. Not by default: on machines that emulate KVM, as in some
            clouds, guests crash.
        vsock: the UNIX socket of vsock's vhost-user backend.
    """

    memory: int
    cpus: int
    kvm: bool
    vsock: Path


def find(system: System = "microvm", *, cache: Path | None = None) -> list[str]:
    """Return the command that runs a usable QEMU: the one in PATH, or the unpacked one.

    Args:
        system: the machine to emulate.
        cache: the folder that `set_up` unpacked one into; None is `debian.cache_folder`.

    Raises:
        MachineError: there is none; the message has what each lacks.
    """
    guest = AARCH64 if system == "virt" else X86_64
    found = []
    if installed := shutil.which(guest.emulator):
        found.append((installed, [installed]))
    unpacked = guest.folder(cache or debian.cache_folder()) / "qemu"
    if unpacked.exists():
        found.append((str(unpacked), _from(unpacked, guest)))
    reasons = []
    for name, command in found:
        lacking = _lacks(command, _NEEDS[system])
        if not lacking:
            return command
        reasons.append(f"{name} {lacking}")
    hint = _HINT.format(f" --arch {guest.name}" if guest is AARCH64 else "")
    if system == "nitro-enclave":
        hint = f"-M {system}: {_NEEDS[system].versions}"
    elif guest is X86_64 and not all(
        _lacks(command, _NEEDS["nitro-enclave"]) for _, command in found
    ):
        hint += "; --machine nitro-enclave works here, if documents need not be signed"
    raise MachineError(
        "no usable QEMU: "
        + ("; ".join(reasons) or f"no {guest.emulator} in PATH, none in {unpacked}"),
        hint=hint,
    )


def set_up(
    cache: Path | None = None,
    *,
    architecture: Architecture = X86_64,
    mirror: str | None = None,
    again: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Unpack QEMU from Debian's backports, unless a usable one exists.

    Args:
        cache: where to; None is `debian.cache_folder`.
        architecture: of the images that it boots.
        mirror: see `debian.Packages`.
        report: see `debian.Packages`.
        again: unpack even so.

    Raises:
        MachineError: it is unavailable.
    """
    cache = cache or debian.cache_folder()
    with debian.locked(cache):
        if not again:
            with contextlib.suppress(MachineError):
                find(SYSTEMS[architecture.name], cache=cache)
                return
        packages = debian.Packages(
            cache / "apt", architecture=host().debian, mirror=mirror, report=report
        )
        packages.update()
        unpacked = architecture.folder(cache) / "qemu"
        packages.unpack([architecture.package], unpacked, backports=True)
        _keep_to(unpacked)


def _keep_to(folder: Path) -> None:
    """Make an unpacked QEMU look for its modules in its own folder.

    Otherwise it loads those of an installed QEMU, of another version, and aborts. It looks for all
    its files below ``qemu-bundle``, where there is one beside the running program: here, the loader
    (QEMU's util/cutils.c, get_relocated_path).
    """
    beside = (folder / host().loader).resolve().parent
    (beside / "qemu-bundle").symlink_to(os.path.relpath(folder.resolve(), beside))


def served(
    machine: Machine, system: System, *, kernel: Path, ramdisk: Path, cmdline: str, nsm: Path
) -> list[str]:
    """Return QEMU's arguments for a machine whose NSM is served through vhost-user.

    Args:
        machine: the shared options.
        system: microvm or virt.
        kernel: a bzImage or vmlinux, or an Image of aarch64.
        ramdisk: all ramdisks, one after the other.
        cmdline: the image's own command line.
        nsm: the UNIX socket of the NSM's vhost-user backend.
    """
    # The guest's memory is a file that the backends map as well. ACPI, or on aarch64 the device
    # tree, announces the devices: Debian's kernels do not take them from the command line.
    memory = f"memory-backend-memfd,id=memory,size={machine.memory}M,share=on"
    nsm_options = f"vhost-user-test-device,chardev=nsm,virtio-id={nsm_device.VIRTIO_ID},num_vqs=1"
    model = ["-M", "microvm,acpi=on,memory-backend=memory"]
    if system == "virt":
        model = ["-M", "virt,gic-version=3,memory-backend=memory"]
        model += ["-global", "virtio-mmio.force-legacy=false"]
    # fmt: off
    return [
        *model,
        "-object", memory,
        "-kernel", str(kernel),
        "-initrd", str(ramdisk),
        "-append", f"{cmdline} {_added(machine, system)}",
        "-chardev", f"socket,id=nsm,path={_quoted(nsm)}",
        "-device", nsm_options,
        *_common(machine),
        "-device", "vhost-user-vsock-device,chardev=vsock",
    ]
    # fmt: on


def nitro_enclave(
    machine: Machine, *, eif: Path, module_id: str, instance_id: str, role_arn: str | None
) -> list[str]:
    """Return QEMU's arguments for its own enclave, which measures the image by itself.

    Args:
        machine: the shared options.
        eif: the image.
        module_id: the module id in documents.
        instance_id: measured into PCR4.
        role_arn: measured into PCR3.
    """
    enclave = f"nitro-enclave,acpi=on,vsock=vsock,id={_quoted(module_id)}"
    enclave += f",parent-id={_quoted(instance_id)}"
    if role_arn is not None:
        enclave += f",parent-role={_quoted(role_arn)}"
    # QEMU puts this behind the image's own command line.
    return [
        "-M",
        enclave,
        "-kernel",
        str(eif),
        "-append",
        _added(machine, "nitro-enclave"),
        *_common(machine),
    ]


def _common(machine: Machine) -> list[str]:
    # fmt: off
    return [
        "-m", f"{machine.memory}M",
        "-smp", str(machine.cpus),
        "-cpu", "max",
        "-accel", "kvm" if machine.kvm else "tcg,thread=multi",
        "-chardev", f"socket,id=vsock,path={_quoted(machine.vsock)}",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
    ]
    # fmt: on


def _quoted(value: object) -> str:
    """Quote commas, which separate QEMU's options."""
    return str(value).replace(",", ",,")


def _added(machine: Machine, system: System) -> str:
    """Return what the kernel's command line needs for this machine. Of consoles the last counts.

    Restarting by triple fault ends QEMU; the last `reboot=` counts. Nitro's own `reboot=k` waits
    for a keyboard controller that does not exist. The frequency of the time stamp counter is given,
    because measuring it may never end on a busy machine: an emulated counter is the host's. Linux
    compares it with ticks, which a busy machine loses, and would take these for its clock: minutes
    behind, KMS rejects what the guest signs.
    """
    if system == "virt":
        return "console=ttyAMA0"
    if machine.kvm:
        return "reboot=t"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:  # noqa: PTH123
        for line in f:
            name, _, value = line.partition(":")
            if name.strip() == "cpu MHz":
                khz = int(float(value) * 1000)
                # Loops in a jiffy of 4 ms (CONFIG_HZ=250); delays by it need not be exact.
                return f"{_EMULATED} tsc_early_khz={khz} lpj={khz * 4}"
    return _EMULATED


def _from(folder: Path, guest: Architecture) -> list[str]:
    """Return the command that runs QEMU with the folder's loader, libraries and firmware."""
    machine = host()
    return [
        str(folder / machine.loader),
        "--library-path",
        str(folder / machine.libraries),
        str(folder / "usr/bin" / guest.emulator),
        *(word for name in guest.firmware for word in ("-L", str(folder / "usr/share" / name))),
    ]


def _lacks(command: list[str], needs: _Needs) -> str:
    """Return what a QEMU lacks, in words; empty if it is usable."""
    try:
        machines, devices = (_help(command, of) for of in ("-M", "-device"))
    except (OSError, subprocess.SubprocessError) as e:
        output = getattr(e, "stderr", None) or str(e)
        return f"does not run: {output.strip()[-200:]}"
    missing = [] if f"\n{needs.machine} " in machines else [f"-M {needs.machine}"]
    missing += [device for device in needs.devices if f'"{device}"' not in devices]
    return f"has no {' and no '.join(missing)} ({needs.versions})" if missing else ""


def _help(command: list[str], of: str) -> str:
    return subprocess.run(  # noqa: S603 (QEMU, asked for what it has)
        [*command, of, "help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_WITHIN,
        stdin=subprocess.DEVNULL,
    ).stdout
