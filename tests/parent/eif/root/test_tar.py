"""A root file system from a tar: what GNU tar and bsdtar unpack, and what they warn of."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parent.eif.cpio import archive
from parent.eif.root import folder, tar
from parent.eif.root.notes import Notes
from parent.eif.root.tree import Tree
from tests.parent.eif import archives
from tests.parent.eif.archives import Item, hard_link, member, symlink
from tests.parent.eif.root.shapes import ITEMS, Shape, shape
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(data: bytes) -> tuple[Tree, list[str]]:
    notes, tree = Notes(), Tree()
    tar.read(tar.open_tar(io.BytesIO(data)), tree, notes)
    return tree, notes.lines()


def packed(*items: Item, format: int = tarfile.PAX_FORMAT) -> tuple[Tree, list[str]]:
    return read(archives.tar(*items, format=format))


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_in_it(format: int) -> None:
    tree, notes = packed(
        archives.folder("./", 0o700, uid=5, gid=6),
        member("./usr/bin/app", b"#!program", mode=0o4755, uid=7, gid=8),
        hard_link("./usr/bin/hard", "./usr/bin/app"),
        member("dev/null", type=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        member("dev/sda", type=tarfile.BLKTYPE, mode=0o660, devmajor=8, devminor=0),
        member("pipe", type=tarfile.FIFOTYPE, mode=0o600),
        symlink("/link", "usr"),
        member("/twice", b"first"),
        member("twice", b"second", mode=0o600),
        format=format,
    )
    nodes = dict(tree.walk())
    assert tree.root.owner == (5, 6)
    app = nodes["usr/bin/app"]
    assert (app.owner, stat.S_IMODE(app.mode), app.read(99)) == ((7, 8), 0o4755, b"#!program")
    assert nodes["usr/bin/hard"] is app
    assert (nodes["dev/null"].device, nodes["dev/sda"].device) == ((1, 3), (8, 0))
    assert stat.S_ISBLK(nodes["dev/sda"].mode)
    assert stat.S_ISFIFO(nodes["pipe"].mode)
    assert nodes["link"].target == b"usr"
    assert (nodes["twice"].read(99), nodes["twice"].mode & 0o777) == (b"second", 0o600)
    assert notes == []


def test_a_merged_usr() -> None:
    tree, _ = packed(
        archives.folder("usr/bin"), symlink("bin", "usr/bin"), member("bin/sh", b"#!", mode=0o755)
    )
    assert {path for path, _ in tree.walk()} == {"usr", "usr/bin", "bin", "usr/bin/sh"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_only_newer_formats_hold(format: int) -> None:
    long = "/".join(["d" * 250] * 10)
    latin = b"caf\xe9".decode("utf-8", "surrogateescape")
    tree, _ = packed(
        member(f"{long}/x", b"far", uid=4_000_000_000, gid=70_000),
        member(latin, b"bytes", mtime=-86400),
        member("schön", mtime=0.5 if format == tarfile.PAX_FORMAT else 0),
        symlink("l", "t" * 4000),
        hard_link("h", f"{long}/x"),
        format=format,
    )
    nodes = dict(tree.walk())
    assert nodes[f"{long}/x"].owner == (4_000_000_000, 70_000)
    assert nodes["h"] is nodes[f"{long}/x"]
    assert nodes[latin].read(9) == b"bytes"
    assert nodes["l"].target == b"t" * 4000


def test_what_a_ramdisk_has_no_room_for_is_told() -> None:
    app, content = member("app", b"x")
    app.pax_headers = {
        "SCHILY.xattr.security.capability": "x", "SCHILY.xattr.user.note": "y",
        "SCHILY.acl.access": "user::rw-", "LIBARCHIVE.xattr.user.more": "eQ",
    }  # fmt: skip
    assert packed((app, content))[1] == [
        "file capabilities are dropped, a ramdisk has none: app",
        (
            "extended attributes are dropped, a ramdisk has none: app (user.note), "
            "app (acl.access), app (user.more)"
        ),
    ]


OPAQUE = {"SCHILY.xattr.trusted.overlay.opaque": "y"}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([hard_link("a", "b")], "'a' in the tar is a hard link to 'b', which is not before it"),
        ([member("a", type=b"9")], "unknown kind"),
        ([member("a", type=b"M")], "unknown kind"),
        ([member("../a")], "cannot be a path"),
        ([member("usr/.wh.bin")], "one layer of a container image"),
        ([member("a", type=tarfile.CHRTYPE)], "'a' is a whiteout"),
        ([member("a", pax_headers=OPAQUE)], "one layer of a container image"),
        ([member("a"), member("a/b")], "'a' is not a directory"),
        ([symlink("a", "")], "the target of the symbolic link 'a' has 0 bytes"),
    ],
)
def test_what_cannot_be(items: list[Item], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        packed(*items)


def test_a_label_is_no_file() -> None:
    assert list(packed(member("label", type=b"V"), member("x"))[0].root.children) == ["x"]


@pytest.mark.parametrize("size", [2000, 1024 + 512 + 100])
def test_cut_short(size: int) -> None:
    data = archives.tar(member("a", bytes(5000)), format=tarfile.USTAR_FORMAT)
    with pytest.raises(ConfigurationError, match="cannot read the tar"):
        read(data[:size])


def test_damage_is_not_taken_for_the_end() -> None:
    # The library ends in silence where a header is wrong, and what follows is left out.
    data = bytearray(
        archives.tar(member("a", b"1"), member("b", b"2"), format=tarfile.USTAR_FORMAT)
    )
    data[1024 + 3] ^= 1
    with pytest.raises(ConfigurationError, match="no header at byte 1024"):
        read(bytes(data))


def test_a_tar_that_shrinks_while_it_is_read() -> None:
    stream = io.BytesIO(archives.tar(member("a", bytes(5000)), member("b")))
    tree = Tree()
    tar.read(tar.open_tar(stream), tree, Notes())
    stream.truncate(3000)
    with pytest.raises(ConfigurationError, match="cannot read 'a' in the tar"):
        b"".join(archive(tree.entries()))


def test_a_negative_size_does_not_go_on_for_ever() -> None:
    info, _ = member("a", b"")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 12  # -1 in GNU tar's base 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises((ConfigurationError, tarfile.TarError)):
        read(bytes(block) + bytes(1024))


def old_sparse(*, goes_on: bool) -> bytes:
    """GNU tar's old form of a sparse file, whose map may go on in a block that is missing."""
    info = tarfile.TarInfo("sparse")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 10
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 10)
    header[482] = goes_on
    header[483:495] = b"%011o\0" % 100
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def sparse(**headers: str) -> bytes:
    return archives.tar(member("a", b"1" * 10, pax_headers={"GNU.sparse.size": "100", **headers}))


