"""What all four commands have in common: help, versions, errors, and exit statuses.

Called in this process, but for what only a process has: its streams and its exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from enclave.cli import main as enclave_agent
from enclave_simulator.cli import main as enclave_simulator
from parent.cli import main as enclave_parent
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import AgentError
from vsock_proxy.proxy.command import main as vsock_proxy
from vsock_proxy.service.arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = {
    "enclave-agent": enclave_agent,
    "vsock-proxy": vsock_proxy,
    "enclave-parent": enclave_parent,
    "enclave-simulator": enclave_simulator,
}

PROGRAMS = {
    "enclave-agent": "from enclave.cli import main",
    "vsock-proxy": "from vsock_proxy.__main__ import main",
    "enclave-parent": "from parent.cli import main",
    "enclave-simulator": "from enclave_simulator.cli import main",
}

USAGE = {"enclave-agent": 252}
"""Exit statuses of errors of usage that are not argparse's 2."""

MISTYPED = [
    ("enclave-agent", ["genrate-random"], "generate-random"),
    ("enclave-agent", ["generate-random", "--number-of-byte=8", "--regoin", "x"], "--region"),
    ("enclave-agent", ["--regoin", "eu-west-1", "decrypt"], "--region"),
    ("enclave-agent", ["generate-random", "--output", "jsn"], "json"),
    ("enclave-agent", ["serve", "--lisen", "x"], "--listen"),
    ("enclave-agent", ["help", "descrybe"], "describe"),
    ("enclave-agent", ["helpp"], "help"),
    ("vsock-proxy", ["8000", "kms.us-east-1.amazonaws.com", "443", "--confg", "x"], "--config"),
    ("enclave-parent", ["staus"], "status"),
    ("enclave-parent", ["help", "key-policy", "explan"], "explain"),
    ("enclave-parent", ["run", "--confg", "x"], "--config"),
    ("enclave-parent", ["run", "--log-format", "jsn"], "json"),
    ("enclave-simulator", ["boto"], "boot"),
    ("enclave-simulator", ["run", "--debug-mod", "true"], "--debug-mode"),
]

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE") and not name.startswith("AWS_")
}


def command(program: str, *words: str) -> list[str]:
    script = f"import sys; sys.argv[0] = {program!r}; {PROGRAMS[program]}; sys.exit(main())"
    return [sys.executable, "-c", script, *words]


def run(program: str, *words: str, **streams: int) -> subprocess.CompletedProcess[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command(program, *words),
        env=ENVIRONMENT,
        text=True,
        check=False,
        timeout=TEST_TIMEOUT,
        **{**pipes, **streams},
    )  # type: ignore[call-overload]
    return done


class Done(NamedTuple):
    """What a command returned and printed."""

    status: int
    out: str
    err: str


class Caller:
    """Calls a program's main function."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, program: str, *words: str) -> Done:
        try:
            status = MAIN[program](list(words))
        except SystemExit as e:
            status = int(e.code or 0)
        return Done(status, *self._capsys.readouterr())


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Caller:
    monkeypatch.setenv("COLUMNS", "80")
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return Caller(capsys)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_as_an_option_and_as_a_word(call: Caller, program: str) -> None:
    option = call(program, "--help")
    assert (option.status, option.err) == (0, "")
    assert option.out.startswith(f"usage: {program} ")
    assert "--version" in option.out
    assert call(program, "help") == option


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("enclave-agent", ["decrypt"]),
        ("enclave-agent", ["serve"]),
        ("enclave-parent", ["run"]),
        ("enclave-parent", ["key-policy"]),
        ("enclave-parent", ["key-policy", "explain"]),
        ("enclave-simulator", ["kms"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_help_of_a_command_as_a_word(call: Caller, program: str, names: list[str]) -> None:
    option = call(program, *names, "--help")
    assert option.out.startswith(f"usage: {program} {' '.join(names)} ")
    assert call(program, "help", *names) == option


@pytest.mark.parametrize(
    ("program", "name"), [("enclave-agent", "decrypt"), ("enclave-parent", "run")]
)
def test_help_behind_a_command_that_takes_no_words(call: Caller, program: str, name: str) -> None:
    assert call(program, name, "help") == call(program, name, "--help")


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def parser_of(
    program: str, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> argparse.ArgumentParser:
    made: list[argparse.ArgumentParser] = []

    def parse(self: Parser, *_: object) -> None:
        made.append(self)
        self.exit(0)

    with monkeypatch.context() as patched:
        patched.setattr(Parser, "parse_args", parse)
        call(program)
    return made[0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_of_options_are_rejected_in_words(
    call: Caller, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """argparse would name the function that reads the value: "invalid _jobs value"."""
    for each in parsers(parser_of(program, call, monkeypatch)):
        for action in each._actions:
            read = action.type
            if not callable(read) or read in (int, float):  # argparse has words for these
                continue
            for text in ("", "x", "-1", "0", "9" * 5000, "²", "1\x00", "nan", "a=b=c", "\udcff"):
                with contextlib.suppress(argparse.ArgumentTypeError, AgentError):
                    read(text)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_of_every_command_fits_80_columns(
    call: Caller, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    too_wide = [
        f"{each.prog}: {line}"
        for each in parsers(parser_of(program, call, monkeypatch))
        for line in each.format_help().splitlines()
        if len(line) > 80
    ]
    assert not too_wide, "\n".join(too_wide)


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(call: Caller, program: str) -> None:
    done = call(program, "--version")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(rf"{program} \S+\n", done.out)


@pytest.mark.parametrize(("program", "words", "meant"), MISTYPED)
def test_a_mistyped_word_is_answered_with_the_nearest(
    call: Caller, program: str, words: list[str], meant: str
) -> None:
    done = call(program, *words)
    assert (done.status, done.out) == (USAGE.get(program, 2), "")
    error, advice = done.err.splitlines()
    assert error.startswith(f"{program}: error: ")
    assert advice.startswith(f"{program}: hint: did you mean {meant}? ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_errors_hold_no_control_characters(call: Caller, program: str) -> None:
    word = "--x\x1b[31mred" if program == "vsock-proxy" else "x\x1b[31mred"
    done = call(program, word)
    assert "\x1b" not in done.out + done.err
    assert r"\x1b[31mred" in done.err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["no-such-command"]])
@pytest.mark.parametrize("program", PROGRAMS)
def test_closed_pipes_change_no_exit_status(program: str, words: list[str]) -> None:
    expected = 0 if words[0].startswith("--") else USAGE.get(program, 2)
    for name in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        try:
            assert run(program, *words, **{name: write}).returncode == expected, name
        finally:
            os.close(write)


def test_log_keeps_the_exit_status_of_its_program_if_nobody_reads_its_standard_error() -> None:
    read, write = os.pipe()
    os.close(read)
    words = ("--to", "unix:/nonexistent/sink", "--flush", "0.1", "--", "sh", "-c", "seq 9; exit 3")
    try:
        assert run("enclave-agent", "log", *words, stderr=write).returncode == 3
    finally:
        os.close(write)
