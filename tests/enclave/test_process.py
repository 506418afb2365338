"""The agent's process keeps its memory to itself; a process that imports the library does not."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from enclave import process
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

PR_GET_DUMPABLE = 3

STATE = f"""
import ctypes, resource
print(ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}), *resource.getrlimit(resource.RLIMIT_CORE))
"""
AS_A_PROGRAM = """
import contextlib, sys
from enclave.cli import main
sys.argv = ["enclave-agent", "--version"]
with contextlib.suppress(SystemExit):
    main()
"""
AS_A_FUNCTION = """
import contextlib
from enclave.cli import main
with contextlib.suppress(SystemExit):
    main(["--version"])
"""
AS_A_LIBRARY = """
import enclave, enclave.agent, enclave.process, enclave.sdk.worker, enclave.serve.command
print("imported")
"""


def run(code: str) -> str:
    """The last line that a new Python prints; its core files are limited to what is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=TEST_TIMEOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert not done.stderr
    return done.stdout.splitlines()[-1]


def test_the_program_is_not_dumpable_and_writes_no_core_file() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert run(AS_A_PROGRAM + STATE) == f"0 0 {hard}"


@pytest.mark.parametrize("code", [AS_A_FUNCTION, AS_A_LIBRARY])
def test_whoever_uses_the_library_keeps_its_process_as_it_is(code: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert run(code + STATE) == f"1 {hard} {hard}"


WAITS = """
import sys
if sys.argv[1] == "protected":
    protect_memory()
print("ready", flush=True)
sys.stdin.read()
"""
READS = """
import sys
try:
    with open(f"/proc/{sys.argv[1]}/mem", "rb"):
        print("open")
except PermissionError:
    print("denied")
"""
NOBODY = 65534


def a_python_for_everybody() -> str:
    """An interpreter that an unprivileged user may run; root's own may lie in its home."""
    if os.geteuid() != 0:
        return sys.executable
    found = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if found is None:
        pytest.skip("no python3 in /usr that another user may run")
    return found


@pytest.mark.parametrize(("how", "seen"), [("protected", "denied"), ("plain", "open")])
def test_another_process_of_the_same_user_cannot_read_its_memory(how: str, seen: str) -> None:
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
    python = [a_python_for_everybody(), "-I", "-c"]
    source = Path(process.__file__).read_text(encoding="utf-8")
    with subprocess.Popen(
        [*python, source + WAITS, how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **identity,
    ) as child:  # fmt: skip
        assert child.stdin
        assert child.stdout
        with child.stdin:
            assert child.stdout.readline() == b"ready\n"
            done = subprocess.run(
                [*python, READS, str(child.pid)],
                capture_output=True, text=True, check=True, timeout=TEST_TIMEOUT, cwd="/",
                **identity,
            )  # fmt: skip
    if how == "plain" and done.stdout == "denied\n":
        pytest.skip("this system lets no process read another's memory (Yama, ptrace_scope)")
    assert done.stdout == f"{seen}\n"


HEAPS = """
import ctypes, os, threading
libc = ctypes.CDLL(None)
met = threading.Barrier(9)
def allocate():
    kept = [bytes(1000) for _ in range(100)]
    met.wait(10)  # each thread has allocated
    met.wait(10)  # and the heaps have been counted
threads = [threading.Thread(target=allocate) for _ in range(8)]
for each in threads:
    each.start()
met.wait(10)
read, write = os.pipe()
kept = os.dup(2)
os.dup2(write, 2)
libc.malloc_stats()
libc.fflush(None)
os.dup2(kept, 2)
met.wait(10)
print(os.read(read, 65536).count(b"Arena"))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="only glibc has heaps for threads"
)
def test_threads_share_heaps() -> None:
    limited = "from enclave.process import limit_heaps; limit_heaps(2)"
    assert int(run(limited + HEAPS)) <= 2
    assert int(run(HEAPS)) > 2
