"""Why two images measure differently: pairs that differ by one known cause each."""

from __future__ import annotations

import gzip
import json
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from parent import cli
from parent.eif.cpio import Entry, archive, file
from tests.parent.conftest import Identity, make_identity
from tests.parent.eif import eifs
from tests.parent.eif.eifs import CMDLINE, KERNEL, METADATA, RAMDISK, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """What an image is made of."""

    kernel: bytes = b"kernel"
    cmdline: bytes = b"console=ttyS0 panic=30 quiet"
    boot: tuple[Entry, ...] = (file("init", b"init", 0o755),)
    files: tuple[Entry, ...] = (
        file("cmd", b"/app\n-v\n"),
        file("env", b"A=1\nB=2\n"),
        file("rootfs/app", b"program", 0o755),
        file("rootfs/b", b"b"),
        Entry("rootfs/link", stat.S_IFLNK | 0o777, 3, lambda: [b"app"]),
        Entry("rootfs/null", stat.S_IFCHR | 0o666, device=(1, 3)),
    )
    metadata: dict[str, Any] | None = None
    flags: int = 0
    packed: Callable[[bytes], bytes] = bytes
    more: tuple[tuple[int, bytes], ...] = ()

    def eif(self) -> bytes:
        told = eifs.TELLING if self.metadata is None else self.metadata
        return eifs.eif(
            [
                (KERNEL, self.kernel), (CMDLINE, self.cmdline),
                (METADATA, json.dumps(told).encode()), (RAMDISK, b"".join(archive(self.boot))),
                (RAMDISK, self.packed(b"".join(archive(self.files)))), *self.more,
            ],
            flags=self.flags,
        )  # fmt: skip


PLAIN = Picture()


def with_file(path: str, **changes: Any) -> Picture:
    files = tuple(replace(each, **changes) if each.path == path else each for each in PLAIN.files)
    return replace(PLAIN, files=files)


def patched(change: Callable[[bytes], bytes]) -> Picture:
    """The ramdisk's bytes changed, for what our own writer never writes."""
    return replace(PLAIN, packed=change)


def at_time(data: bytes) -> bytes:
    return data[:46] + b"65000000" + data[54:]  # Of the first entry.


def in_lower_case(data: bytes) -> bytes:
    at = data.index(b"rootfs/app") - 110
    return data[:at] + data[at : at + 110].lower() + data[at + 110 :]


def renumbered(data: bytes) -> bytes:
    return data[:6] + b"00000FFF" + data[14:]


def reordered(data: bytes) -> bytes:
    env, app = data.index(b"env\0") - 110, data.index(b"rootfs\0") - 110
    return data[env:app] + data[:env] + data[app:]


def stretched(data: bytes) -> bytes:
    return data + bytes(512)


def gz(level: int) -> Callable[[bytes], bytes]:
    return lambda data: gzip.compress(data, level, mtime=0)


