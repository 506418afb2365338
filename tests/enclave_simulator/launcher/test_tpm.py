"""``/dev/tpm0`` and ``/dev/tpmrm0`` of a program under the launcher, in both of its ways."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher import Launcher
from tests.enclave_simulator.launcher.rig import EchoNsm, namespaces_refused, output, python

if TYPE_CHECKING:
    from pathlib import Path


class EchoTpm:
    """Responds with the command after a header; counts."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def exchange(self, command: bytes) -> bytes:
        self.commands.append(command)
        if command.endswith(b"fault"):
            raise ValueError("a fault of the simulator's")
        return struct.pack(">HII", 0x8001, 10 + len(command), 0) + command


def command(body: str) -> str:
    """Return an expression for a command in the program."""
    return f"struct.pack('>HII', 0x8001, 10 + len({body}), 0x144) + {body}"


@pytest.fixture
def tpm() -> EchoTpm:
    return EchoTpm()


@pytest.fixture(params=[True, False], ids=["own-dev", "trapped-paths"])
def instance(request: pytest.FixtureRequest, tmp_path: Path, tpm: EchoTpm) -> Launcher:
    namespaces: bool = request.param
    if namespaces and namespaces_refused():
        pytest.skip(f"{namespaces_refused()}: see user_namespaces(7)")
    return Launcher(nsm=None, tpm=tpm, folder=tmp_path, namespaces=namespaces)


@pytest.mark.parametrize("device", ["tpm0", "tpmrm0"])
def test_a_command_is_written_and_a_response_read(instance: Launcher, device: str) -> None:
    script = f"""
import os, select, struct
tpm = os.open("/dev/{device}", os.O_RDWR | os.O_CLOEXEC)
for body in (b"one", b"two" * 1000):
    command = {command("body")}
    assert os.write(tpm, command) == len(command)
    assert select.select([tpm], [], [], 30)[0]
    assert os.read(tpm, 4096) == struct.pack(">HII", 0x8001, 10 + len(command), 0) + command
os.write(tpm, {command("b'xy'")})
assert len(os.read(tpm, 10)) == 10, "a header first, as libtss2 reads"
print(os.read(tpm, 4096)[-2:])
"""
    assert python(instance, script) == "b'xy'\n"


def test_it_looks_like_a_device_and_there_is_no_nsm(instance: Launcher) -> None:
    script = "test -c /dev/tpm0 && test -c /dev/tpmrm0 && test -w /dev/tpm0 && ! test -e /dev/nsm"
    assert output(instance, "sh", "-c", script) == (0, "", "")


def test_an_enclave_has_no_tpm(tmp_path: Path) -> None:
    if namespaces_refused():
        pytest.skip(namespaces_refused())
    enclave = Launcher(nsm=EchoNsm(), folder=tmp_path, namespaces=True)
    assert output(enclave, "sh", "-c", "! ls /dev/tpm*")[0] == 0


def test_tpm0_admits_one_opener_and_tpmrm0_many(instance: Launcher) -> None:
    script = f"""
import os, struct
first = os.open("/dev/tpm0", os.O_RDWR)
try:
    os.open("/dev/tpm0", os.O_RDWR)
except OSError as e:
    print(e.strerror)
managed = [os.open("/dev/tpmrm0", os.O_RDWR) for _ in range(3)]
for number, each in enumerate(managed):
    os.write(each, {command("bytes([number])")})
print([os.read(each, 4096)[-1] for each in managed])
child = os.fork()
if not child:
    os.write(first, {command("b'child'")})
    os._exit(0 if os.read(first, 4096).endswith(b"child") else 1)
assert os.waitpid(child, 0)[1] == 0
os.close(first)
deadline = __import__("time").monotonic() + 30
while True:  # the supervisor sees a moment later that the last reference has gone
    try:
        os.close(os.open("/dev/tpm0", os.O_RDWR))
        break
    except OSError:
        assert __import__("time").monotonic() < deadline
print("free")
"""
    assert python(instance, script) == "Device or resource busy\n[0, 1, 2]\nfree\n"


