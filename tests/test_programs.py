"""What all four commands have in common: help, versions, errors, and exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

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
    ("vsock-proxy", ["8000", "kms.us-east-1.amazonaws.com", "443", "--confg", "x"], "--config"),
    ("enclave-parent", ["staus"], "status"),
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
        timeout=100,
        **{**pipes, **streams},
    )  # type: ignore[call-overload]
    return done


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_as_an_option_and_as_a_word(program: str) -> None:
    option, word = run(program, "--help"), run(program, "help")
    assert (option.returncode, option.stderr) == (0, "")
    assert (word.returncode, word.stdout, word.stderr) == (0, option.stdout, "")
    assert "--version" in option.stdout


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("enclave-agent", "decrypt"),
        ("enclave-agent", "serve"),
        ("enclave-parent", "run"),
        ("enclave-simulator", "kms"),
    ],
)
def test_help_of_a_command_as_a_word(program: str, name: str) -> None:
    option, word = run(program, name, "--help"), run(program, "help", name)
    assert option.stdout.startswith(f"usage: {program} {name}")
    assert (word.returncode, word.stdout, word.stderr) == (0, option.stdout, "")


@pytest.mark.parametrize(
    ("program", "name"), [("enclave-agent", "decrypt"), ("enclave-parent", "run")]
)
def test_help_behind_a_command_that_takes_no_words(program: str, name: str) -> None:
    assert run(program, name, "help").stdout == run(program, name, "--help").stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str) -> None:
    done = run(program, "--version")
    assert done.returncode == 0
    assert re.fullmatch(rf"{program} \S+\n", done.stdout)


@pytest.mark.parametrize(("program", "words", "meant"), MISTYPED)
def test_a_mistyped_word_is_answered_with_the_nearest(
    program: str, words: list[str], meant: str
) -> None:
    done = run(program, *words)
    assert (done.returncode, done.stdout) == (USAGE.get(program, 2), "")
    error, advice = done.stderr.splitlines()
    assert error.startswith(f"{program}: error: ")
    assert advice.startswith(f"{program}: hint: did you mean {meant}? ")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["no-such-command"]])
@pytest.mark.parametrize("program", PROGRAMS)
def test_closed_pipes_change_no_exit_status(program: str, words: list[str]) -> None:
    expected = run(program, *words).returncode
    for name in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        try:
            assert run(program, *words, **{name: write}).returncode == expected, name
        finally:
            os.close(write)


@pytest.mark.parametrize("program", PROGRAMS)
def test_errors_hold_no_control_characters(program: str) -> None:
    word = "--x\x1b[31mred" if program == "vsock-proxy" else "x\x1b[31mred"
    done = run(program, word)
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[31mred" in done.stderr


def test_log_keeps_the_exit_status_of_its_program_if_nobody_reads_its_standard_error() -> None:
    read, write = os.pipe()
    os.close(read)
    words = ("--to", "unix:/nonexistent/sink", "--flush", "0.1", "--", "sh", "-c", "seq 9; exit 3")
    try:
        assert run("enclave-agent", "log", *words, stderr=write).returncode == 3
    finally:
        os.close(write)
