"""The guest's init (process 1): file systems, vsock with its loopback, entropy, one command, power
off.

The file system is the host's, read-only. What the command writes is in memory; its exit status
goes to the folder shared with the host, which is the only argument. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import traceback
from pathlib import Path

SHARED = Path("/run/shared")
VSOCK = ("vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback")  # each needs the last

_RNDADDENTROPY = 0x40085203  # <linux/random.h>
_SYS_FINIT_MODULE = 313  # x86-64, <asm/unistd_64.h>; user-mode Linux is x86 only
_SIOCSIFFLAGS = 0x8914  # <linux/sockios.h>
_IFF_UP = 1  # <linux/if.h>
_RB_POWER_OFF = 0x4321FEDC  # <sys/reboot.h>

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do it all. The power goes off whatever happens."""
    try:
        mount("proc", "/proc")
        mount("tmpfs", "/run")
        SHARED.mkdir()
        mount("hostfs", str(SHARED), sys.argv[1])
        job = json.loads((SHARED / "job.json").read_text())
        for name in VSOCK:
            insert_module(Path(job["modules"]), name)
        raise_loopback()
        seed(bytes.fromhex(job["seed"]))
        done = subprocess.run(
            job["command"], cwd=job["folder"], env=job["environment"], check=False
        )
        (SHARED / "status").write_text(str(done.returncode))
    except BaseException:  # noqa: BLE001 (without an init there is no one else to tell)
        traceback.print_exc()
    os.sync()
    sys.stdout.flush()
    _libc.reboot(_RB_POWER_OFF)


def mount(kind: str, where: str, data: str = "") -> None:
    """See mount(2)."""
    if _libc.mount(kind.encode(), where.encode(), kind.encode(), 0, data.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {kind} on {where}")


def insert_module(modules: Path, name: str) -> None:
    """See finit_module(2)."""
    (path,) = (modules / os.uname().release).rglob(f"{name}.ko")
    with path.open("rb") as file:
        if _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), b"", 0):
            raise OSError(ctypes.get_errno(), f"cannot insert {path}")


def seed(entropy: bytes) -> None:
    """Let nobody wait for random bytes: this machine has no source of its own. See random(4)."""
    with Path("/dev/random").open("rb") as device:
        pool = struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy
        fcntl.ioctl(device, _RNDADDENTROPY, pool)


def raise_loopback() -> None:
    """See netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


if __name__ == "__main__":
    main()