def test_non_blocking_and_kept_over_exec(instance: Launcher) -> None:
    script = f"""
import os, struct, subprocess, sys
tpm = os.open("/dev/tpmrm0", os.O_RDWR | os.O_NONBLOCK)
print(os.read(tpm, 1))
assert not os.get_blocking(tpm)
os.set_blocking(tpm, True)
os.set_inheritable(tpm, True)
print(subprocess.run([sys.executable, "-c", "import os, struct; os.write(" + str(tpm) + ", "
    + {command("b'exec'")!r} + "); print(os.read(" + str(tpm) + ", 99)[-4:])"],
    pass_fds=[tpm], stdout=-1).stdout.decode(), end="")
"""
    assert python(instance, script) == "b''\nb'exec'\n"


def test_a_read_with_no_response_pending_returns_nothing(instance: Launcher) -> None:
    """As by the driver: a program may read to the end of file, in pieces of any size."""
    script = f"""
import os, struct
tpm = os.open("/dev/tpm0", os.O_RDWR)
for body in (b"", b"body" * 500):
    os.write(tpm, {command("body")})
    whole = b""
    while piece := os.read(tpm, 32):
        whole += piece
    print(len(whole), whole.endswith(body), os.read(tpm, 99))
os.close(tpm)
"""
    assert python(instance, script) == "20 True b''\n2020 True b''\n"


@pytest.mark.parametrize(
    "sent",
    [
        "b'short'",
        "bytes(4097)",
        "struct.pack('>HII', 0x8001, 99, 0x144)",  # says more than there is
        command("b'fault'"),
    ],
)
def test_what_the_driver_rejects_ends_the_open_device(instance: Launcher, sent: str) -> None:
    script = f"""
import os, struct
tpm = os.open("/dev/tpm0", os.O_RDWR)
os.write(tpm, {sent})
try:
    print(os.read(tpm, 4096))
except ConnectionResetError:
    print(b"")
"""
    assert python(instance, script) == "b''\n"


def test_more_than_the_command_says_is_dropped_as_by_the_driver(
    instance: Launcher, tpm: EchoTpm
) -> None:
    script = f"""
import os, struct
tpm = os.open("/dev/tpm0", os.O_RDWR)
os.write(tpm, {command("b'rest'")} + b"more")
print(os.read(tpm, 4096)[-4:])
"""
    assert python(instance, script) == "b'rest'\n"
    assert tpm.commands[0].endswith(b"rest")


def test_other_files_are_the_kernels(instance: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "tpm0"
    script = f"""
import os
for flags in (os.O_RDWR | os.O_CREAT, os.O_RDWR, os.O_RDONLY):
    os.close(os.open({str(file)!r}, flags))
try:
    os.open("/dev/tpm0", os.O_RDWR | os.O_CREAT | os.O_EXCL)
except FileExistsError:
    print("exists")
os.chdir("/dev")
os.close(os.open("tpmrm0", os.O_RDWR))
"""
    assert python(instance, script) == "exists\n"


def test_opens_for_reading_alone_are_not_trapped(tmp_path: Path, tpm: EchoTpm) -> None:
    """With a /dev of its own: what an interpreter does all day costs nothing."""
    if namespaces_refused():
        pytest.skip(namespaces_refused())
    from enclave_simulator.launcher import bpf  # noqa: PLC0415
    from enclave_simulator.launcher.abi import X86_64  # noqa: PLC0415

    assert len(bpf.assemble(X86_64, bpf.RULES + bpf.TPM_RULES)) > len(bpf.assemble(X86_64))
    trapped = {rule.syscall for rule in bpf.TPM_RULES}
    assert trapped == {"open", "openat", "openat2"}
    assert all(rule.when for rule in bpf.TPM_RULES if rule.syscall != "openat2")
    launcher = Launcher(nsm=None, tpm=tpm, folder=tmp_path, namespaces=True)
    assert output(launcher, sys.executable, "-c", "import json")[0] == 0
