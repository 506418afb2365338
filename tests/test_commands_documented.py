"""Every command line that a page prints, held to the parsers of the four programs."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from enclave.cli import main as agent
from enclave_simulator.cli import main as simulator
from parent.cli import main as parent
from tests.paths import ROOT
from vsock_proxy.proxy.command import main as proxy
from vsock_proxy.service import arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = {
    "enclave-agent": agent,
    "enclave-parent": parent,
    "enclave-simulator": simulator,
    "vsock-proxy": proxy,
}

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    # What once was, and what docstrings have.
    if page.name not in ("CHANGELOG.md", "api.md")
)

NOT_TYPED = {
    "enclave-parent 0.1.0: failing": "what `status` prints",
}
"""What begins like a command line and is none."""

PLACEHOLDERS = {
    "HEX": "0" * 96,
    "OLD": "0" * 96,
    "NEW": "1" * 96,
    "SHA256": "0" * 64,
    "SECONDS": "5",
    "TIME": "2026-01-01T00:00:00Z",
    "PORT": "8000",
    "COUNT": "1",
    "ADDRESS": "vsock://3:8000",
    "REGION": "eu-central-1",
    "CID": "16",
    "PID": "1",
    "N": "16",
}
"""What stands for a value in a command line, where a parser reads that value."""

MISSING = "the following arguments are required: "
"""An error of argparse's. A page may speak of a command with one of its options, and no more."""

ENDS = re.compile(r"[|&;()<>]+")


class _Parsed(BaseException):
    """The words were understood."""


def command_lines(words: str) -> Iterator[list[str]]:
    """Give what is typed of our programs in a line of a shell, also what they start themselves."""
    words = words.replace("\\\n", " ")
    words = re.sub(r"(?<=[a-z])\|[a-z]+", "", words)  # sandbox|instance: one of them
    words = re.sub(r"\[((?:--?|[A-Z])[^\]]*)\]", r"\1", words)  # an option in brackets
    try:
        lexer = shlex.shlex(words, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        lexer.whitespace_split = True
        split = list(lexer)
    except ValueError:  # a quotation mark of prose
        return
    for start, word in enumerate(split):
        if "\n" in word or (" " in word and any(name in word for name in PROGRAMS)):
            for line in word.replace("\\\n", " ").splitlines():  # of sh -c
                yield from command_lines(line)
        elif word.rpartition("/")[2] in PROGRAMS:
            rest = split[start + 1 :]
            end = next((i for i, each in enumerate(rest) if ENDS.fullmatch(each)), len(rest))
            yield [word.rpartition("/")[2], *rest[:end]]


def printed(text: str) -> Iterator[tuple[str, bool]]:
    """Give the code of a page, and whether it stands in a block, so that it can be typed."""
    fenced = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    indented = re.findall(r"(?:^    .*\n)+", prose, re.MULTILINE)
    for block in (*fenced, *indented):
        for line in _lines(block):
            yield line, True
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        yield code.replace("\n", " "), False


def _lines(block: str) -> Iterator[str]:
    """Join what a backslash or an open quotation mark continues."""
    line = ""
    for each in block.splitlines():
        line += each
        if each.endswith("\\"):
            line = line[:-1] + " "
        elif line.partition(" #")[0].count("'") % 2:
            line += "\n"
        else:
            yield line
            line = ""


def filled(argv: list[str]) -> list[str]:
    """Put values in the place of what stands for them."""
    names = "|".join(PLACEHOLDERS)
    return [
        re.sub(rf"(?<![A-Z_])({names})(?![A-Z_])", lambda found: PLACEHOLDERS[found[1]], word)
        for word in argv
    ]


def is_whole(argv: list[str]) -> bool:
    """Tell a command line from the bare name of a command, and from one that is cut short."""
    has_values = any(word.startswith("-") for word in argv[1:]) or len(argv) > 2
    return has_values and not any("..." in word for word in argv)


EXAMPLES = [
    pytest.param(argv, whole, id=f"{page.relative_to(ROOT)}: {shlex.join(argv)}")
    for page in PAGES
    for argv, whole in dict.fromkeys(
        (tuple(argv), in_block)
        for code, in_block in printed(page.read_text(encoding="utf-8"))
        for argv in command_lines(code)
    )
    if is_whole(list(argv)) and shlex.join(argv) not in NOT_TYPED
]


def test_what_is_taken_for_a_command_line() -> None:
    page = """
    enclave-agent serve \\
        --secret-env FILE -- ./my-program | cat   # --comment
    enclave-simulator run -- sh -c '
      enclave-agent attest > a.bin
      vsock-proxy -w 1 8000 h 443' && true

Of `enclave-agent verify --pcr0\nHEX`, [`x`](y) and `vsock-proxy`.
"""
    found = [(argv, whole) for code, whole in printed(page) for argv in command_lines(code)]
    script = "\n      enclave-agent attest > a.bin\n      vsock-proxy -w 1 8000 h 443"
    assert found == [
        (["enclave-agent", "serve", "--secret-env", "FILE", "--", "./my-program"], True),
        (["enclave-simulator", "run", "--", "sh", "-c", script], True),
        (["enclave-agent", "attest"], True),
        (["vsock-proxy", "-w", "1", "8000", "h", "443"], True),
        (["enclave-agent", "verify", "--pcr0", "HEX"], False),
        (["vsock-proxy"], False),
    ]


AS_OF_THE_AWS_CLI = re.compile(r"parameters of KMS |all parameters|options of every")
"""Groups of options that are the AWS CLI's, but for a few that README has."""


def options_of(parser: argparse.ArgumentParser, command: str) -> Iterator[tuple[str, list[str]]]:
    """Give each option of a program and its commands: where, and its names."""
    for group in parser._action_groups:
        if AS_OF_THE_AWS_CLI.match(group.title or ""):
            continue
        for action in group._group_actions:
            names = list(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                for name, subparser in action.choices.items():
                    yield from options_of(subparser, f"{command} {name}")
            elif names and action.help != argparse.SUPPRESS and "--help" not in names:
                yield command, names


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_is_on_a_page(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parser(BaseException):
        """Leaves with the whole parser."""

    def parse_args(self: arguments.Parser, *_: Any) -> NoReturn:
        raise Parser(self)

    monkeypatch.setattr(arguments.Parser, "parse_args", parse_args)
    with pytest.raises(Parser) as left:
        PROGRAMS[program]([])
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    unknown = [
        f"{command} {names[0]}"
        for command, names in options_of(left.value.args[0], program)
        # --pcr0 and --pcr N=HEX stand for the others.
        if not any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for name in names)
        and not re.fullmatch(r"--pcr\d+", names[0])
    ]
    assert unknown == []


@pytest.fixture
def parses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs end where they would begin."""
    parse = arguments.Parser.parse_args

    def parse_args(self: arguments.Parser, *words: Any) -> NoReturn:
        parse(self, *words)
        raise _Parsed

    monkeypatch.setattr(arguments.Parser, "parse_args", parse_args)


@pytest.mark.usefixtures("parses_alone")
@pytest.mark.parametrize(("argv", "whole"), EXAMPLES)
def test_every_command_line_of_a_page_is_understood(
    argv: tuple[str, ...], whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = filled(list(argv))
    status: object
    with contextlib.suppress(_Parsed):
        try:
            status = PROGRAMS[program](words)
        except SystemExit as e:  # of --help, --version, --print-completion and --fault help
            status = e.code
        error = capsys.readouterr().err
        assert status == 0 or (not whole and MISSING in error), error
