"""``enclave-agent log`` and ``serve --log-to`` as processes, most of them with a sink of ours."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.authority import Authority
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = (*AGENT, "log")
# Root alone may seed the kernel.
SERVE = (
    *AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--no-seed-from-kms", "--no-seed-from-nsm"
)  # fmt: skip


class Kept:
    """What came to a sink."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, enclave: str, cid: int | None, line: str) -> None:  # noqa: ARG002
        self.lines.append(line)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def sink(folder: Path, kept: Kept) -> Iterator[str]:
    """The parent's sink; where it is."""
    address = UnixAddress(str(folder / "3_8003"))
    settings = LogSettings(
        cids=None, listen=address, lines_per_second=100_000, bytes_per_second=1 << 30
    )
    made = LogSink(settings, sink=kept)
    made.start()
    try:
        yield str(address)
    finally:
        made.stop(TEST_TIMEOUT)


def test_simulator_prints_the_lines() -> None:
    done = run(*SIMULATOR, "--", *LOG, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert sorted(done.stderr.splitlines()) == ["enclave: err", "enclave: out"]
    assert (done.stdout, done.returncode) == ("", 7)


def test_lines_of_the_endpoint_and_its_program_are_sent() -> None:
    script = "echo the program at $AWS_ENDPOINT_URL_KMS; exit 7"
    command = (*SERVE, "--verbose", "--log-to", "vsock://3:8003", "--", "sh", "-c", script)
    done = run(*SIMULATOR, "--", *command)
    lines = done.stderr.splitlines()
    assert all(line.startswith("enclave: ") for line in lines), done.stderr
    assert any("enclave-agent: serving KMS on tcp://127.0.0.1:" in line for line in lines)
    assert any("the program at http://127.0.0.1:" in line for line in lines)
    assert (done.stdout, done.returncode) == ("", 7)


def test_error_that_ends_the_agent_is_sent(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept) as address, socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        command = (*AGENT, "serve", "--region", "us-east-1", "--listen", listen)
        done = run(*command, "--log-to", address)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 255)
    assert f"enclave-agent: error: cannot listen on {listen}: Address already in use" in kept.lines


def test_simulator_keeps_a_sink_of_the_user(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept):
        done = run(*SIMULATOR, "--folder", str(tmp_path), "--", *LOG, "echo", "mine")
    assert (kept.lines, done.stderr, done.returncode) == (["mine"], "", 0)


def test_many_lines_arrive_in_order(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept) as address:
        done = run(*LOG, "--to", address, "--", "seq", "20000")
    assert (done.stderr, done.returncode) == ("", 0)
    assert kept.lines == [str(n) for n in range(1, 20_001)]


def test_program_runs_without_a_sink_and_lost_lines_are_reported(tmp_path: Path) -> None:
    to = f"unix:{tmp_path}/none"
    done = run(*LOG, "--to", to, "--flush", "0.2", "--", "sh", "-c", "seq 30; exit 3")
    assert done.returncode == 3
    first, second, *shown = done.stderr.splitlines()
    assert first == (
        f"enclave-agent: warning: logs: {to}: No such file or directory; "
        "retrying, lines are buffered"
    )
    assert second.startswith(f"enclave-agent: warning: logs: 30 lines could not be sent to {to} ")
    assert shown == [str(n) for n in range(21, 31)]


def test_lines_are_written_to_the_console_too_if_asked(tmp_path: Path) -> None:
    kept = Kept()
    script = 'printf "one\\n"; seq 1000; printf "no end" >&2'
    with sink(tmp_path, kept) as address:
        done = run(*LOG, "--to", address, "--also-stderr", "--", "sh", "-c", script)
    assert sorted(done.stderr.splitlines()) == sorted(kept.lines)
    assert len(kept.lines) == 1002
    assert done.returncode == 0


