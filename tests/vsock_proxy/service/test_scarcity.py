"""Errors of a machine that lacks something: one error with a hint, from wherever they come."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.scarcity import hint_of, require_descriptors, scarcity

if TYPE_CHECKING:
    from pathlib import Path


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/a/file")


def caused(error: BaseException) -> AgentError:
    found = AgentError("cannot listen", hint="is the address free?")
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (system_error(errno.EMFILE), "out of file descriptors"),
        (system_error(errno.ENFILE), "out of file descriptors"),
        (system_error(errno.ENOMEM), "out of memory"),
        (MemoryError(), "out of memory"),
        (system_error(errno.ENOSPC), "no space left for /a/file"),
        (RuntimeError("can't start new thread"), "cannot start a thread or process"),
        (ImportError("libssl.so: cannot open shared object file: Too many open files"),
         "out of file descriptors"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory"),
        (caused(system_error(errno.EMFILE)), "out of file descriptors"),
    ],
)  # fmt: skip
def test_what_is_scarce_is_named(error: BaseException, text: str) -> None:
    found = scarcity(error)
    assert found is not None
    assert str(found) == text
    assert found.hint


@pytest.mark.parametrize(
    "error",
    [system_error(errno.ENOENT), system_error(errno.EAGAIN), ImportError("no module"),
     RuntimeError("a bug"), ValueError(), caused(system_error(errno.EADDRINUSE))],
)  # fmt: skip
def test_other_errors_are_none_of_it(error: BaseException) -> None:
    assert scarcity(error) is None


def test_the_hint_of_scarcity_comes_first() -> None:
    assert hint_of(caused(system_error(errno.EADDRINUSE))) == "is the address free?"
    assert "ulimit -n" in hint_of(caused(system_error(errno.EMFILE)))


def test_too_few_descriptors_are_an_error_before_a_loop_is_half_made() -> None:
    require_descriptors(4, "the loop")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, before[1]))
    try:
        with pytest.raises(ConfigurationError, match="the loop needs 64 more") as caught:
            require_descriptors(64, "the loop")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "ulimit -n" in caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == open_now  # noqa: PTH208 (as above)


COMMANDS = {
    "serve": ("enclave.cli", "serve", "--verbose", "--region", "us-east-1", "--listen",
              "unix:kms.sock", "--proxy", "unix:none", "--credentials", "unix:none"),
    "serve --processes": ("enclave.cli", "serve", "--verbose", "--region", "us-east-1",
                          "--processes", "2", "--listen", "unix:kms.sock", "--proxy", "unix:none",
                          "--credentials", "unix:none"),
    "serve --egress": ("enclave.cli", "serve", "--verbose", "--no-kms", "--egress",
                       "--egress-allow", "a.b:443", "--egress-listen", "tcp://127.0.0.1:0",
                       "--egress-proxy", "unix:none", "--", "true"),
    "vsock-proxy": ("vsock_proxy", "--config", "allowlist.yaml", "unix:3_8000", "127.0.0.1", "9"),
    "enclave-parent": ("parent.cli", "run", "--config", "parent.yaml"),
}  # fmt: skip
STARTED = re.compile("serving KMS on|agent: ready|forwarding to|operations: listening")
OUT_OF_MEMORY = re.compile(r"^memory allocation of \d+ bytes failed$", re.MULTILINE)
FILES = {
    "allowlist.yaml": "allowlist: [{address: 127.0.0.1, port: 9}]\n",
    "parent.yaml": """\
proxy:
  allowlist: [{address: 127.0.0.1, port: 9}]
  forwards: [{name: kms, listen: "unix:3_8000", to: "tcp://127.0.0.1:9"}]
credentials: {listen: "unix:3_8002"}
operations: {listen: "tcp://127.0.0.1:0"}
""",
}


def started_or_complained(folder: Path, module: str, *words: str, limit: tuple[int, int]) -> str:
    """Run a command until it serves, has ended, or both; return its standard error."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    kind, number = limit
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(kind, (number, number)),  # noqa: PLW1509 (one thread)
    )
    said = ""
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if STARTED.search(line):
                process.terminate()
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    if process.returncode == -signal.SIGABRT:
        # cryptography is Rust, which ends the process where it gets no memory: no code of ours runs
        assert OUT_OF_MEMORY.search(said), said
    elif process.returncode and not STARTED.search(said):
        assert said.count(": error: ") == 1, said
        assert said.count(": hint: ") == 1, said
    return said


def test_serve_without_a_descriptor_for_its_loop_is_one_error(tmp_path: Path) -> None:
    said = started_or_complained(tmp_path, *COMMANDS["serve"], limit=(resource.RLIMIT_NOFILE, 6))
    assert "enclave-agent: error: " in said
    assert "ulimit -n" in said


@pytest.mark.long
@pytest.mark.parametrize("descriptors", range(6, 18))
@pytest.mark.parametrize("name", COMMANDS)
def test_daemons_with_few_descriptors_serve_or_say_so(
    name: str, descriptors: int, tmp_path: Path
) -> None:
    limit = (resource.RLIMIT_NOFILE, descriptors)
    started_or_complained(tmp_path, *COMMANDS[name], limit=limit)


@pytest.mark.long
@pytest.mark.parametrize("mib", [64, 128, 192])
@pytest.mark.parametrize("name", COMMANDS)
def test_daemons_with_little_memory_serve_or_say_so(name: str, mib: int, tmp_path: Path) -> None:
    limit = (resource.RLIMIT_AS, mib << 20)
    started_or_complained(tmp_path, *COMMANDS[name], limit=limit)


def test_a_closed_standard_output_is_one_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "parent.cli", "doctor", "--config", "none"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.close(1),
    )
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.endswith("error: cannot print on standard output: it is closed")
    assert ": hint: " in second
