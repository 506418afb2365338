"""The program that carries bytes to a vsock address: assembled anew, and run."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from parent.eif import vsock_program as module
from parent.eif.programs import read_elf
from parent.eif.vsock_program import vsock_program
from tests.waiting import TEST_TIMEOUT


@pytest.mark.parametrize(
    ("architecture", "name", "prologue"),
    [("x86_64", "X86_64_CODE", ".intel_syntax noprefix"), ("aarch64", "AARCH64_CODE", "")],
)
def test_the_program_is_what_its_comments_say(
    tmp_path: Path, architecture: str, name: str, prologue: str
) -> None:
    """Assembled anew from the comments beside its bytes, it is the same."""
    tools = ("as", "objcopy")
    if platform.machine() != architecture:
        tools = (f"{architecture}-linux-gnu-as", f"{architecture}-linux-gnu-objcopy")
    if not all(map(shutil.which, tools)):
        pytest.skip(f"no assembler for {architecture}: {tools[0]} (Debian: binutils)")
    source = Path(module.__file__).read_text(encoding="utf-8")
    block = source.partition(f"{name} = bytes.fromhex(")[2].partition("\n)\n")[0]
    lines = [line.partition("  # ")[2] for line in block.splitlines() if '"' in line]
    text = [re.split(r"\s{3,}", line)[0] for line in lines]
    assert len(text) > 30
    assembly = "\n".join([prologue, *text, "address:", ""])
    (tmp_path / "v.s").write_text(
        assembly.replace("failed: ", "failed:\n").replace("end: ", "end:\n")
    )
    subprocess.run([tools[0], "v.s", "-o", "v.o"], cwd=tmp_path, check=True)
    copy = [tools[1], "-O", "binary", "-j", ".text", "v.o", "v.bin"]
    subprocess.run(copy, cwd=tmp_path, check=True)
    assert (tmp_path / "v.bin").read_bytes() == getattr(module, name)


def test_each_is_a_static_program_of_its_architecture() -> None:
    for architecture in ("x86_64", "aarch64"):
        elf = read_elf(vsock_program(9000, architecture))
        assert elf
        assert elf.architecture == architecture
        assert not elf.interpreter


def test_the_program_carries_bytes_there_and_one_back(tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the program is for Linux on x86_64")
    program = tmp_path / "vsock"
    program.write_bytes(vsock_program(9000))
    program.chmod(0o755)
    elf = read_elf(program.read_bytes())
    assert elf
    assert not elf.interpreter
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(TEST_TIMEOUT)
        server.bind(str(tmp_path / "3_9000"))
        server.listen()

        def answer() -> None:
            end, _ = server.accept()
            with end:
                heard.append(end.makefile("rb").read())  # To the end: it closes its half.
                end.sendall(b"\xb7")

        thread = threading.Thread(target=answer)
        thread.start()
        run = [sys.executable, "-m", "enclave_simulator.cli", "run", "--no-services",
               f"--folder={tmp_path}", "--", str(program)]  # fmt: skip
        done = subprocess.run(
            run, input=b"\xb7", capture_output=True, check=False, timeout=TEST_TIMEOUT
        )
        thread.join(TEST_TIMEOUT)
    assert (done.returncode, done.stdout, heard) == (0, b"\xb7", [b"\xb7"])
    done = subprocess.run(run, input=b"x", capture_output=True, check=False, timeout=TEST_TIMEOUT)
    assert (done.returncode, done.stdout) == (1, b"")
