"""What Linux makes of a root file system in a ramdisk: booted, listed, and compared.

Part of the boot test. The root is a container image with every corner of tar and cpio in it; it
becomes an image by ``enclave-parent build-eif --kernel debian``, as a user would do it.
"""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

from tests.parent.eif import archives
from tests.parent.eif.archives import hard_link, member, symlink

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.machine.architecture import Architecture

LISTING = rb"""#!/bin/sh
echo "words: $# [$1] [$2] variable: [$VARIABLE] directory: $(pwd)"
busybox find / -xdev | while IFS= read -r name; do
    digest=-
    if [ -f "$name" ] && [ ! -h "$name" ]; then digest=$(busybox sha256sum <"$name"); fi
    if [ -h "$name" ]; then digest=$(busybox readlink "$name"); fi
    busybox stat -c "entry|%f|%u|%g|%h|%i|%t|%T|$digest|%n" "$name"
done
exit 42
"""
STATUS = 42
LATIN = b"caf\xe9".decode("utf-8", "surrogateescape")
MOUNTED = ("dev", "proc", "run", "sys", "tmp")


def layer(busybox: bytes) -> bytes:
    """A root with all that might go wrong on the way."""
    return archives.tar(
        archives.folder("usr/bin"),
        symlink("bin", "usr/bin"),
        member("bin/busybox", busybox, mode=0o755),
        hard_link("bin/sh", "bin/busybox"),
        hard_link("bin/ls", "usr/bin/busybox"),
        member("srv/list.sh", LISTING, mode=0o755),
        member("etc/setuid", b"x", mode=0o6755, uid=7, gid=8),
        member("etc/sticky", b"", mode=0o1644),
        member("etc/far", b"owner", uid=4_000_000_000, gid=70_000),
        member("etc/old", b"before 1970", mtime=-86400),
        member(f"etc/{LATIN}", b"latin"),
        member("etc/" + "n" * 255, b"long name"),
        member("/".join(["d" * 200] * 18) + "/deep", b"deep"),
        symlink("etc/link", "t" * 4000),
        symlink("etc/loop", "loop"),
        hard_link("etc/loop2", "etc/loop"),
        archives.folder("var/mail", 0o2775, gid=8),
        member("dev0", type=tarfile.CHRTYPE, mode=0o640, devmajor=240, devminor=1000),
        member("dev1", type=tarfile.BLKTYPE, mode=0o600, devmajor=8, devminor=1),
        member("pipe", type=tarfile.FIFOTYPE, mode=0o622),
        hard_link("pipe2", "pipe"),
        member("empty"),
        hard_link("empty2", "empty"),
        member("twice", b"first"),
        member("twice", b"second", mode=0o600),
    )


