"""Booting an image: QEMU, the two devices, and the parent's side, on one event loop."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from enclave_simulator.machine import qemu
from enclave_simulator.machine.endpoint import Endpoint
from enclave_simulator.machine.errors import MachineError
from enclave_simulator.machine.nsm_device import NsmDevice
from enclave_simulator.machine.parent_side import (
    EXIT_PORT,
    HEARTBEAT_PORT,
    Folder,
    GuestPorts,
    Init,
    Listener,
)
from enclave_simulator.machine.vsock_device import MAX_CONNECTIONS, VsockDevice
from vsock_proxy.net.addresses import VMADDR_CID_PARENT
from vsock_proxy.relay.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from vsock_proxy.net.addresses import UnixAddress

DESCRIPTORS = 2 * MAX_CONNECTIONS + 256
"""That a guest can make this process need: its connections to ports 9000 and 9001 end here, and
take two each."""

_LAST_TURNS = 64
_LAST_SECONDS = 0.2
"""After QEMU's end: turns of the loop that deliver what the guest sent last (each step from the
ring to a service's socket takes one), and seconds for services that read slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image to boot, with an NSM that is served here.

    Attributes:
        system: the machine that boots it; see `qemu.SYSTEMS`.
        kernel: a bzImage or vmlinux, or an Image of aarch64.
        ramdisk: all ramdisks, one after the other.
        cmdline: the kernel's command line.
        exchange: responds to requests of /dev/nsm, such as `SimulatedNsm.exchange`.
    """

    system: qemu.System = "microvm"
    kernel: Path
    ramdisk: Path
    cmdline: str
    exchange: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsignedImage:
    """An image to boot under QEMU's own ``-M nitro-enclave``, whose NSM signs nothing.

    Attributes:
        eif: the image; QEMU measures it.
        module_id: the module id in documents.
        instance_id: measured into PCR4.
        role_arn: measured into PCR3; None leaves it zero.
    """

    eif: Path
    module_id: str
    instance_id: str
    role_arn: str | None = None


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """A machine that looks like an enclave from inside.

    Attributes:
        cid: its context id.
        folder: UNIX sockets that stand for vsock addresses; see `parent_side`.
        parent_ports: services of the parent that listen elsewhere.
        guest_ports: ports of the guest that ``CID_PORT`` leads to.
        memory: MiB.
        cpus: how many.
        kvm: use it; see `qemu.Machine`.
        command: the command that runs QEMU; see `qemu.find`.
    """

    cid: int
    folder: Path
    parent_ports: Mapping[int, UnixAddress] = field(default_factory=dict)
    guest_ports: Sequence[int] = ()
    memory: int = 1024
    cpus: int = 1
    kvm: bool = False
    command: Sequence[str]

    def boot(
        self,
        image: Image | UnsignedImage,
        private: Path,
        *,
        timeout: float | None = None,
        console: IO[Any] | None = None,
    ) -> int:
        """Boot an image and wait for its end.

        Args:
            image: what to boot.
            private: an empty folder for the length of the boot.
            timeout: seconds.
            console: where the guest's console goes; None is this process's stdout.

        Returns:
            The exit code that the guest reported (`parent_side.EXIT_PORT`), 0 if it reported none.

        Raises:
            MachineError: it did not boot, did not end in time, or broke a device's rules.
            ListenError: another process listens in the folder.
        """
        with contextlib.ExitStack() as stack:
            loop = stack.enter_context(Loop())
            init = self._parent(stack, loop)
            vsock_device = VsockDevice(loop, self.cid, Folder(self.folder, self.parent_ports))
            stack.callback(vsock_device.close)
            vsock = Endpoint(loop, private / "vsock", vsock_device)
            stack.callback(vsock.close)
            self._guest(stack, loop, vsock_device)
            machine = qemu.Machine(
                memory=self.memory, cpus=self.cpus, kvm=self.kvm, vsock=vsock.path
            )
            if isinstance(image, Image):
                nsm = Endpoint(loop, private / "nsm", NsmDevice(image.exchange))
                stack.callback(nsm.close)
                command = _served(machine, image, nsm.path)
            else:
                command = _nitro_enclave(machine, image)
            try:
                process = subprocess.Popen(  # noqa: S603 (QEMU)
                    [*_DIES_WITH_US, *self.command, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    # Not in the terminal's process group: ctrl-C is for this process, which kills
                    # it.
                    process_group=0,
                )
            except FileNotFoundError as e:
                raise MachineError(f"no {e.filename}", hint="it is part of util-linux") from e
            stack.callback(_end, process)
            _wait(loop, process, timeout)
        return _outcome(process.returncode, init)

    def _parent(self, stack: contextlib.ExitStack, loop: Loop) -> Init:
        init = Init(loop)
        for port, accepted in ((HEARTBEAT_PORT, init.heartbeat), (EXIT_PORT, init.exited)):
            path = self.folder / f"{VMADDR_CID_PARENT}_{port}"
            stack.callback(Listener(loop, path, accepted).close)
        return init

    def _guest(self, stack: contextlib.ExitStack, loop: Loop, device: VsockDevice) -> None:
        ports = GuestPorts(loop, device)
        greeted = Listener(loop, self.folder / str(self.cid), ports.greet)
        stack.callback(greeted.close)
        for port in self.guest_ports:
            path = self.folder / f"{self.cid}_{port}"
            stack.callback(Listener(loop, path, ports.to(port)).close)


_DIES_WITH_US = "setpriv", "--pdeathsig", "KILL"
"""Of util-linux: kills QEMU even if this process ends without running a `finally`."""


def _served(machine: qemu.Machine, image: Image, nsm: Path) -> list[str]:
    return qemu.served(
        machine,
        image.system,
        kernel=image.kernel,
        ramdisk=image.ramdisk,
        cmdline=image.cmdline,
        nsm=nsm,
    )


def _nitro_enclave(machine: qemu.Machine, image: UnsignedImage) -> list[str]:
    return qemu.nitro_enclave(
        machine,
        eif=image.eif,
        module_id=image.module_id,
        instance_id=image.instance_id,
        role_arn=image.role_arn,
    )


class _Ended:
    """Waits for a process's end."""

    def __init__(self) -> None:
        self.ended = False

    def ready(self, _fd: int, _events: int) -> None:
        self.ended = True


def _wait(loop: Loop, process: subprocess.Popen[Any], timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    pidfd = os.pidfd_open(process.pid)
    qemu_ended = _Ended()
    try:
        loop.add(pidfd, qemu_ended, select.EPOLLIN)
        while not qemu_ended.ended:
            loop.turn()
            if deadline is not None and time.monotonic() >= deadline:
                raise MachineError(f"the enclave still runs after {timeout:g} s")
        process.wait()
        last = time.monotonic() + _LAST_SECONDS
        for _ in range(_LAST_TURNS):
            loop.later(lambda: None)  # so that the turn does not wait
            loop.turn()
        while time.monotonic() < last:
            loop.turn()
    finally:
        loop.forget(pidfd)
        os.close(pidfd)


def _outcome(returncode: int, init: Init) -> int:
    if returncode:
        raise MachineError(f"QEMU ended with {returncode}", hint="its output is above")
    if init.exit_code is not None:
        return init.exit_code
    if not init.started:
        raise MachineError(
            "the guest ended before its init reported",
            hint="the console shows why; a Nitro image's init sends 0xB7 to vsock://3:9000",
        )
    return 0


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
