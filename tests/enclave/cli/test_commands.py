"""The table of commands, their help, and errors of the command line."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from enclave.cli import MODULES, main
from enclave.cli.generate_random import PARAMETERS
from enclave.cli.model import operation_model, parameters
from enclave.cli.options import Parser, common_options
from enclave.recipient.exchange import SECRET_FIELD
from enclave_simulator.cli import main as enclave_simulator
from tests.enclave.cli.conftest import CommandLine
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.proxy.command import main as vsock_proxy
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")


def subparsers() -> Mapping[str, argparse.ArgumentParser]:
    action = Parser(prog="enclave-agent").add_subparsers()
    common = common_options()
    for module in dict.fromkeys(MODULES.values()):
        import_module(module).add_parser(action, common)
    return action.choices


def test_the_table_names_what_the_modules_add() -> None:
    assert set(subparsers()) == set(MODULES)
    for name, module in MODULES.items():
        assert name in import_module(module).COMMANDS


def test_what_is_written_down_of_generate_random_is_what_the_model_says() -> None:
    ours = [(each.name, each.kind, each.required) for each in PARAMETERS]
    assert ours == [(e.name, e.kind, e.required) for e in parameters("GenerateRandom")]


@pytest.mark.parametrize("operation", SECRET_FIELD)
def test_the_model_holds_nothing_we_do_not_read(operation: str) -> None:
    """Structures of strings and blobs, maps and lists of strings: a newer model may have more."""
    for name, shape in operation_model(operation).input_shape.members.items():
        match shape.type_name:
            case "structure":
                kinds = {member.type_name for member in shape.members.values()}
                assert kinds <= {"string", "blob"}, name
            case "map":
                assert shape.value.type_name == "string", name
            case "list":
                assert shape.member.type_name == "string", name
            case kind:
                assert kind in {"string", "blob", "integer", "boolean"}, name


@pytest.mark.parametrize("name", MODULES)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        subparsers()[name].parse_args(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: enclave-agent {name}")


@pytest.mark.parametrize("argv", [["--version"], ["generate-random", "--version"]])
def test_the_version_before_a_command_and_behind_it(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"enclave-agent {VERSION}\n"


def test_only_what_a_command_needs_is_imported() -> None:
    """generate-random needs no service model, describe no KMS, and --help neither; serve loads
    asyncio while the key pair is made.
    """
    script = (
        "import sys, enclave.cli\n"
        "enclave.cli._parse(sys.argv[1:])\n"
        "print(*sorted({'botocore.model', 'jmespath', 'yaml', 'urllib3', 'cryptography',"
        " 'pycose', 'asyncio'} & set(sys.modules)))"
    )

    def imported(*words: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True, text=True, check=True, timeout=TEST_TIMEOUT,
        )  # fmt: skip
        return set(done.stdout.split())

    assert not imported("generate-random", "--number-of-bytes", "1") & {
        "botocore.model", "jmespath", "yaml", "pycose",
    }  # fmt: skip
    assert not imported("describe")
    assert not imported("verify")
    assert "asyncio" not in imported("serve")


# README and --help agree.


def readme_commands() -> list[str]:
    """Each command of the README's indented and fenced blocks; a trailing backslash goes on."""
    lines = re.sub(r"\\\n\s*", " ", README).splitlines()
    programs = ("enclave-agent ", "vsock-proxy ", "enclave-simulator ")
    blocks = (line.strip().removeprefix("$ ") for line in lines if line.startswith(("    ", "$ ")))
    return [line for line in blocks if line.startswith(programs)]


def options(words: list[str]) -> set[str]:
    """The options of one command line, up to a pipe."""
    ends = itertools.takewhile(lambda word: word not in ("|", ">", "#", "&&", "&"), words)
    return {word.partition("=")[0] for word in ends if re.match(r"--[a-z]", word)}


def help_of(program: str, *words: str) -> str:
    mains: dict[str, Callable[[list[str]], int]] = {
        "enclave-agent": main,
        "vsock-proxy": vsock_proxy,
        "enclave-simulator": enclave_simulator,
    }
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        mains[program]([*words, "--help"])
    return printed.getvalue()


def test_the_readmes_commands_and_help_agree() -> None:
    commands = readme_commands()
    assert len(commands) > 3, "the test looks where there is nothing"
    for line in commands:
        # `enclave-simulator run ... -- enclave-agent ...` is two commands.
        for part in re.split(r" -- (?=enclave-agent|vsock-proxy)", line):
            program, *words = shlex.split(part, comments=True)
            if program == "vsock-proxy" or (words and words[0].startswith("--")):
                known = help_of(program)
            elif words and re.fullmatch("[a-z-]+", words[0]):
                known = help_of(program, words[0])
            else:
                continue  # an error line in an example
            for option in options(words):
                assert re.search(rf"{option}\b(?!-)", known), f"{option} of: {line}"


