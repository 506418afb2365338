"""Error lines of every command, and exit statuses that survive closed standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import AgentError
from vsock_proxy.service.console import complain, hint, printable, warn

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = """
import sys
from vsock_proxy.service.console import complain, keep_exit_status

@keep_exit_status
def main():
    {body}

sys.exit(main())
"""

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
}


def run(body: str, **streams: object) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env=ENVIRONMENT,
        text=True,
        check=False,
        timeout=TEST_TIMEOUT,
        **streams,
    )  # type: ignore[call-overload]
    return done


class SeveralError(AgentError):
    errors = (AgentError("one", hint="first"), AgentError("two"))


@pytest.mark.parametrize(
    ("error", "advice", "lines"),
    [
        ("no such file", "", ["x: error: no such file"]),
        ("no such file", "name one", ["x: error: no such file", "x: hint: name one"]),
        (AgentError("lost", hint="look"), "", ["x: error: lost", "x: hint: look"]),
        (AgentError("lost", hint="look"), "go", ["x: error: lost", "x: hint: go"]),
        (SeveralError("all"), "", ["x: error: one", "x: hint: first", "x: error: two"]),
        ("/x\x1b[31mred\n", "", [r"x: error: /x\x1b[31mred\n"]),
    ],
)
def test_error_lines(
    error: AgentError | str, advice: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    complain("x", error, advice)
    assert capsys.readouterr().err.splitlines() == lines


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@pytest.mark.parametrize("stream", [None, "closed"])
@pytest.mark.parametrize("print_line", [complain, warn, hint])
def test_complaints_never_fail(
    stream: str | None, print_line: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if stream is not None:
        with open(os.devnull, "w", encoding="utf-8") as file:  # noqa: PTH123
            pass
        monkeypatch.setattr(sys, "stderr", file)
    else:
        monkeypatch.setattr(sys, "stderr", None)
    print_line("x", "trouble")


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_status_survives_a_closed_pipe(status: int, name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        body = f"sys.{name}.write('text'); return {status}"
        other = "stderr" if name == "stdout" else "stdout"
        done = run(body, **{name: pipe, other: subprocess.PIPE})
    assert done.returncode == status
    assert not (done.stdout or "") + (done.stderr or "")


@pytest.mark.parametrize(("status", "expected"), [(0, 1), (3, 3)])
def test_lost_output_is_a_failure(status: int, expected: int) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = run(f"print('text'); return {status}", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == expected
    if not status:
        assert ": error: cannot print on standard output: No space left" in done.stderr


def test_status_survives_a_full_standard_error() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = run("complain('x', 'y'); return 3", stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (3, "")


def shell(body: str, redirection: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, SCRIPT.format(body=body)],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
    )  # fmt: skip


def test_errors_do_not_go_to_standard_output_if_standard_error_is_closed() -> None:
    done = shell("print('secret?', file=sys.stderr); complain('x', 'y'); return 3", "2>&-")
    assert (done.returncode, done.stdout) == (3, "")


def test_closed_descriptors_are_not_given_to_files() -> None:
    body = "f = open('/dev/zero'); print(f.fileno()); return 0"
    done = shell(body, "<&- 2>&-")
    assert done.returncode == 0
    assert int(done.stdout) > 2


def test_a_closed_standard_output_is_an_error_of_writing() -> None:
    done = shell("sys.stdout.write('x'); return 0", ">&-")
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert shell("return 3", ">&-").returncode == 3


def test_help_into_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = run(
            "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
            stdout=pipe, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


INTERRUPTED = """
import importlib, os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever pytest was started with
sys.meta_path.insert(0, Interrupt())
module, function = sys.argv[1].split(":")
main = getattr(importlib.import_module(module), function)
sys.argv[1:] = ["--help"]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [("vsock_proxy.service.entries:enclave_agent", "enclave.cli"),
     ("vsock_proxy.service.entries:enclave_parent", "parent.cli"),
     ("vsock_proxy.__main__:main", "vsock_proxy.proxy.command"),
     ("enclave_simulator.cli:main", "enclave_simulator.kms.command")],
)  # fmt: skip
def test_an_interrupt_while_modules_load_is_no_traceback(program: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("sys.argv[2]", repr(module)), program],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 130)