def check(private: Path, cache: Path, architecture: Architecture) -> list[str]:
    """Build the image, boot it, and return what is not as it should be."""
    busybox = (architecture.folder(cache) / "busybox/usr/bin/busybox").read_bytes()
    upper = archives.tar(member("etc/.wh.sticky"), member("etc/new", b"of the upper layer"))
    files = archives.oci_files(
        layer(busybox), upper, architecture=architecture.debian,
        Entrypoint=["./list.sh"], Cmd=["one word", "two"],
        Env=["PATH=/bin", "VARIABLE=a  b"], WorkingDir="/srv",
    )  # fmt: skip
    root, eif = archives.write(files, private / "root.tar"), private / "root.eif"
    run = [sys.executable, "-m"]
    subprocess.run(
        [*run, "parent.cli", "build-eif", "--kernel", "debian", f"--cache={cache}",
         f"--arch={architecture.name}", f"--rootfs={root}", f"--output={eif}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    done = subprocess.run(
        [*run, "enclave_simulator.cli", "boot", str(eif), f"--cache={cache}", "--no-services",
         "--timeout=900"],
        check=False, stdout=subprocess.PIPE, timeout=1000,
    )  # fmt: skip
    lines = [line.decode("utf-8", "surrogateescape") for line in done.stdout.splitlines()]
    if done.returncode != STATUS:
        return [f"the listing ended with {done.returncode}", *lines[-20:]]
    greeting = "words: 2 [one word] [two] variable: [a  b] directory: /srv"
    failures = [] if greeting in lines else [f"not said: {greeting}"]
    return failures + differences(found(lines), expected(busybox))


Listed = dict[str, tuple[str, ...]]


def found(lines: list[str]) -> Listed:
    """What the guest listed: type and mode, owner, device, content; and names of one file."""
    entries, inodes = {}, {}
    for line in lines:
        if line.startswith("entry|"):
            _, mode, uid, gid, _, inode, major, minor, content, name = line.split("|", 9)
            path = name.lstrip("/")
            if path and not path.startswith(tuple(f"{each}/" for each in MOUNTED)):
                content = content.removesuffix("  -")
                entries[path] = stat.filemode(int(mode, 16)), uid, gid, major, minor, content
                inodes[path] = inode
    return {
        path: (*told, *(other for other in sorted(inodes) if inodes[other] == inodes[path]))
        for path, told in entries.items()
    }


def expected(busybox: bytes) -> Listed:
    """What should be there, by the layers above; not by the code that merged them."""
    digest = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in {
            "busybox": busybox, "list": LISTING, "x": b"x", "owner": b"owner", "latin": b"latin",
            "old": b"before 1970", "long": b"long name", "deep": b"deep", "": b"",
            "second": b"second", "new": b"of the upper layer",
        }.items()
    }  # fmt: skip
    folder = ("drwxr-xr-x", "0", "0", "0", "0", "-")

    def regular(content: str, mode: str = "-rw-r--r--", owner: str = "0 0") -> tuple[str, ...]:
        return (mode, *owner.split(), "0", "0", digest[content])

    def link(target: str) -> tuple[str, ...]:
        return ("lrwxrwxrwx", "0", "0", "0", "0", target)

    program = regular("busybox", "-rwxr-xr-x")
    programs = ("usr/bin/busybox", "usr/bin/ls", "usr/bin/sh")
    pipes = ("pipe", "pipe2")
    deep = ["/".join(["d" * 200] * count) for count in range(1, 19)]
    listed: Listed = {
        **{path: (*folder, path) for path in ("etc", "srv", "usr", "usr/bin", "var", *deep)},
        **dict.fromkeys(programs, (*program, *programs)),
        "bin": (*link("usr/bin"), "bin"),
        "srv/list.sh": (*regular("list", "-rwxr-xr-x"), "srv/list.sh"),
        "etc/setuid": (*regular("x", "-rwsr-sr-x", "7 8"), "etc/setuid"),
        "etc/far": (*regular("owner", owner="4000000000 70000"), "etc/far"),
        "etc/old": (*regular("old"), "etc/old"),
        f"etc/{LATIN}": (*regular("latin"), f"etc/{LATIN}"),
        "etc/" + "n" * 255: (*regular("long"), "etc/" + "n" * 255),
        f"{deep[-1]}/deep": (*regular("deep"), f"{deep[-1]}/deep"),
        "etc/link": (*link("t" * 4000), "etc/link"),
        "etc/loop": (*link("loop"), "etc/loop"),
        "etc/loop2": (*link("loop"), "etc/loop2"),  # No hard link: Linux makes two.
        "etc/new": (*regular("new"), "etc/new"),
        "var/mail": ("drwxrwsr-x", "0", "8", "0", "0", "-", "var/mail"),
        "dev0": ("crw-r-----", "0", "0", "f0", "3e8", "-", "dev0"),
        "dev1": ("brw-------", "0", "0", "8", "1", "-", "dev1"),
        **dict.fromkeys(pipes, ("prw--w--w-", "0", "0", "0", "0", "-", *pipes)),
        **{path: (*regular(""), "empty", "empty2") for path in ("empty", "empty2")},
        "twice": (*regular("second", "-rw-------"), "twice"),
    }  # fmt: skip
    return listed


def differences(told: Listed, wanted: Listed) -> list[str]:
    """What differs, shortened."""
    both = sorted(told.keys() | wanted.keys())
    return [
        f"{path[:60]!a}: {str(told.get(path))[:300]}, not {str(wanted.get(path))[:300]}"
        for path in both
        if path not in MOUNTED and told.get(path) != wanted.get(path)
    ]