def test_the_readmes_option_table_and_help_agree() -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", README))
    known = "".join(
        help_of(*command)
        for command in (
            ("enclave-agent", "generate-random"),
            ("vsock-proxy",),
            ("enclave-simulator", "run"),
            ("enclave-simulator", "kms"),
        )
    ) + "".join(parser.format_help() for parser in subparsers().values())
    unknown = {option for option in named if not re.search(rf"{option}\b(?!-)", known)}
    assert not unknown


# As processes.


def test_the_documented_pipeline(tmp_path: Path) -> None:
    agent = f"{shlex.quote(sys.executable)} -m enclave.cli"
    simulator = f"{shlex.quote(sys.executable)} -m enclave_simulator.cli"
    script = (
        f"{simulator} run -- {agent} generate-random --number-of-bytes 32 --output text "
        "--query Plaintext | base64 --decode > ExampleRandom"
    )
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
        timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert len((tmp_path / "ExampleRandom").read_bytes()) == 32


def test_bytes_are_not_for_a_terminal(command_line: CommandLine) -> None:
    """As a process on a pseudo-terminal, for the code asks the real standard output."""
    simulator = [sys.executable, "-m", "enclave_simulator.cli", "run", "--no-services", "--"]
    attest = [sys.executable, "-m", "enclave.cli", "attest", "--output-file", "-"]
    parent, child = os.openpty()
    try:
        done = subprocess.run(
            [*simulator, *attest], stdout=child, stderr=subprocess.PIPE, text=True,
            timeout=TEST_TIMEOUT, check=False, cwd=ROOT,
        )  # fmt: skip
        os.set_blocking(parent, False)
        with pytest.raises(BlockingIOError):
            os.read(parent, 1)
    finally:
        os.close(parent)
        os.close(child)
    assert done.returncode == 252
    assert "binary output is not for a terminal" in done.stderr


def test_a_document_in_base64_verifies_from_standard_input(tmp_path: Path) -> None:
    simulator = [sys.executable, "-m", "enclave_simulator.cli", "run", "--no-services", "--"]
    agent = [sys.executable, "-m", "enclave.cli"]
    attested = subprocess.run(
        [*simulator, *agent, "attest", "--nonce", "0102"],
        capture_output=True, check=True, timeout=TEST_TIMEOUT, cwd=ROOT,
    )  # fmt: skip
    assert base64.b64decode(attested.stdout)
    verified = subprocess.run(
        [*agent, "verify", "--nonce", "0103"],
        input=attested.stdout, capture_output=True, check=False, timeout=TEST_TIMEOUT, cwd=ROOT,
    )  # fmt: skip
    assert verified.returncode == 255
    assert verified.stderr.count(b"enclave-agent: error: attestation document refused: ") == 2


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "enclave.cli", "decrypt", "--generate-cli-skeleton"],
            stdout=closed, stderr=subprocess.PIPE, check=False, timeout=TEST_TIMEOUT, cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (255, b"")


def test_a_bug_is_two_lines(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("with a secret in it")

    monkeypatch.setattr(CommandLine, "agent", fail)
    done = command_line.run("generate-random", "--number-of-bytes", "8")
    assert done.err.splitlines() == [
        "enclave-agent: error: internal error: LookupError",
        "enclave-agent: hint: this is a bug in enclave-agent: please report what --debug shows",
    ]
    assert (done.exit_code, done.out) == (255, "")
    debugged = command_line.run("generate-random", "--number-of-bytes", "8", "--debug")
    assert "Traceback" in debugged.err


def test_describe_fits_80_columns(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = command_line.run("describe").out.splitlines()
    assert max(map(len, lines)) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(len, command_line.run("describe").out.splitlines())) > 100


@pytest.mark.parametrize(
    ("variables", "option", "coloured"),
    [({}, "on", True), ({}, "off", False), ({}, "auto", False), ({"NO_COLOR": "1"}, "on", True)],
)
def test_colour_in_a_pipe(
    command_line: CommandLine, variables: dict[str, str], option: str, coloured: bool
) -> None:
    command_line.environ.update(variables)
    assert ("\x1b[" in command_line.run("describe", "--color", option).out) == coloured


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_on_a_terminal(
    command_line: CommandLine, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command_line.environ.update({"TERM": "xterm", "NO_COLOR": no_color})
    assert ("\x1b[" in command_line.run("describe").out) == coloured
