"""The first ramdisk of an image that boots without nitro-cli's kernel and init: Debian's, and ours.

For the simulated machine of ``enclave-simulator boot``. On EC2 it does not start: Debian's kernel
finds virtio devices through ACPI only, and the Nitro hypervisor names them on the command line.

``init`` is a script for Debian's static busybox. It does what AWS's does (see
`parent.eif.root.command`), for a kernel whose drivers are modules, and reports the command's exit
code to the parent's port 9001. busybox knows no vsock, so a program of 158 bytes does that part.
"""

from __future__ import annotations

import lzma
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from parent.eif.cpio import Entry, directory, file
from parent.files import read_small
from vsock_proxy.errors import ConfigurationError

CMDLINE = "console=ttyS0 quiet panic=-1 random.trust_cpu=off"
"""The kernel's command line, unless the user gives another one."""

HEARTBEAT_PORT, EXIT_PORT = 9000, 9001

_MODULES = (
    # In the order in which they need each other.
    "drivers/virtio/virtio_mmio",
    "drivers/misc/nsm",
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vmw_vsock_virtio_transport",
    "net/vmw_vsock/vsock_loopback",
)
_MAX_FILE = 64 << 20
_HINT = "enclave-simulator setup-machine --kernel downloads Debian's kernel and busybox"

INIT = b"""\
#!/bin/busybox sh
# Starts the command in /cmd with the environment in /env, in /rootfs. See parent/eif/debian.py.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs -o nosuid,noexec dev /dev
mount -t proc proc /proc
for module in /modules/*.ko; do insmod "$module" || exit 1; done
beat=$(printf '\\267' | timeout 60 /bin/vsock-9000 | od -An -tx1)
[ "$beat" = " b7" ] || { echo "init: no heartbeat from the parent"; exit 1; }
cd /rootfs || exit 1
mount -t devtmpfs -o nosuid,noexec dev dev
mount -t proc -o nodev,nosuid,noexec proc proc
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o nodev,nosuid,noexec,mode=0755 tmpfs run
mount -t tmpfs -o nodev,nosuid,noexec,mode=1777 tmpfs tmp
mkdir -p dev/shm dev/pts
mount -t tmpfs -o nodev,nosuid,noexec shm dev/shm
mount -t devpts -o nosuid,noexec devpts dev/pts
mount -t sysfs -o nodev,nosuid,noexec sysfs sys
set --
while IFS= read -r line; do set -- "$@" "$line"; done </cmd
set -- /bin/chroot /rootfs "$@"
while IFS= read -r line; do set -- "$line" "$@"; done </env
rm /cmd /env
/bin/setsid /bin/env -i "$@"
code=$?
echo "$code" | timeout 60 /bin/vsock-9001
reboot -f
"""

_CODE = bytes.fromhex(
    "31c0"  # xor eax, eax                     read(0, buffer, 16)
    "31ff"  # xor edi, edi
    "488d7424c0"  # lea rsi, [rsp-64]
    "ba10000000"  # mov edx, 16
    "0f05"  # syscall
    "4989c4"  # mov r12, rax
    "b829000000"  # mov eax, 41                socket(AF_VSOCK, SOCK_STREAM, 0)
    "bf28000000"  # mov edi, 40
    "be01000000"  # mov esi, 1
    "31d2"  # xor edx, edx
    "0f05"  # syscall
    "89c3"  # mov ebx, eax
    "89c7"  # mov edi, eax                     connect(socket, address, 16)
    "488d356d000000"  # lea rsi, [rip+address]
    "ba10000000"  # mov edx, 16
    "b82a000000"  # mov eax, 42
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7551"  # jnz failed
    "b801000000"  # mov eax, 1                 write(socket, buffer, what was read)
    "89df"  # mov edi, ebx
    "488d7424c0"  # lea rsi, [rsp-64]
    "4c89e2"  # mov rdx, r12
    "0f05"  # syscall
    "4c39e0"  # cmp rax, r12
    "753b"  # jne failed
    "b830000000"  # mov eax, 48                shutdown(socket, SHUT_WR)
    "89df"  # mov edi, ebx
    "be01000000"  # mov esi, 1
    "0f05"  # syscall
    "31c0"  # xor eax, eax                     read(socket, buffer, 1)
    "89df"  # mov edi, ebx
    "488d7424c0"  # lea rsi, [rsp-64]
    "ba01000000"  # mov edx, 1
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7818"  # js failed
    "4889c2"  # mov rdx, rax                   write(1, buffer, what was read)
    "b801000000"  # mov eax, 1
    "bf01000000"  # mov edi, 1
    "488d7424c0"  # lea rsi, [rsp-64]
    "0f05"  # syscall
    "31ff"  # xor edi, edi
    "eb05"  # jmp end
    "bf01000000"  # failed: mov edi, 1
    "b83c000000"  # end: mov eax, 60           exit(edi)
    "0f05"  # syscall
)
"""Carries up to 16 bytes from standard input to a vsock address, and one byte back. x86_64."""

_AF_VSOCK, _PARENT = 40, 3
_BASE = 0x400000


@dataclass(frozen=True, slots=True)
class Debian:
    """Debian's packages, unpacked.

    Attributes:
        kernel: a bzImage.
        modules: where its modules are.
        busybox: the static one.
    """

    kernel: Path
    modules: Path
    busybox: Path

    def boot_ramdisk(self) -> list[Entry]:
        """Return the entries of the first ramdisk.

        Raises:
            ConfigurationError: a module cannot be read.
        """
        entries = [
            *(directory(name) for name in ("dev", "proc", "sys")),
            Entry("dev/console", 0o020600, device=(5, 1)),
            file("init", INIT, 0o755),
            file("bin/busybox", read_small(self.busybox, _MAX_FILE), 0o755),
            *(file(f"bin/vsock-{port}", vsock_program(port), 0o755)
              for port in (HEARTBEAT_PORT, EXIT_PORT)),
        ]  # fmt: skip
        for number, name in enumerate(_MODULES):
            packed = self.modules / "kernel" / f"{name}.ko.xz"
            try:
                module = lzma.decompress(read_small(packed, _MAX_FILE))
            except lzma.LZMAError as e:
                raise ConfigurationError(f"{packed} cannot be decompressed: {e}") from e
            entries.append(file(f"modules/{number}.ko", module))
        return entries


def find(cache: Path | None = None) -> Debian:
    """Return what ``enclave-simulator setup-machine --kernel`` unpacked.

    Args:
        cache: where to; None is where it does by default.

    Raises:
        ConfigurationError: it is not there.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = cache or Path(base) / "nitro-enclave-agent"
    kernels = sorted((cache / "kernel/boot").glob("vmlinuz-*"))
    busybox = cache / "busybox/usr/bin/busybox"
    if not kernels or not busybox.exists():
        raise ConfigurationError(f"Debian's kernel is not in {cache}", hint=_HINT)
    kernel = kernels[-1]
    release = kernel.name.removeprefix("vmlinuz-")
    return Debian(kernel, cache / "kernel/usr/lib/modules" / release, busybox)


def vsock_program(port: int) -> bytes:
    """Return a static program that carries bytes to a port of the parent's, and one back."""
    address = struct.pack("<HHIIB3x", _AF_VSOCK, 0, port, _PARENT, 0)
    start = 64 + 56
    size = start + len(_CODE) + len(address)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + _CODE + address
