"""The first ramdisk of an image that boots without nitro-cli's kernel and init: Debian's, and ours.

For the simulated machine of ``enclave-simulator boot``. On EC2 it does not start: Debian's kernel
finds virtio devices through ACPI only, and the Nitro hypervisor names them on the command line.

``init`` is a script for Debian's static busybox. It does what AWS's does (see
`parent.eif.root.command`), for a kernel whose drivers are modules, and reports the command's exit
code to the parent's port 9001. busybox knows no vsock: `vsock_program` does that part.
"""

from __future__ import annotations

import lzma
import os
from dataclasses import dataclass
from pathlib import Path

from parent.eif.cpio import Entry, directory, file
from parent.eif.programs import X86_64
from parent.eif.vsock_program import vsock_program
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
mount -o bind /rootfs /rootfs
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
# The command's root becomes the root of the mounts, as AWS's init has it: a chroot below it could
# make no mount namespace. This script stays where it is: / is not followed to what covers it.
mount -o move /rootfs /
set --
while IFS= read -r line; do set -- "$@" "$line"; done </cmd
set -- /bin/chroot . "$@"
while IFS= read -r line; do set -- "$line" "$@"; done </env
rm /cmd /env
/bin/setsid /bin/env -i "$@"
code=$?
echo "$code" | timeout 60 /bin/vsock-9001
reboot -f
"""


@dataclass(frozen=True, slots=True)
class Debian:
    """Debian's packages, unpacked.

    Attributes:
        architecture: ``x86_64`` or ``aarch64``.
        kernel: a bzImage or an Image.
        modules: where its modules are.
        busybox: the static one.
    """

    architecture: str
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
            *(file(f"bin/vsock-{port}", vsock_program(port, self.architecture), 0o755)
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


def find(cache: Path | None = None, *, architecture: str = X86_64) -> Debian:
    """Return what ``enclave-simulator setup-machine --kernel`` unpacked.

    Args:
        cache: where to; None is where it does by default.
        architecture: that of the image.

    Raises:
        ConfigurationError: it is not there.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = cache or Path(base) / "nitro-enclave-agent"
    hint = _HINT
    if architecture != X86_64:
        folder /= architecture
        hint = _HINT.replace("--kernel", f"--kernel --arch {architecture}", 1)
    kernels = sorted((folder / "kernel/boot").glob("vmlinuz-*"))
    busybox = folder / "busybox/usr/bin/busybox"
    if not kernels or not busybox.exists():
        raise ConfigurationError(f"Debian's kernel is not in {folder}", hint=hint)
    kernel = kernels[-1]
    release = kernel.name.removeprefix("vmlinuz-")
    return Debian(architecture, kernel, folder / "kernel/usr/lib/modules" / release, busybox)