BOOT, APPLICATION = [0, 1], [0, 2]
LINKED = object()
PAIRS: dict[str, tuple[Picture, Picture, list[tuple[str, str, str | None, list[int]]]]] = {
    "kernel": (PLAIN, replace(PLAIN, kernel=b"KERNEL"), [("kernel", "content", None, BOOT)]),
    "a word": (
        PLAIN,
        replace(PLAIN, cmdline=b"console=ttyS0 panic=-1 quiet"),
        [("command line", "word removed", None, BOOT), ("command line", "word added", None, BOOT)],
    ),
    "order of words": (
        PLAIN,
        replace(PLAIN, cmdline=b"quiet console=ttyS0 panic=30"),
        [("command line", "order of words", None, BOOT)],
    ),
    "a space": (
        PLAIN,
        replace(PLAIN, cmdline=b"console=ttyS0 panic=30 quiet "),
        [("command line", "spaces", None, BOOT)],
    ),
    "init": (
        PLAIN,
        replace(PLAIN, boot=(file("init", b"INIT", 0o755),)),
        [("ramdisk 1", "content", "init", BOOT)],
    ),
    "content": (
        PLAIN, with_file("rootfs/b", content=lambda: [b"B"]),
        [("ramdisk 2", "content", "rootfs/b", APPLICATION)],
    ),
    "mode": (
        PLAIN, with_file("rootfs/b", mode=stat.S_IFREG | 0o600),
        [("ramdisk 2", "mode", "rootfs/b", APPLICATION)],
    ),
    "owner": (
        PLAIN, with_file("rootfs/b", owner=(7, 0)),
        [("ramdisk 2", "owner", "rootfs/b", APPLICATION)],
    ),
    "target": (
        PLAIN, with_file("rootfs/link", size=1, content=lambda: [b"b"]),
        [("ramdisk 2", "target", "rootfs/link", APPLICATION)],
    ),
    "device": (
        PLAIN, with_file("rootfs/null", device=(1, 5)),
        [("ramdisk 2", "device", "rootfs/null", APPLICATION)],
    ),
    "type": (
        PLAIN, with_file("rootfs/b", mode=stat.S_IFIFO | 0o644, size=0, content=list),
        [("ramdisk 2", "type", "rootfs/b", APPLICATION)],
    ),
    "added": (
        PLAIN, replace(PLAIN, files=(*PLAIN.files, file("rootfs/new", b"x"))),
        [("ramdisk 2", "added", "rootfs/new", APPLICATION)],
    ),
    "removed": (
        PLAIN, replace(PLAIN, files=PLAIN.files[:-1]),
        [("ramdisk 2", "removed", "rootfs/null", APPLICATION)],
    ),
    "command": (
        PLAIN, with_file("cmd", size=5, content=lambda: [b"/app\n"]),
        [("ramdisk 2", "command", "cmd", APPLICATION)],
    ),
    "a variable": (
        PLAIN, with_file("env", size=12, content=lambda: [b"A=7\nC=secret\n"[:12]]),
        [
            ("ramdisk 2", "variable removed", "env", APPLICATION),
            ("ramdisk 2", "variable added", "env", APPLICATION),
            ("ramdisk 2", "variable changed", "env", APPLICATION),
        ],
    ),
    "order of variables": (
        PLAIN, with_file("env", content=lambda: [b"B=2\nA=1\n"]),
        [("ramdisk 2", "order of variables", "env", APPLICATION)],
    ),
    "hard links": (
        replace(PLAIN, files=tuple(
            Entry(f"rootfs/{name}", stat.S_IFREG | 0o644, 1, lambda: [b"x"]) for name in "ab")),
        replace(PLAIN, files=tuple(
            Entry(f"rootfs/{name}", stat.S_IFREG | 0o644, 1, lambda: [b"x"], inode=LINKED)
            for name in "ab")),
        [
            ("ramdisk 2", "hard links", "rootfs/a", APPLICATION),
            ("ramdisk 2", "hard links", "rootfs/b", APPLICATION),
            ("ramdisk 2", "inode numbers", None, APPLICATION),
        ],
    ),
    "time": (PLAIN, patched(at_time), [("ramdisk 2", "time", "cmd", APPLICATION)]),
    "order": (PLAIN, patched(reordered), [("ramdisk 2", "order", None, APPLICATION)]),
    "inode numbers": (
        PLAIN, patched(renumbered), [("ramdisk 2", "inode numbers", None, APPLICATION)],
    ),
    "hexadecimal digits": (
        PLAIN, patched(in_lower_case), [("ramdisk 2", "encoding", "rootfs/app", APPLICATION)],
    ),
    "padding": (PLAIN, patched(stretched), [("ramdisk 2", "padding", None, APPLICATION)]),
    "compression": (PLAIN, patched(gz(9)), [("ramdisk 2", "compression", None, APPLICATION)]),
    "level of compression": (
        patched(gz(9)), patched(gz(0)), [("ramdisk 2", "compressed form", None, APPLICATION)],
    ),
    "another ramdisk": (
        PLAIN, replace(PLAIN, more=((RAMDISK, b"".join(archive([file("x", b"x")]))),)),
        [("ramdisk 3", "added", None, APPLICATION)],
    ),
    "a ramdisk that cannot be read": (
        PLAIN, patched(lambda _: b"nonsense" * 100),
        [("ramdisk 2", "content", None, APPLICATION)],
    ),
    "the architecture's flag": (
        PLAIN, replace(PLAIN, flags=1), [("header", "flags", None, [])],
    ),
    "metadata": (
        PLAIN, replace(PLAIN, metadata={**eifs.TELLING, "ImageVersion": "2", "DockerInfo": {}}),
        [("metadata", "ImageVersion", None, []), ("metadata", "DockerInfo", None, [])],
    ),
    "the build time": (
        PLAIN,
        replace(PLAIN, metadata={
            **eifs.TELLING, "BuildMetadata": {**eifs.TELLING["BuildMetadata"], "BuildTime": "x"}}),
        [("metadata", "BuildTime", None, [])],
    ),
    "nothing": (PLAIN, Picture(), []),
}  # fmt: skip


def diff(folder: Path, before: bytes, after: bytes) -> tuple[str, str]:
    (folder / "a.eif").write_bytes(before)
    (folder / "b.eif").write_bytes(after)
    return str(folder / "a.eif"), str(folder / "b.eif")


