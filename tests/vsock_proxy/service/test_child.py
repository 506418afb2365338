"""Rules for a process that runs a program as its child."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.child import FORWARDED, exec_hint, exit_code

if TYPE_CHECKING:
    from pathlib import Path

ORPHAN = """
import os, sys, time
from vsock_proxy.service.child import end_with_parent

parent = os.getpid()
if os.fork() == 0:
    end_with_parent(parent)
    os.write(1, b"ready")
time.sleep(1000)
"""

LATE = """
import os, sys, time
from vsock_proxy.service.child import end_with_parent

gone, still = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    os.close(still)
    os.read(gone, 1)  # Returns when the parent ends, or is about to.
    end_with_parent(parent)
    time.sleep(1000)  # With standard output open: the test waits for this process too.
"""

WAITING = """
import os, sys
from vsock_proxy.service.child import block_signals, next_signal

before = block_signals()
print("ready", flush=True)
if os.fork() == 0:
    sys.exit()
while True:
    print(next_signal(), flush=True)
"""


def test_exit_code_of_a_signal_is_128_and_its_number() -> None:
    assert [exit_code(code) for code in (0, 3, -signal.SIGTERM, -signal.SIGKILL)] == [
        0,
        3,
        143,
        137,
    ]


def test_forked_process_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.read(5) == b"ready"
        parent.kill()
        # The child has the other end too: this returns when both are gone.
        assert parent.communicate(timeout=TEST_TIMEOUT)[0] == b""


def test_forked_process_ends_if_its_parent_has_ended_already() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE], stdout=subprocess.PIPE, timeout=TEST_TIMEOUT, check=True
    )
    assert done.stdout == b""


def test_signals_of_other_processes_and_ended_children_are_returned() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout
        try:
            assert it.stdout.readline() == "ready\n"
            assert it.stdout.readline() == f"{signal.SIGCHLD:d}\n"
            for number in FORWARDED:
                it.send_signal(number)
                assert it.stdout.readline() == f"{number:d}\n"
        finally:
            it.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_signals_of_the_terminal_are_skipped(number: signal.Signals) -> None:
    """They reach the child from the kernel: it must not get them twice."""
    main, side = os.openpty()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{WAITING}",
        ],
        stdin=side,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as it:
        os.close(side)
        assert it.stdout
        try:
            assert it.stdout.readline() == "ready\n"
            assert it.stdout.readline() == f"{signal.SIGCHLD:d}\n"
            os.write(main, {signal.SIGINT: b"\x03", signal.SIGQUIT: b"\x1c"}[number])
            # The terminal's signal is there once the line discipline has echoed its character.
            assert os.read(main, 2) in (b"^C", b"^\\")
            it.send_signal(signal.SIGUSR1)
            assert it.stdout.readline() == f"{signal.SIGUSR1:d}\n"
        finally:
            it.kill()
            os.close(main)


CANNOT_RUN = {
    "no-such-program": "is it in PATH?",
    "{}/absent": "is the path right?",
    "{}/absent/program": "is the path right?",
    "{}": "it is a folder",
    "{}/plain": "chmod [+]x",
    "{}/orphan": "the interpreter in its first line",
    "{}/empty": "begins with #!",
}


@pytest.mark.parametrize("program", CANNOT_RUN)
def test_a_program_that_cannot_be_executed_has_a_hint(tmp_path: Path, program: str) -> None:
    for name, content in (("plain", "exit"), ("orphan", "#!/absent/sh\n"), ("empty", "")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600 if name == "plain" else 0o700)
    word = program.format(tmp_path)
    with pytest.raises(OSError, match=re.escape(word)) as raised:
        subprocess.run([word], check=False)
    assert re.search(CANNOT_RUN[program], exec_hint(word, raised.value.errno))
