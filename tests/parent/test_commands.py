"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parent import cli, files
from parent.eif.describe import describe
from parent.eif.image import chunks
from parent.eif.layout import SectionType
from tests.parent.eif import archives, eifs
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.parent.conftest import Identity


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: Identity) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name, content in {
        "image.eif": eifs.eif(),
        "kernel": b"\0" * 56 + b"ARM\x64" + b"kernel",
        "init": archives.elf(machine=183),
        "nsm.ko": archives.elf(machine=183, kind=1),
        "ramdisk": b"070701 ramdisk",
        "custom.json": b'{"b": 1, "a": 2}',
        "certificate.pem": identity.pem,
        "key.pem": identity.key_pem,
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/app").write_bytes(archives.elf(machine=183))
    (tmp_path / "root/bin/app").chmod(0o755)
    return tmp_path


BUILD = ["build-eif", "--kernel", "kernel", "--cmdline", "console=ttyS0", "--output", "out.eif"]
SIGNER = ["--signing-certificate", "certificate.pem", "--private-key", "key.pem"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(arguments) == status
    captured = capsys.readouterr()
    if status == 0:
        assert captured.err == ""
    return captured.out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments))


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("enclave-parent: error: ")
    return captured.err


@pytest.mark.usefixtures("folder")
def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "describe-eif", "--check", "image.eif")
    assert document["Measurements"]["PCR0"] == eifs.pcrs()[0].hex()


def test_describe_what_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "image.eif").write_bytes(eifs.eif()[:-1] + b"\0")
    assert cli.main(["describe-eif", "image.eif"]) == 0
    described = capsys.readouterr()
    assert json.loads(described.out)["CheckCRC"] is False
    assert "warning: the CRC is wrong: the file was damaged" in described.err
    checked = fail(capsys, "describe-eif", "--check", "image.eif")
    assert "error: image.eif: not a valid enclave image: the CRC is wrong" in checked
    assert "warning" not in checked
    for content, reason in (
        (b"\x7fELF", "it does not start with '.eif'"),
        (gzip.compress(eifs.eif())[:100], "it does not start with '.eif'"),
        (eifs.eif()[:100], "cut short"),
        (b".e", "cut short"),
        (b"", "cut short"),
    ):
        (folder / "image.eif").write_bytes(content)
        assert f"not a valid enclave image: {reason}" in fail(capsys, "describe-eif", "image.eif")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "cannot read nothing: No such file"),
        ("root", "cannot read root: "),
        ("/dev/zero", "/dev/zero is not a regular file"),
    ],
)
def test_describe_something_that_is_not_a_file(
    name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in fail(capsys, "describe-eif", name)


def test_terminals_get_no_control_characters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {**eifs.TELLING, "ImageName": "\x9b2J\x1b[2J\u202e"}
    sections = [(k, json.dumps(told).encode() if k == 5 else v) for k, v in eifs.SECTIONS]
    (folder / "image.eif").write_bytes(eifs.eif(sections))
    printed = run(capsys, "describe-eif", "image.eif")
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()


def ramdisks(path: Path) -> list[bytes]:
    with path.open("rb") as stream:
        read = describe(stream).image
        return [b"".join(chunks(stream, s)) for s in read.of_type(SectionType.RAMDISK)]


def test_build(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = [
        *BUILD, "--init", "init", "--nsm-module", "nsm.ko", "--ramdisk", "ramdisk", "--rootfs",
        "root", "--env", "A=1", "--metadata", "custom.json", *SIGNER, "--", "/bin/app", "-v",
    ]  # fmt: skip
    printed = run_json(capsys, *build)
    described = run_json(capsys, "describe-eif", "out.eif")
    assert printed == {"Measurements": described["Measurements"]}
    assert "PCR8" in printed["Measurements"]
    assert (described["ImageName"], described["ImageVersion"]) == ("out", "1.0")
    assert described["Metadata"]["BuildTime"] == "1970-01-01T00:00:00+00:00"
    assert list(described["Metadata"])[-2:] == ["a", "b"]
    boot, given, application = ramdisks(folder / "out.eif")
    assert b"nsm.ko" in boot
    assert given == b"070701 ramdisk"
    assert b"/bin/app\n-v\n" in application
    assert (folder / "out.eif").read_bytes()[7] == 1  # The kernel says that it is for aarch64.
    assert not list(folder.glob(".*"))


def test_building_twice_makes_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = set()
    for kind in ("folder", "folder", "tar"):
        root = "root"
        if kind == "tar":
            root = "root.tar"
            with tarfile.open(root, "w") as writer:
                writer.add("root", ".", filter=_of_root)
        run(capsys, *BUILD, "--init", "init", "--rootfs", root, "--gzip", "--", "/bin/app")
        made.add((folder / "out.eif").read_bytes())
    assert len(made) == 1


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


@pytest.mark.usefixtures("folder")
def test_build_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    run(capsys, *BUILD, "--ramdisk", "ramdisk")
    described = run_json(capsys, "describe-eif", "out.eif")
    assert described["Metadata"]["BuildTime"] == "2026-01-01T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert "SOURCE_DATE_EPOCH" in fail(capsys, *BUILD, "--ramdisk", "ramdisk")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "0 ramdisks"),
        (["--ramdisk", "nothing"], "cannot read nothing"),
        (["--ramdisk", "ramdisk", "--nsm-module", "nsm.ko"], "goes beside --init"),
        (["--ramdisk", "ramdisk", "--env", "A=1"], "no --rootfs"),
        (["--ramdisk", "ramdisk", "--rootfs", "root"], "no command"),
        (["--ramdisk", "ramdisk", "--rootfs", "init", "--", "x"], "a tar nor a container image"),
        (["--ramdisk", "ramdisk", "--metadata", "init"], "init: not JSON"),
        (["--ramdisk", "ramdisk", "--metadata", "number.json"], "is not a JSON object"),
        (["--ramdisk", "ramdisk", "--metadata", "large.json"], "larger than 4096 bytes"),
        (["--ramdisk", "ramdisk", "--private-key", "key.pem"], "go together"),
        (["--ramdisk", "ramdisk", "--output", "no/where.eif"], "cannot write no/where.eif"),
    ],
)
def test_builds_that_fail_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (folder / "number.json").write_text("1")
    (folder / "large.json").write_text(" " * 4097)
    (folder / "out.eif").write_bytes(b"from before")
    before = sorted(folder.iterdir())
    assert reason in fail(capsys, *BUILD, *arguments)
    assert sorted(folder.iterdir()) == before
    assert (folder / "out.eif").read_bytes() == b"from before"


