"""`enclave-simulator boot` without QEMU: what it checks, what it tells QEMU, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enclave_simulator.cli import main
from enclave_simulator.machine import debian, qemu
from enclave_simulator.machine.architecture import AARCH64, X86_64, Architecture, host
from enclave_simulator.machine.boot import Enclave, Image, UnsignedImage
from enclave_simulator.machine.errors import MachineError
from enclave_simulator.machine.image import CheckedImage
from enclave_simulator.machine.vsock_device import MAX_CONNECTIONS
from tests.parent.eif.eifs import eif, pcrs
from tests.waiting import TEST_TIMEOUT, eventually

DEVICES = 'name "vhost-user-test-device"\nname "vhost-user-vsock-device"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.eif"
    path.write_bytes(eif())
    return path


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, machines: str = "microvm",
    devices: str = DEVICES, otherwise: str = "exit 0", emulator: str = X86_64.emulator,
) -> None:  # fmt: skip
    """Put a QEMU in PATH that says what it has, and otherwise does what a line of shell does."""
    program = folder / "bin" / emulator
    program.parent.mkdir(exist_ok=True)
    listed = "".join(f"{name}    a machine\n" for name in machines.split())
    program.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        f"'-M help') echo 'Supported machines are:'; printf %s {shlex.quote(listed)};;\n"
        f"'-device help') printf '%s\\n' {shlex.quote(devices)};;\n"
        f"*) {otherwise};;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_no_qemu_says_how_to_get_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["boot", f"--cache={tmp_path}", str(file)]) == 1
    told = said(capsys)
    assert f"no usable QEMU: no qemu-system-x86_64 in PATH, none in {tmp_path}/qemu" in told
    assert "setup-machine" in told


def test_a_qemu_that_lacks_something_says_what(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = DEVICES.splitlines()[1]
    install(tmp_path, monkeypatch, machines="microvm nitro-enclave", devices=devices)
    assert main(["boot", str(file)]) == 1
    told = said(capsys)
    assert "has no vhost-user-test-device (QEMU 10.2 and later)" in told
    assert "--machine nitro-enclave works here" in told


def test_a_qemu_without_the_enclave_is_told_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch)
    assert main(["boot", "--machine=nitro-enclave", str(file)]) == 1
    assert "has no -M nitro-enclave" in said(capsys)


def test_a_qemu_that_does_not_run_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    (tmp_path / "bin" / X86_64.emulator).write_text("#!/bin/sh\necho no such library >&2; exit 127")
    with pytest.raises(MachineError, match="does not run: no such library"):
        qemu.find()


@pytest.mark.parametrize("architecture", [X86_64, AARCH64])
def test_an_unpacked_qemu_keeps_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    """It finds its modules where it looks first, and does not go on to an installed QEMU's."""
    cache, loader, modules = tmp_path / "cache", Path(host().loader), Path(host().libraries, "qemu")

    def unpack(_: object, names: list[str], into: Path, *, backports: bool) -> None:
        assert names == [architecture.package]
        assert backports
        (into / loader).parent.mkdir(parents=True, exist_ok=True)
        (into / modules).mkdir(parents=True)
        (into / host().libraries / "ld.so").touch()
        target = into / host().libraries / "ld.so"
        (into / loader).symlink_to(os.path.relpath(target, (into / loader).parent))

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian.Packages, "update", lambda _: None)
    monkeypatch.setattr(debian.Packages, "unpack", unpack)
    qemu.set_up(cache, architecture=architecture)
    unpacked = architecture.folder(cache) / "qemu"
    # As QEMU does: from the running program's folder, which for the kernel is the loader's.
    first = (unpacked / loader).resolve().parent / "qemu-bundle" / modules
    assert first.resolve() == (unpacked / modules).resolve()
    (moved := tmp_path / "moved").mkdir()
    unpacked.rename(moved / "qemu")
    first = moved / "qemu" / host().libraries / "qemu-bundle" / modules
    assert first.resolve() == moved.resolve() / "qemu" / modules


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--machine=nitro-enclave", "--debug-mode"], "--debug-mode does not apply to"),
        (["--machine=nitro-enclave", "--nitro-root=x"], "--nitro-root does not apply to"),
        (["--cid=3"], "not an enclave's CID: 3"),
        (["--signing-certificate=/nonexistent"], "cannot read /nonexistent"),
        (["--signing-certificate=/proc/self/cmdline"], "not a certificate in PEM"),
    ],
)
def test_options_that_make_no_sense(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str,
) -> None:  # fmt: skip
    install(tmp_path, monkeypatch)
    assert main(["boot", *arguments, str(file)]) == 1
    assert expected in said(capsys)