NO_NUMBERS = {
    "the map of a sparse file is cut off": old_sparse(goes_on=True),
    "a map that is no numbers": sparse(**{"GNU.sparse.map": "x,y"}),
    "a size that is none": archives.tar(member("a", b"1", pax_headers={"GNU.sparse.size": "0,-"})),
}


@pytest.mark.parametrize("what", NO_NUMBERS)
def test_what_the_library_cannot_count_is_one_error(what: str) -> None:
    with pytest.raises((ConfigurationError, tarfile.TarError)):
        read(NO_NUMBERS[what])


def test_permissions_below_zero_are_those_of_their_bits() -> None:
    """`stat.S_IMODE` would raise OverflowError."""
    data = bytearray(archives.tar(member("a", b"1"), format=tarfile.GNU_FORMAT))
    data[100:108] = b"\xff" * 8  # -1, in the base-256 form
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    ((_, node),) = read(bytes(data))[0].walk()
    assert stat.S_IMODE(node.mode) == 0o7777


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_whatever_the_bytes_there_is_one_error(noise: bytes, at: int) -> None:
    data = bytearray(archives.tar(member("a", b"1"), symlink("b", "a"), hard_link("c", "a")))
    data[at : at + len(noise)] = noise
    try:
        read(bytes(data))
    except (ConfigurationError, tarfile.TarError):
        return


# What others make of the same tar.


def unpacked(program: str, *options: str, data: bytes) -> Shape | None:
    """What a program unpacks; None if it complains."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            [program, *options, "-C", name],
            input=data,
            capture_output=True,
            check=False,
            timeout=TEST_TIMEOUT,
        )
        if done.returncode or done.stderr:
            return None
        return shape(folder.read(Path(name), Notes(os.geteuid())))


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_as_others_unpack_it(program: str) -> None:
    if not shutil.which(program):
        package = {"bsdtar": "libarchive-tools"}.get(program, program)
        pytest.skip(f"no {program} to compare with: apt-get install {package}")
    compared = 0

    @settings(max_examples=150, deadline=None)
    @given(st.lists(ITEMS, max_size=7))
    def compare(items: list[Item]) -> None:
        nonlocal compared
        data = archives.tar(*items)
        theirs = unpacked(program, "-xpf", "-", data=data)
        if theirs is None:
            return  # They refuse it; so may we.
        compared += 1
        assert shape(read(data)[0]) == theirs

    compare()
    assert compared > 20


def test_as_gnu_tar_packs_it(tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("no tar")
    top = tmp_path / "root"
    (top / "usr/bin").mkdir(parents=True)
    with (top / "sparse").open("wb") as stream:
        stream.truncate(3 << 20)
        stream.seek(1 << 20)
        stream.write(b"middle")
    for name in ("sparse, with a long name: " + "x" * 130, "usr/bin/at the end"):
        with (top / name).open("wb") as stream:
            stream.seek(2 << 20)
            stream.write(b"last")
    (top / "usr/bin/app").write_bytes(b"app")
    (top / "usr/bin/hard").hardlink_to(top / "usr/bin/app")
    (top / "link").symlink_to("x" * 150)
    (top / os.fsdecode(b"\xe9" * 120)).write_bytes(b"latin")
    os.utime(top / "usr/bin/app", (-1e9, -1e9))
    ours = shape(folder.read(top, Notes(os.geteuid())))
    versions = [("posix", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")]
    for kind, *more in (("gnu",), ("oldgnu",), *versions):
        done = subprocess.run(
            ["tar", "-c", "-S", f"--format={kind}", *more, "-V", "label", "-C", str(top), "."],
            capture_output=True, check=True, timeout=TEST_TIMEOUT,
        )  # fmt: skip
        tree = read(done.stdout)[0]
        assert shape(tree) == ours, (kind, more)
        for path, node in tree.walk():
            if node.is_file:  # Whole: what is behind the holes.
                assert node.read(node.size) == (top / path).read_bytes(), (path, kind, more)
