"""Transcripts of the command line: what is typed, what it says, how it ends.

A file of ``transcripts/`` holds cases, separated by empty lines:

    # what the case shows
    ! SETUP ARGUMENT...     what is around the program; see SETUPS
    $ enclave-agent ...     what is typed; $DIR, $ARN and so on are those of conftest.py
    1 ...                   lines on standard output
    2 ...                   lines on standard error
    ? 252                   the exit code, unless it is 0

In expected lines `...` stands for anything. Several commands may follow one another in a case.
"""

from __future__ import annotations

import re
import shlex
import socket
import string
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from tests.paths import VECTORS
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.enclave.cli.conftest import CommandLine

FOLDER = Path(__file__).with_name("transcripts")


@dataclass
class Step:
    command: str
    expected: dict[str, list[str]] = field(default_factory=lambda: {"1": [], "2": [], "?": []})


@dataclass
class Case:
    name: str
    setups: list[list[str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def read(path: Path) -> Iterator[Case]:
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        case = Case("")
        for line in block.splitlines():
            kind, text = line[:1], line[2:]
            match kind:
                case "#":
                    case.name += text
                case "!":
                    case.setups.append(text.split())
                case "$":
                    case.steps.append(Step(text))
                case _:
                    case.steps[-1].expected[kind].append(text)
        yield case


CASES = {
    f"{path.stem}: {case.name}": case
    for path in sorted(FOLDER.glob("*.txt"))
    for case in read(path)
    if case.steps
}


def test_there_are_transcripts_and_none_is_shadowed() -> None:
    assert len(CASES) == sum(bool(c.steps) for path in FOLDER.glob("*.txt") for c in read(path))
    assert len(CASES) > 50


# What is around the program.


def fault(command_line: CommandLine, name: str) -> None:
    command_line.kms.faults.inject(name)


def nsm(command_line: CommandLine, code: str) -> None:
    if code == "none":
        command_line.has_nsm = False
    else:
        command_line.nsm.fail_with(code)


def unset(command_line: CommandLine, name: str) -> None:
    del command_line.environ[name]


def variable(command_line: CommandLine, assignment: str) -> None:
    name, _, value = assignment.partition("=")
    command_line.environ[name] = string.Template(value).substitute(command_line.variables)


def at(command_line: CommandLine, time: str) -> None:
    command_line.now = datetime.fromisoformat(time)


def vectors(command_line: CommandLine, path: str) -> None:
    folder = VECTORS
    if not folder.is_dir():
        pytest.skip("the folder of real documents, ../shared/vectors, is not here")
    command_line.variables["DOCUMENT"] = str(folder / path)


def proxy(command_line: CommandLine, how: str) -> None:
    """No proxy, one that is silent, or one that hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    command_line.dialer.target = TcpAddress("127.0.0.1", listener.getsockname()[1])
    if how == "none":
        listener.close()
        return
    command_line.stack.callback(listener.close)
    if how == "hangs-up":

        def hang_up() -> None:
            for _ in range(3):
                listener.accept()[0].close()

        listener.settimeout(TEST_TIMEOUT)
        thread = threading.Thread(target=hang_up)
        thread.start()
        command_line.stack.callback(thread.join, 20)


SETUPS: dict[str, Callable[[CommandLine, str], None]] = {
    each.__name__: each for each in (fault, nsm, unset, variable, at, vectors, proxy)
}


@pytest.mark.parametrize("name", CASES)
def test_transcript(command_line: CommandLine, name: str) -> None:
    for word, argument in CASES[name].setups:
        SETUPS[word](command_line, argument)
    for step in CASES[name].steps:
        program, *words = shlex.split(
            string.Template(step.command).substitute(command_line.variables)
        )
        assert program == "enclave-agent"
        done = command_line.run(*words)
        everything = done.out + done.err
        assert "Traceback" not in everything
        assert SIMULATED_CREDENTIALS.secret_access_key not in everything
        assert str(SIMULATED_CREDENTIALS.session_token) not in everything
        assert matches(step.expected["2"], done.err, command_line.variables), done.err
        assert matches(step.expected["1"], done.out, command_line.variables), done.out
        assert [str(done.exit_code)] == (step.expected["?"] or ["0"]), done.err
        if done.exit_code:
            assert done.out == ""
            assert re.match(r"(enclave-agent: warning: .*\n)?enclave-agent: error: ", done.err)
            assert re.search(r"^enclave-agent: hint: .", done.err, re.MULTILINE)


def matches(expected: list[str], got: str, variables: dict[str, str]) -> bool:
    """Whether the lines are those expected; `...` stands for anything but a line's end."""
    lines = (string.Template(line).substitute(variables) for line in expected)
    patterns = (".*".join(map(re.escape, line.split("..."))) for line in lines)
    return re.fullmatch("".join(f"{pattern}\n" for pattern in patterns), got) is not None