def test_sign(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_json(capsys, "sign-eif", "image.eif", *SIGNER)
    described = run_json(capsys, "describe-eif", "image.eif")
    assert described["SignatureCheck"] is True
    assert printed == {"Measurements": described["Measurements"]}
    run(capsys, "sign-eif", "image.eif", "--output", "other.eif", *SIGNER)
    assert len((folder / "other.eif").read_bytes()) > len(eifs.eif())


def test_a_key_that_does_not_fit_leaves_the_image_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "key.pem").write_bytes(b"-----BEGIN SECRET-----")
    message = fail(capsys, "sign-eif", "image.eif", *SIGNER)
    assert "enclave-parent: hint: " in message
    assert "SECRET" not in message
    assert (folder / "image.eif").read_bytes() == eifs.eif()


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with files.progress(200, "measuring") as advance:
        advance(100)
        advance(0)
        advance(100)
    assert terminal.getvalue() == ("\r\x1b[Kmeasuring: 50 %\r\x1b[Kmeasuring: 100 %\r\x1b[K")


def fail_while_writing(path: Path) -> None:
    with files.replacing(path) as stream:
        stream.write(b"new")
        raise ZeroDivisionError


def test_a_fifo_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        files.read_small(tmp_path / "fifo", 10)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    with files.replacing(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]
    with pytest.raises(ConfigurationError, match="cannot write"), files.replacing(tmp_path / "a/b"):
        pass


TOLD_TO_END = """
import signal, sys
from pathlib import Path
from parent import files
# As in a shell: whoever runs the tests may ignore them, as nohup does.
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
with files.replacing(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    signal.raise_signal(signal.Signals[sys.argv[2]])
    print("went on")
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", -2)])
def test_a_signal_leaves_nothing_half_written(name: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", TOLD_TO_END, str(tmp_path / "file"), name],
        capture_output=True, check=False, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, b"")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    "command",
    [
        ["diff-eif", "good.eif", "bad.eif"],
        ["diff-eif", "bad.eif", "good.eif"],
        ["describe-eif", "bad.eif"],
        ["sign-eif", "bad.eif", "--signing-certificate", "certificate.pem", "--private-key",
         "key.pem"],
        ["key-policy", "generate", "good.eif", "bad.eif", "--role",
         "arn:aws:iam::111122223333:role/r"],
    ],
)  # fmt: skip
def test_an_image_that_is_none_is_named(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several, which one is it?"""
    image = eifs.eif()
    (folder / "good.eif").write_bytes(image)
    (folder / "bad.eif").write_bytes(image[:-1])
    assert cli.main(command) == 1
    assert "error: bad.eif: not a valid enclave image: " in capsys.readouterr().err


def test_a_file_behind_a_link_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link, new = tmp_path / "real/target", tmp_path / "link", tmp_path / "new"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("real/target")
    new.symlink_to("real/new")
    for path in (link, new):
        with files.replacing(path) as stream:
            stream.write(b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in target.parent.iterdir()) == ["new", "target"]


# Root writes images: /dev/null would be a file from then on.
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "dot", "root", "link"])
def test_what_is_no_file_is_not_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("link").symlink_to("fifo")
    Path("loop").symlink_to("loop")
    path = {"dot": Path(), "root": Path("/")}.get(kind, Path(kind))
    with pytest.raises(ConfigurationError, match="cannot write"), files.replacing(path):
        pytest.fail("it began to write")
    assert sorted(map(str, Path().iterdir())) == ["fifo", "folder", "link", "loop"]
    assert stat.S_ISFIFO(Path("fifo").stat().st_mode)
