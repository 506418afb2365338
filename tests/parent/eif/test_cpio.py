"""Ramdisks: what a kernel, GNU cpio and bsdtar find in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parent.eif import cpio, cpio_reader
from parent.eif.cpio import Entry, archive, directory, file
from parent.eif.root import folder, tar
from parent.eif.root.notes import Notes
from parent.eif.root.tree import Tree
from tests.parent.eif import archives
from tests.parent.eif.root.shapes import ITEMS, Shape, shape
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.parent.eif.archives import Item


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


def test_entries_are_sorted_and_numbered() -> None:
    found = members(packed([file("b/c", b"x", 0o600), directory("a", 0o700)]))
    assert list(found) == ["a", "b", "b/c"]
    for inode, (numbers, _) in enumerate(found.values(), start=1):
        # inode, (mode), uid, gid, (links), mtime: nothing of this machine.
        assert [numbers[0], *numbers[2:4], numbers[5]] == [inode, 0, 0, 0]
    assert found["b"][0][1] == stat.S_IFDIR | 0o755  # Nobody named it, yet it is needed.


def test_the_last_of_a_name_counts() -> None:
    assert contents([file("a", b"first"), file("a", b"second")])["a"][1] == b"second"


def test_hard_links_share_content() -> None:
    inode = object()
    linked = [
        Entry(name, stat.S_IFREG | 0o644, 4, lambda: [b"once"], inode=inode)
        for name in ("c", "a", "b")
    ]
    alone = Entry("d", stat.S_IFREG | 0o644, 5, lambda: [b"alone"], inode=object())
    pipe = object()
    pipes = [Entry(name, stat.S_IFIFO | 0o600, inode=pipe) for name in ("p", "q")]
    link = object()
    symbolic = [
        Entry(name, stat.S_IFLNK | 0o777, 1, lambda: [b"a"], inode=link) for name in ("x", "y")
    ]
    data = packed([*linked, alone, *pipes, *symbolic])
    assert data.count(b"once") == 1
    found = members(data)
    # (inode, links, size): Linux makes links of what has the same number.
    told = {name: (numbers[0], numbers[4], numbers[6]) for name, (numbers, _) in found.items()}
    assert told["a"] == (1, 3, 4)
    assert told["b"] == told["c"] == (1, 3, 0)
    assert told["d"] == (4, 1, 5)
    assert told["p"] == told["q"] == (5, 2, 0)
    # Linux makes no hard links of symbolic links: these are two.
    assert (told["x"][1:], told["y"][1:]) == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a//b", "a/../b", ".", "a\0b", "/".join(["x" * 200] * 21), "x" * 256, "TRAILER!!!"],
)
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(ConfigurationError, match="path in a ramdisk"):
        packed([file(path, b"")])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry("a", stat.S_IFREG, 1 << 32), "'a' has 4294967296 bytes: a file in a ramdisk"),
        (Entry("a", stat.S_IFREG, owner=(0xFFFF_FFFF, 0)), "which Linux cannot have"),
        (Entry("a", stat.S_IFREG, owner=(0, 1 << 32)), "which Linux cannot have"),
        (Entry("a", stat.S_IFREG, owner=(-1, 0)), "which Linux cannot have"),
        (Entry("a", stat.S_IFCHR, device=(4096, 0)), "device number 4096:0"),
        (Entry("a", stat.S_IFCHR, device=(0, 1 << 20)), "device number 0:1048576"),
        (Entry("a", stat.S_IFREG, 1), "'a' changed while it was read"),
        (Entry("a", stat.S_IFREG, 0, lambda: [b"x"]), "'a' changed while it was read"),
    ],
)
def test_what_the_format_has_no_room_for(entry: Entry, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        packed([entry])


def test_a_file_with_files_in_it() -> None:
    with pytest.raises(ConfigurationError, match="is not a directory, yet has files in it"):
        packed([file("a", b""), file("a/b", b"")])


def test_compression_says_nothing_of_when() -> None:
    data = b"".join(cpio.gzipped([b"some", b"thing"]))
    assert gzip.decompress(data) == b"something"
    assert data[:8] == b"\x1f\x8b\x08\0" + bytes(4)  # No name, no time.


# What others find in the same ramdisk, and what our reader finds in theirs.


def unpacked(program: str, *options: str, data: bytes) -> Shape:
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            [program, *options],
            cwd=name,
            input=data,
            capture_output=True,
            check=False,
            timeout=TEST_TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        return shape(folder.read(Path(name), Notes(os.geteuid())))


@pytest.mark.parametrize(
    ("program", "options", "package"),
    [
        ("cpio", ["-idm", "--quiet"], "cpio"),
        ("bsdtar", ["-xpf", "-"], "libarchive-tools"),
    ],
)
def test_as_others_unpack_it(program: str, options: list[str], package: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program} to compare with: apt-get install {package}")

    @settings(max_examples=100, deadline=None)
    @given(st.lists(ITEMS, max_size=8))
    def compare(items: list[Item]) -> None:
        notes, tree = Notes(), Tree()
        try:
            tar.read(tar.open_tar(io.BytesIO(archives.tar(*items))), tree, notes)
        except ConfigurationError:
            return
        assert unpacked(program, *options, data=packed(tree.entries())) == shape(tree)

    compare()


@given(st.lists(ITEMS, max_size=8))
def test_as_our_own_reader_finds_it(items: list[Item]) -> None:
    tree = Tree()
    try:
        tar.read(tar.open_tar(io.BytesIO(archives.tar(*items))), tree, Notes())
    except ConfigurationError:
        return
    read = cpio_reader.read([packed(tree.entries())])
    nodes = dict(tree.walk())
    assert [member.path for member in read.members] == sorted(nodes, key=str.encode)
    for member in read.members:
        node = nodes[member.path]
        assert (member.mode, member.owner, member.time) == (node.mode, node.owner, 0)
        content = node.target if node.is_link else node.read(999)
        assert member.digest == hashlib.sha256(content).hexdigest()
        assert member.target.encode() == node.target


@pytest.mark.parametrize("options", [[], ["--reproducible"]])
def test_our_reader_reads_gnu_cpios(options: list[str], tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("no cpio to compare with: apt-get install cpio")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/a").write_bytes(b"content")
    (tmp_path / "usr/b").hardlink_to(tmp_path / "usr/a")
    (tmp_path / "link").symlink_to("usr/a")
    names = b"\0".join([b".", b"usr", b"usr/a", b"usr/b", b"link"]) + b"\0"
    made = subprocess.run(
        ["cpio", "-o", "-0", "-H", "newc", "--quiet", *options],
        cwd=tmp_path, input=names, capture_output=True, check=True, timeout=TEST_TIMEOUT,
    ).stdout  # fmt: skip
    members = {member.path: member for member in cpio_reader.read([made]).members}
    assert set(members) == {".", "usr", "usr/a", "usr/b", "link"}
    digest = hashlib.sha256(b"content").hexdigest()
    assert members["usr/a"].digest == members["usr/b"].digest == digest
    assert members["usr/a"].links == 2
    assert members["link"].target == "usr/a"
