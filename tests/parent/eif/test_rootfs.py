"""Ramdisks: what a kernel finds in them, from a folder and from a tar."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from parent.eif import cpio, rootfs
from parent.eif.cpio import Entry, archive, directory, file
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def members(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    """Take an archive apart, by the kernel's description: the header's numbers, and content."""
    found: dict[str, tuple[list[int], bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + numbers[11]
        name = data[at + 110 : name_end - 1].decode()
        start = (name_end + 3) // 4 * 4
        at = (start + numbers[6] + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not any(data[at:])
            assert len(data) % 512 == 0
            return found
        assert name not in found
        found[name] = numbers, data[start : start + numbers[6]]


def packed(entries: Iterable[Entry]) -> bytes:
    return b"".join(archive(entries))


def contents(entries: Iterable[Entry]) -> dict[str, tuple[str, bytes]]:
    return {
        name: (stat.filemode(numbers[1]), content)
        for name, (numbers, content) in members(packed(entries)).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/app").write_bytes(b"#!program")
    (root / "usr/bin/app").chmod(0o4755)
    (root / "empty").touch(0o600)
    (root / "link").symlink_to("usr/bin/app")
    os.mkfifo(root / "pipe", 0o644)
    for path in (root / "usr", root / "usr/bin"):
        path.chmod(0o755)
    return root


EXPECTED = {
    "empty": ("-rw-------", b""),
    "link": ("lrwxrwxrwx", b"usr/bin/app"),
    "pipe": ("prw-r--r--", b""),
    "usr": ("drwxr-xr-x", b""),
    "usr/bin": ("drwxr-xr-x", b""),
    "usr/bin/app": ("-rwsr-xr-x", b"#!program"),
}


def test_a_folder(folder: Path) -> None:
    found = members(packed(rootfs.from_folder(folder)))
    assert contents(rootfs.from_folder(folder)) == EXPECTED
    assert list(found) == sorted(EXPECTED)
    for inode, (numbers, _) in enumerate(found.values(), start=1):
        # inode, (mode), uid, gid, (links), mtime: nothing of this machine.
        assert [numbers[0], *numbers[2:4], numbers[5]] == [inode, 0, 0, 0]


def test_the_same_files_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo(copy / "pipe", 0o644)
    os.utime(copy / "empty", (1, 1))
    assert packed(rootfs.from_folder(folder)) == packed(rootfs.from_folder(copy))


def test_cpio_reads_it(folder: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("no cpio to read it with: apt-get install cpio")
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"],
        input=packed(rootfs.from_folder(folder)),
        capture_output=True,
        check=True,
    )
    assert listed.stdout.decode().split() == sorted(EXPECTED)


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> tarfile.TarFile:
    with tarfile.open(path, "w") as writer:
        for member, content in members:
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return tarfile.TarFile(path)


def member(
    name: str, type: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: object
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = type, mode
    for key, value in more.items():
        setattr(info, key, value)
    return info


def test_a_tar(tmp_path: Path) -> None:
    with tar(
        tmp_path / "root.tar",
        [
            (member("./", tarfile.DIRTYPE, 0o755), b""),
            (member("./usr/bin/app", mode=0o755, uid=7, gid=8), b"#!program"),
            (member("./usr/bin/hard", tarfile.LNKTYPE, linkname="./usr/bin/app"), b""),
            (member("dev/null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3), b""),
            (member("/link", tarfile.SYMTYPE, linkname="usr"), b""),
            (member("/twice"), b"first"),
            (member("twice"), b"second"),
        ],
    ) as opened:
        data = packed(rootfs.from_tar(opened))
    found = members(data)
    assert found["usr/bin/app"][0][2:4] == [7, 8]
    assert found["usr/bin/hard"][1] == found["usr/bin/app"][1] == b"#!program"
    assert found["dev/null"][0][9:11] == [1, 3]
    assert found["link"][1] == b"usr"
    assert found["twice"][1] == b"second"
    assert stat.S_ISDIR(found["usr/bin"][0][1])  # Nobody named it, yet it is needed.


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([(member("a", tarfile.LNKTYPE, linkname="b"), b"")], "a hard link to nothing"),
        ([(member("a", b"9"), b"")], "unknown kind"),
        ([(member("../a"), b"")], "cannot be a path"),
    ],
)
def test_tars_that_cannot_be_packed(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    with (
        tar(tmp_path / "root.tar", members) as opened,
        pytest.raises(ConfigurationError, match=reason),
    ):
        packed(rootfs.from_tar(opened))


def test_a_cut_tar(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    tar(path, [(member("a"), bytes(5000))]).close()
    os.truncate(path, 2000)
    with tarfile.TarFile(path) as opened, pytest.raises(ConfigurationError):
        packed(rootfs.from_tar(opened))


def test_a_socket_in_the_folder(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
        with pytest.raises(ConfigurationError, match="is a socket"):
            rootfs.from_folder(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        rootfs.from_folder(tmp_path / "nothing")


def test_a_file_that_changes_while_it_is_read(folder: Path) -> None:
    entries = rootfs.from_folder(folder)
    (folder / "empty").write_bytes(b"no longer")
    with pytest.raises(ConfigurationError, match="'empty' changed while it was read"):
        packed(entries)


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/../b", ".", "a\0b", "x" * 4096])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a path"):
        packed([file(path, b"")])


def test_what_the_format_has_no_room_for() -> None:
    with pytest.raises(ConfigurationError, match="too large"):
        packed([Entry("a", stat.S_IFREG, 1 << 32)])
    with pytest.raises(ConfigurationError, match="is no directory, yet has files in it"):
        packed([file("a", b""), file("a/b", b"")])


def test_nitro_clis_layout() -> None:
    boot = contents(rootfs.boot_ramdisk(b"init", b"module"))
    assert boot == {
        "dev": ("drwxr-xr-x", b""),
        "init": ("-rwxr-xr-x", b"init"),
        "nsm.ko": ("-rwxr-xr-x", b"module"),
    }
    assert "nsm.ko" not in contents(rootfs.boot_ramdisk(b"init", None))
    root = [directory("tmp", 0o1777), file("bin/app", b"program", 0o755)]
    application = contents(rootfs.application_ramdisk(root, ["/bin/app", "-v w"], ["A=1", "B="]))
    assert application["cmd"] == ("-rw-r--r--", b"/bin/app\n-v w\n")
    assert application["env"] == ("-rw-r--r--", b"A=1\nB=\n")
    assert application["rootfs/bin/app"] == ("-rwxr-xr-x", b"program")
    assert application["rootfs/tmp"] == ("drwxrwxrwt", b"")
    assert {f"rootfs/{name}" for name in ("dev", "proc", "run", "sys", "var")} <= set(application)


@pytest.mark.parametrize("command", [[], [""], ["a\nb"]])
def test_commands_that_init_could_not_read(command: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        rootfs.application_ramdisk([], command, [])


def test_compression_says_nothing_of_when() -> None:
    data = b"".join(cpio.gzipped([b"some", b"thing"]))
    assert gzip.decompress(data) == b"something"
    assert data[:8] == b"\x1f\x8b\x08\0" + bytes(4)  # No name, no time.
