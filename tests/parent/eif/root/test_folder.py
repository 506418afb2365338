"""A root file system from a folder: kept as it is, or the difference told."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parent.eif.cpio import archive
from parent.eif.root import folder
from parent.eif.root.notes import Notes
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from parent.eif.root.tree import Tree

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root changes owners")


def read(path: Path, *, keep_owners: bool = False) -> tuple[Tree, list[str]]:
    notes = Notes(os.geteuid())
    tree = folder.read(path, notes, keep_owners=keep_owners)
    return tree, notes.lines()


def modes(tree: Tree) -> dict[str, str]:
    return {path: stat.filemode(node.mode) for path, node in tree.walk()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/app").write_bytes(b"#!program")
    (top / "usr/bin/app").chmod(0o755)
    (top / "empty").touch(0o600)
    (top / "link").symlink_to("usr/bin/app")
    os.mkfifo(top / "pipe", 0o644)
    for path in (top, top / "usr", top / "usr/bin"):
        path.chmod(0o755)
    return top


def test_what_is_there(root: Path) -> None:
    tree, notes = read(root)
    assert modes(tree) == {
        "empty": "-rw-------",
        "link": "lrwxrwxrwx",
        "pipe": "prw-r--r--",
        "usr": "drwxr-xr-x",
        "usr/bin": "drwxr-xr-x",
        "usr/bin/app": "-rwxr-xr-x",
    }
    found = tree.find("link")
    assert found
    assert found[0] == "usr/bin/app"
    assert found[1].read(100) == b"#!program"
    assert notes == []


def test_the_same_files_make_the_same_bytes(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo(copy / "pipe", 0o644)
    os.utime(copy / "empty", (-1, -1))
    first, second = (b"".join(archive(read(each)[0].entries())) for each in (root, copy))
    assert first == second


def test_hard_links_stay_links(root: Path) -> None:
    (root / "usr/bin/second").hardlink_to(root / "usr/bin/app")
    os.link(root / "link", root / "link2", follow_symlinks=False)
    (root / "outside").hardlink_to(root / "empty")
    (root / "outside").rename(root.parent / "outside")
    tree, _ = read(root)
    nodes = dict(tree.walk())
    assert nodes["usr/bin/second"] is nodes["usr/bin/app"]
    assert tree.size() == len(b"#!program")
    assert nodes["link2"].target == nodes["link"].target
    assert nodes["empty"].size == 0


def test_names_are_bytes(root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    (root / "schön\n").symlink_to(os.fsdecode(b"\xff"))
    nodes = {
        path.encode("utf-8", "surrogateescape"): node.target for path, node in read(root)[0].walk()
    }
    assert b"caf\xe9" in nodes
    assert nodes["schön\n".encode()] == b"\xff"


@needs_root
def test_setuid_of_another_user_does_not_become_setuid_root(root: Path) -> None:
    app = root / "usr/bin/app"
    os.chown(app, 7, 8)
    app.chmod(0o6755)
    shutil.copy(app, root / "roots")
    (root / "roots").chmod(0o4755)
    tree, notes = read(root)
    nodes = dict(tree.walk())
    assert (nodes["usr/bin/app"].owner, stat.S_IMODE(nodes["usr/bin/app"].mode)) == ((0, 0), 0o755)
    assert stat.S_IMODE(nodes["roots"].mode) == 0o4755
    assert notes == [
        "owner becomes root (--owners keep keeps it): usr/bin/app (7:8)",
        (
            "setuid or setgid is dropped, or it would become root's (--owners keep keeps it): "
            "usr/bin/app (7:8)"
        ),
    ]
    tree, notes = read(root, keep_owners=True)
    node = dict(tree.walk())["usr/bin/app"]
    assert (node.owner, stat.S_IMODE(node.mode)) == ((7, 8), 0o6755)
    assert notes == []


@needs_root
def test_owners_above_65535(root: Path) -> None:
    os.chown(root / "empty", 4_000_000_000, 70_000)
    tree, _ = read(root, keep_owners=True)
    assert dict(tree.walk())["empty"].owner == (4_000_000_000, 70_000)


@pytest.mark.skipif(ROOT, reason="root's own files need no other owner")
def test_setuid_without_privilege(root: Path) -> None:
    (root / "usr/bin/app").chmod(0o4755)
    tree, notes = read(root)
    assert stat.S_IMODE(dict(tree.walk())["usr/bin/app"].mode) == 0o755
    assert len(notes) == 1
    assert notes[0].startswith("setuid or setgid is dropped")


@needs_root
def test_devices_keep_their_numbers_and_whiteouts_are_told(root: Path) -> None:
    try:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "gone", stat.S_IFCHR, 0)
    except PermissionError:
        pytest.skip("no CAP_MKNOD here")
    with pytest.raises(ConfigurationError, match="'gone' is a whiteout"):
        read(root)
    (root / "gone").unlink()
    assert dict(read(root)[0].walk())["null"].device == (1, 3)


@pytest.mark.parametrize("name", [".wh.gone", ".wh..wh..opq"])
def test_whiteout_files_are_told(root: Path, name: str) -> None:
    (root / "usr" / name).touch()
    with pytest.raises(ConfigurationError, match="one layer of a container image") as caught:
        read(root)
    assert "docker save" in caught.value.hint


def test_extended_attributes_are_told(root: Path) -> None:
    try:
        os.setxattr(root / "empty", "user.note", b"x")
    except OSError as e:
        pytest.skip(f"no extended attributes on this file system: {e}")
    assert read(root)[1] == [
        "extended attributes are dropped, a ramdisk has none: empty (user.note)"
    ]


@needs_root
def test_file_capabilities_are_told(root: Path) -> None:
    net_raw = bytes.fromhex("0100000200200000000000000000000000000000")
    try:
        os.setxattr(root / "usr/bin/app", "security.capability", net_raw)
    except OSError as e:
        pytest.skip(f"no file capabilities here: {e}")
    assert read(root)[1] == ["file capabilities are dropped, a ramdisk has none: usr/bin/app"]


def test_sparse_files_are_told(root: Path) -> None:
    with (root / "disk").open("wb") as stream:
        stream.truncate(50 << 20)
    tree, notes = read(root)
    if (root / "disk").stat().st_blocks * 512 > 49 << 20:
        pytest.skip("this file system has no sparse files")
    assert dict(tree.walk())["disk"].size == 50 << 20
    assert notes == ["sparse here, with all its zeros in the image: disk (52428800 bytes)"]


def test_sockets_are_kept(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s"))
        assert modes(read(root)[0])["s"][0] == "s"


def test_mounted_file_systems_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "proc/1").mkdir(parents=True)
    (root / "a b").mkdir()
    table = root.parent / "mountinfo"
    real = os.path.realpath(root)
    escaped = str(real).replace(" ", "\\040")
    table.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {escaped}/proc rw - proc proc rw\n"
        f"3 1 0:2 / {escaped}/a\\040b rw - proc proc rw\n4 1 0:3 / {escaped}x rw - tmpfs t rw\n"
        f"5 1 0:3 / {escaped}/empty rw - tmpfs t rw\n"
    )
    monkeypatch.setattr(folder, "_MOUNTS", table)
    tree, notes = read(root)
    assert "proc/1" not in modes(tree)
    assert "proc" in modes(tree)
    assert sorted(notes[0].split(": ")[1].split(", ")) == ["a b", "proc"]
    assert notes[0].startswith("mount point, empty in the image")
    assert notes[1] == "mounted from elsewhere, taken as it is seen here: empty"


def test_a_real_mount() -> None:
    if not os.path.ismount("/proc"):
        pytest.skip("no /proc")
    points = folder._mount_points(Path("/"))
    assert b"/proc" in points


def test_many_of_a_kind_are_one_line(root: Path) -> None:
    notes = Notes(1)
    for number in range(1000):
        notes.owner(f"f{number}", (7, 8))
    (line,) = notes.lines()
    assert line.endswith("f0 (7:8), f1 (7:8), f2 (7:8) and 997 more")


def test_what_cannot_be_read(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        read(tmp_path / "nothing")
    if not ROOT:
        (root / "usr").chmod(0)
        with pytest.raises(ConfigurationError, match=r"cannot read .*usr: Permission denied"):
            read(root)
        (root / "usr").chmod(0o755)


def test_a_file_that_changes_while_it_is_read(root: Path) -> None:
    tree, _ = read(root)
    (root / "empty").write_bytes(b"no longer")
    with pytest.raises(ConfigurationError, match="'empty' changed while it was read"):
        b"".join(archive(tree.entries()))
    (root / "empty").unlink()
    os.mkfifo(root / "empty")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        b"".join(archive(tree.entries()))