@pytest.mark.parametrize("name", PAIRS)
def test_one_cause(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after, expected = PAIRS[name]
    paths = diff(tmp_path, before.eif(), after.eif())
    status = cli.main(["diff-eif", *paths, "--output", "json"])
    document = json.loads(capsys.readouterr().out)
    found = [
        (each["Where"], each["What"], each["Path"], each["PCRs"])
        for each in document["Differences"]
    ]
    assert found == expected
    # What is said to move, and nothing else, has moved.
    moved = sorted({pcr for *_, pcrs in expected for pcr in pcrs})
    changed = [
        int(pcr[3:]) for pcr, values in document["Measurements"].items() if not values["Same"]
    ]
    assert changed == moved
    assert status == (3 if moved else 0)
    # The text says the same.
    assert cli.main(["diff-eif", *paths]) == status
    text = capsys.readouterr().out
    for where, what, path, _ in expected:
        assert f"\n{where} (" in text
        assert f"  {what}" in text
        assert not path or f"    {path}" in text
    assert ("no difference" in text.splitlines()) == (not expected)


def test_values_of_variables_are_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, _ = PAIRS["a variable"]
    cli.main(["diff-eif", *diff(tmp_path, before.eif(), after.eif())])
    assert "secr" not in capsys.readouterr().out


PEM = (
    "-----BEGIN EC PRIVATE KEY-----\n{}\nMHcCAQEEIsecret\nAwEHoUQDQgAE_secret==\n"
    "-----END EC PRIVATE KEY-----"
)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        # nitro-cli writes line ends as they are.
        (f"KEY={PEM.format('a')}\nA=1\n", f"KEY={PEM.format('b')}\nA=1\n", {"changed": ["KEY"]}),
        (f"KEY={PEM.format('a')}\n", "A=1\n", {"removed": ["KEY"], "added": ["A"]}),
        ("secret\nA=1\n", "A=1\n", {"removed": ["(no variable)"]}),
        # Neither is the end of a line to init.
        ("A=1\rsecret=2\n", "A=1\rsecret=3\n", {"changed": ["A"]}),
        ("A=1\x0bsecret=2\u2028secret\n", "B=1\n", {"removed": ["A"], "added": ["B"]}),
        ("", "A=secret\n", {"added": ["A"]}),
    ],
)
def test_what_follows_a_line_end_in_a_variable_is_its_value(
    before: str, after: str, told: dict[str, list[str]],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images = [
        with_file("env", size=len(text.encode()), content=lambda text=text: [text.encode()]).eif()
        for text in (before, after)
    ]
    cli.main(["diff-eif", "--output", "json", *diff(tmp_path, *images)])
    printed = capsys.readouterr().out
    assert "secret" not in printed
    found: dict[str, list[str]] = {}
    for each in json.loads(printed)["Differences"]:
        kind = each["What"].removeprefix("variable ")
        found.setdefault(kind, []).append(each["Before"] or each["After"])
    assert found == told


def signed(picture: Picture, identity: Identity) -> bytes:
    pcr0 = eifs.pcrs([(KERNEL, picture.kernel), (CMDLINE, picture.cmdline),
                      (RAMDISK, b"".join(archive(picture.boot))),
                      (RAMDISK, b"".join(archive(picture.files)))])[0]  # fmt: skip
    section = eifs.signature(pcr0, identity.pem, identity.key)
    return replace(picture, more=((SIGNATURE, section),)).eif()


def test_signatures(tmp_path: Path, capsys: pytest.CaptureFixture[str], identity: Identity) -> None:
    other = make_identity(ec.SECP384R1())
    for before, after, what, pcrs in (
        (PLAIN.eif(), signed(PLAIN, identity), "added", [8]),
        (signed(PLAIN, identity), PLAIN.eif(), "removed", [8]),
        (signed(PLAIN, identity), signed(PLAIN, other), "certificate", [8]),
        (signed(PLAIN, identity), signed(PLAIN, identity), "signature by the same certificate", []),
    ):
        cli.main(["diff-eif", *diff(tmp_path, before, after), "--output", "json"])
        (found,) = json.loads(capsys.readouterr().out)["Differences"]
        assert (found["Where"], found["What"], found["PCRs"]) == ("signature", what, pcrs)


def test_flags_that_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], identity: Identity
) -> None:
    parts = (PLAIN.kernel, PLAIN.cmdline, b"".join(archive(PLAIN.boot)),
             b"".join(archive(PLAIN.files)))  # fmt: skip
    images = []
    for flags in (0x240, 0x340):
        pcr0 = eifs.pcr(flags.to_bytes(2, "big"), *parts)
        section = eifs.signature(pcr0, identity.pem, identity.key)
        images.append(replace(PLAIN, flags=flags, more=((SIGNATURE, section),)).eif())
    assert cli.main(["diff-eif", *diff(tmp_path, *images), "--output", "json"]) == 3
    found = json.loads(capsys.readouterr().out)["Differences"]
    assert (found[0]["What"], found[0]["PCRs"]) == ("flags", [0])


def test_many_files_are_cut_in_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tuple(file(f"f{number:03}", b"x") for number in range(50))
    others = tuple(file(f"f{number:03}", b"y") for number in range(50))
    paths = diff(tmp_path, replace(PLAIN, files=files).eif(), replace(PLAIN, files=others).eif())
    cli.main(["diff-eif", *paths])
    text = capsys.readouterr().out
    assert "content: 50 files" in text
    assert "... and 30 more: --all lists them" in text
    assert "f049" not in text
    cli.main(["diff-eif", *paths, "--all"])
    assert "f049" in capsys.readouterr().out


def test_hostile_names_do_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = replace(PLAIN, files=(file("\x1b[2J\n\u202e", b""),), cmdline=b"\x1b]0;x\x07")
    cli.main(["diff-eif", *diff(tmp_path, PLAIN.eif(), evil.eif())])
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = diff(tmp_path, PLAIN.eif(), b"no image")
    assert cli.main(["diff-eif", *paths]) == 1
    assert "not a valid enclave image" in capsys.readouterr().err