@pytest.mark.parametrize(
    "argument", ["--role-arn=admin", "--instance-id=i-x", "--memory=0", "--guest-port=x"]
)
def test_values_are_checked(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["boot", argument, "image.eif"])
    assert ended.value.code == 2
    assert argument.partition("=")[0] in said(capsys)


def test_a_damaged_image_does_not_boot(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch, otherwise="touch booted")
    monkeypatch.chdir(tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["boot", str(file)]) == 1
    assert "CRC" in said(capsys)
    assert not (tmp_path / "booted").exists()


def test_an_image_for_aarch64_boots_in_its_machine(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(eif(flags=1))
    install(tmp_path, monkeypatch)  # The one for x86_64 does not do.
    with monkeypatch.context() as alone:  # This machine may have one for aarch64.
        alone.setenv("PATH", str(tmp_path / "bin"))
        assert main(["boot", str(file)]) == 1
    assert "no qemu-system-aarch64 in PATH" in (told := said(capsys))
    assert "setup-machine --arch aarch64" in told
    record = f'echo "$@" >{tmp_path}/arguments; exit 3'
    install(tmp_path, monkeypatch, machines="virt", otherwise=record, emulator=AARCH64.emulator)
    assert main(["boot", "--no-services", str(file)]) == 1
    assert "QEMU ended with 3" in said(capsys)
    arguments = (tmp_path / "arguments").read_text()
    assert "-M virt,gic-version=3,memory-backend=memory" in arguments
    assert "console=ttyAMA0" in arguments


@pytest.mark.parametrize(
    ("flags", "machine", "hint"),
    [(1, "microvm", "virt"), (1, "nitro-enclave", "virt"), (0, "virt", "microvm")],
)
def test_a_machine_of_another_architecture(
    file: Path, capsys: pytest.CaptureFixture[str], flags: int, machine: str, hint: str
) -> None:
    file.write_bytes(eif(flags=flags))
    assert main(["boot", f"--machine={machine}", str(file)]) == 1
    told = said(capsys)
    assert f"--machine {machine} does not boot images for" in told
    assert f"{hint} does" in told


def test_an_image_is_measured_and_taken_apart(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as stream:
        image = CheckedImage(stream)
        parts = image.unpack(tmp_path)
    assert image.pcrs == pcrs()
    assert image.memory == 1024
    assert parts.kernel.read_bytes() in file.read_bytes()
    assert len(parts.ramdisk.read_bytes()) % 4 == 0


def enclave(folder: Path, script: str) -> Enclave:
    return Enclave(cid=16, folder=folder, command=["/bin/sh", "-c", script, "qemu"])


def image(folder: Path) -> Image:
    return Image(kernel=folder, ramdisk=folder, cmdline="", exchange=lambda request: request)


@pytest.mark.parametrize(
    ("script", "timeout", "expected"),
    [
        ("exit 3", TEST_TIMEOUT, "QEMU ended with 3"),
        ("exit 0", TEST_TIMEOUT, "the guest ended before its init reported"),
        ("exec sleep 600", 1, "the enclave still runs after 1 s"),
    ],
)
def test_an_end_that_is_none_says_why(
    tmp_path: Path, script: str, timeout: float, expected: str
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    with pytest.raises(MachineError, match=expected):
        enclave(tmp_path, script).boot(
            image(tmp_path), private, timeout=1 if "600" in script else TEST_TIMEOUT
        )
    assert not list(tmp_path.glob("3_*"))


def test_the_console_is_what_qemu_writes(tmp_path: Path) -> None:
    console = tmp_path / "console"
    private = tmp_path / "private"
    private.mkdir()
    with console.open("w") as stream, pytest.raises(MachineError):
        enclave(tmp_path, 'echo "$@"').boot(image(tmp_path), private, console=stream)
    told = console.read_text()
    assert "-M microvm,acpi=on" in told
    assert "virtio-id=33" in told
    assert "reboot=t" in told


def test_qemus_own_enclave_gets_the_image_as_it_is(tmp_path: Path) -> None:
    console = tmp_path / "console"
    private = tmp_path / "private"
    private.mkdir()
    booted = UnsignedImage(
        eif=tmp_path / "image.eif", module_id="i-1-enc2", instance_id="i-1", role_arn="a,b"
    )
    with console.open("w") as stream, pytest.raises(MachineError, match="before its init"):
        enclave(tmp_path, 'echo "$@"').boot(booted, private, console=stream)
    told = console.read_text()
    assert "nitro-enclave,acpi=on,vsock=vsock,id=i-1-enc2,parent-id=i-1,parent-role=a,,b" in told
    assert f"-kernel {tmp_path}/image.eif" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    install(tmp_path, monkeypatch, otherwise="echo $$; exec sleep 600")
    command = [sys.executable, "-m", "enclave_simulator.cli", "boot", "--no-services", str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    ) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(TEST_TIMEOUT) == 128 + number
    assert not list(temporary.iterdir())
    # Where the signal came while QEMU was being started, the kernel ends QEMU, a moment later.
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_heartbeat_and_an_exit_code_are_heard(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    # The guest's side as the device would have it: connections to what is behind CID 3.
    guest = (
        "import socket\n"
        "def call(port, data):\n"
        "    end = socket.socket(socket.AF_UNIX)\n"
        f"    end.connect('{tmp_path}/3_%d' % port)\n"
        "    end.sendall(data)\n"
        "    return end\n"
        "assert call(9000, b'\\xb7').recv(1) == b'\\xb7'\n"
        "call(9001, b'42\\n').recv(1)\n"
    )
    command = [sys.executable, "-c", guest]
    machine = Enclave(cid=16, folder=tmp_path, command=command)
    assert machine.boot(image(tmp_path), private, timeout=TEST_TIMEOUT) == 42


def test_one_at_a_time_fills_the_cache(tmp_path: Path) -> None:
    with debian.locked(tmp_path):
        held = subprocess.run(["flock", "-n", tmp_path / "lock", "true"], check=False)
    assert held.returncode == 1
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write to"), debian.locked(tmp_path / "file"):
        pass


def test_setup_without_apt_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["setup-machine", f"--cache={tmp_path / 'cache'}"]) == 1
    assert "no apt-get and no dpkg-deb" in said(capsys)


def test_a_guest_cannot_use_up_the_descriptors(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its connections may take two, whatever limit the shell has set."""
    install(tmp_path, monkeypatch, otherwise="ulimit -Sn; exit 3")
    command = [sys.executable, "-m", "enclave_simulator.cli", "boot", "--no-services", str(file)]
    limited = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *command]
    done = subprocess.run(limited, stdout=subprocess.PIPE, check=False, timeout=TEST_TIMEOUT)
    assert int(done.stdout) > 2 * MAX_CONNECTIONS


def test_without_util_linux_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (private := tmp_path / "private").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="no setpriv"):
        enclave(tmp_path, "exit 0").boot(image(tmp_path), private)


def test_a_folder_that_is_in_use_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "3_9000"))
        other.listen()
        with pytest.raises(Exception, match="Address already in use"):
            enclave(tmp_path, "exit 0").boot(image(tmp_path), tmp_path)