def peak_memory(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmHWM"].split()[0]) / 1024


_FIFTY_MEGABYTES = """
import os, sys
line = b"x" * 99 + b"\\n"
for _ in range(500):
    os.write(1, line * 1000)
os.write(2, b"written\\n")
open(sys.argv[1], "x").close()
sys.stdin.read()
"""


def test_sink_that_never_reads_does_not_block_the_program(tmp_path: Path) -> None:
    path, done = tmp_path / "sink", tmp_path / "done"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = (*LOG, "--to", f"unix:{path}", "--buffer", "1048576", "--flush", "0.2")
        program = (sys.executable, "-c", _FIFTY_MEGABYTES, str(done))
        with subprocess.Popen(
            [*command, "--", *program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as agent:  # fmt: skip
            eventually(done.exists)
            assert peak_memory(agent.pid) < 64
            out, err = agent.communicate(timeout=TEST_TIMEOUT)
    assert (out, agent.returncode) == ("", 0)
    assert "could not be sent" in err
    assert err.splitlines()[-1] == "written", "the youngest lines are the ones that are kept"


def test_sink_restarted_in_the_middle(tmp_path: Path) -> None:
    kept, again = Kept(), Kept()
    script = "echo before; read go; echo after; read go; echo last"
    with sink(tmp_path, kept) as address:
        agent = subprocess.Popen(
            [*LOG, "--to", address, "--", "sh", "-c", script],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        eventually(lambda: kept.lines)
    assert agent.stdin
    assert agent.stderr
    with agent:
        agent.stdin.write("go\n")
        assert "it hung up; retrying" in agent.stderr.readline()
        with sink(tmp_path, again):
            eventually(lambda: "after" in again.lines)
            agent.stdin.write("go\n")
            assert agent.wait(TEST_TIMEOUT) == 0
        assert agent.stderr.read().endswith(": reconnected\n")
    assert kept.lines == ["before"]
    assert again.lines == [
        "enclave-agent: logs: reconnected: lines just before this may be missing",
        "after",
        "last",
    ]


# A shell cannot trap what was ignored when it began, as SIGINT is in the background of another.
_INTERRUPTS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(8))
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 200", 200),
        ("kill -KILL $$", 137),
        ("kill -TERM $PPID; sleep 60 & wait", 143),
        ('trap "exit 9" TERM; kill -TERM $PPID; while :; do sleep 0.05; done', 9),
        (f"exec {sys.executable} -c '{_INTERRUPTS}'", 8),
        ('trap "exit 6" USR1; kill -USR1 $PPID; while :; do sleep 0.05; done', 6),
    ],
)
def test_signals_are_forwarded_and_exit_codes_returned(
    tmp_path: Path, script: str, code: int
) -> None:
    with sink(tmp_path, Kept()) as address:
        done = run(*LOG, "--to", address, "--", "sh", "-c", script)
    assert (done.stderr, done.returncode) == ("", code)


def masks(lines: list[str]) -> list[int]:
    """Without the two signals that glibc keeps for itself."""
    return [int(line.split()[1], 16) & 0x7FFF_FFFF for line in lines]


def test_program_has_its_original_signal_mask(tmp_path: Path) -> None:
    """Python ignores SIGPIPE, and the process in front holds some back."""
    kept = Kept()
    show = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    with sink(tmp_path, kept) as address:
        run(*LOG, "--to", address, "--", *show)
    assert len(kept.lines) == 2
    assert masks(kept.lines) == masks(run(*show).stdout.splitlines())


def test_endpoint_handles_its_own_signals() -> None:
    """As without --log-to: the first SIGTERM is the program's to answer."""
    script = """
        trap "exit 9" TERM
        read -r pid name state front rest < /proc/$PPID/stat
        kill -TERM $front
        while :; do sleep 0.1; done
    """
    command = (*SERVE, "--log-to", "vsock://3:8003", "--", "sh", "-c", script)
    done = run(*SIMULATOR, "--", *command)
    assert (done.stderr, done.returncode) == ("", 9)


_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

_INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
print("ready", flush=True)
sys.stdin.readline()
"""


def test_keyboard_interrupt_arrives_once(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept) as address:
        command = (*LOG, "--to", address, "--", sys.executable, "-c", _INTERRUPTED)
        keyboard, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *command],
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        ) as agent:  # fmt: skip
            os.close(terminal)
            eventually(lambda: kept.lines == ["ready"])
            os.write(keyboard, b"\x03")
            eventually(lambda: "interrupted" in kept.lines)
            os.write(keyboard, b"\n")
            assert agent.wait(TEST_TIMEOUT) == 0
        os.close(keyboard)
    assert kept.lines == ["ready", "interrupted"]


def test_background_processes_do_not_delay_the_end(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept) as address:
        done = run(*LOG, "--to", address, "--", "sh", "-c", "sleep 600 & echo $!; exit 5")
    os.kill(int(kept.lines[0]), signal.SIGKILL)  # It is still there.
    assert done.returncode == 5


def test_exit_code_is_returned_without_standard_error(tmp_path: Path) -> None:
    out, into = os.pipe()
    os.close(out)
    command = (*LOG, "--to", f"unix:{tmp_path}/none", "--flush", "0.3", "--", "sh", "-c")
    try:
        done = subprocess.run(
            [*command, "seq 10; exit 3"],
            stdout=into,
            stderr=into,
            check=False,
            timeout=TEST_TIMEOUT,
        )
    finally:
        os.close(into)
    assert done.returncode == 3


def test_missing_program_is_reported_to_user_and_sink(tmp_path: Path) -> None:
    kept = Kept()
    with sink(tmp_path, kept) as address:
        done = run(*LOG, "--to", address, "--", "no-such-program")
    error = "enclave-agent: error: cannot run 'no-such-program': No such file or directory"
    hint = "enclave-agent: hint: is it in PATH?"
    assert (done.stdout, done.stderr.splitlines(), done.returncode) == ("", [error, hint], 252)
    assert kept.lines[0] == error


def test_late_sink_outside_the_launcher(tmp_path: Path) -> None:
    """Over simulated vsock, where a connection is refused as vsock refuses."""
    kept = Kept()
    launcher = Launcher(nsm=SimulatedNsm(Authority.generate()), folder=tmp_path)
    with launcher.start(
        [*LOG, "--flush", str(TEST_TIMEOUT), "echo", "late"], stderr=subprocess.PIPE
    ) as s:
        assert s.process.stderr
        assert b"vsock://3:8003: Connection reset by peer" in s.process.stderr.readline()
        with sink(tmp_path, kept):
            assert s.wait(TEST_TIMEOUT) == 0
    assert kept.lines == ["late"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("log",), "COMMAND is missing"),
        (("log", "--to", "nowhere", "true"), "not an address"),
        (("log", "--buffer", "1", "true"), "a log buffer of 1 bytes is out of range"),
        (("log", "--flush", "-1", "true"), "a log flush timeout of -1 s is out of range"),
        (("log", "--flush", "nan", "true"), "a log flush timeout of nan s is out of range"),
        (("serve", "--log-to", "nowhere"), "not an address"),
    ],
)
def test_invalid_options_are_rejected(words: tuple[str, ...], message: str) -> None:
    done = run(*AGENT, *words)
    assert message in done.stderr
    assert (done.stdout, done.returncode) == ("", 252)


def test_program_ends_with_the_process_in_front_of_it() -> None:
    """Killed, as by the kernel when memory runs out: its output would go nowhere."""
    program = "import os, sys, time; os.write(int(sys.argv[1]), b'x'); time.sleep(1000)"
    alive, end = os.pipe()
    with subprocess.Popen(
        [*AGENT, "log", "--to", "unix:/no/sink", "--", sys.executable, "-c", program, str(end)],
        pass_fds=[end],
        stderr=subprocess.DEVNULL,
    ) as front:
        os.close(end)
        assert os.read(alive, 1) == b"x"
        front.kill()
        assert os.read(alive, 1) == b""  # Nobody has the other end any more.
    os.close(alive)
