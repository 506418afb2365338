"""The parser of every command: prefixes, suggestions, and `help` as a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.service.arguments import Parser, suggestion


def parser() -> Parser:
    made = Parser(prog="prog")
    made.add_argument("--region")
    made.add_argument("--quiet", action="store_true")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run")
    run.add_argument("--output", choices=("json", "text"))
    run.add_argument("--index", required=True)
    wrap = commands.add_parser("wrap")
    wrap.add_argument("words", nargs="*")
    return made


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("", "the following arguments are required: COMMAND", "see prog --help"),
        ("rum", "there is no command 'rum'", "did you mean run? see prog --help"),
        ("xyz", "there is no command 'xyz'", "see prog --help"),
        ("--regoin x run", "unrecognized arguments: --regoin", "did you mean --region? "),
        ("--reg x run", "unrecognized arguments: --reg", "did you mean --region? "),
        ("run --index 1 --outputs x", "unrecognized arguments: --outputs x", "--output? "),
        ("run --index 1 --output=jsn", "invalid choice: 'jsn'", "did you mean json? see prog run"),
        ("run --index 1 x y", "unrecognized arguments: x y", "see prog run --help"),
        ("help rum", "there is no command 'rum'", "did you mean run? "),
    ],
)
def test_errors_have_hints(
    words: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words.split())
    assert caught.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("prog: error: ")
    assert error in first
    assert second.startswith("prog: hint: ")
    assert hint in second


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("help", "usage: prog [-h]"),
        ("--region x help", "usage: prog [-h]"),
        ("help run", "usage: prog run"),
        ("run help", "usage: prog run"),
        ("run --index 1 help", "usage: prog run"),
        ("help wrap", "usage: prog wrap"),
    ],
)
def test_help_is_a_word(words: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words.split())
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(usage)


def test_help_is_left_to_commands_that_take_words() -> None:
    assert parser().parse_args(["wrap", "help"]).words == ["help"]


def test_a_command_may_say_that_help_is_no_word_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = Parser(prog="prog", help_word=True)
    made.add_argument("port", nargs="?")
    with pytest.raises(SystemExit):
        made.parse_args(["help"])
    assert capsys.readouterr().out.startswith("usage: prog")
    assert made.parse_args(["8000"]).port == "8000"


def test_prefixes_are_taken_if_asked_for() -> None:
    made = Parser(prog="prog", allow_abbrev=True)
    made.add_argument("--number-of-bytes")
    assert made.parse_args(["--num", "8"]).number_of_bytes == "8"


@given(st.text(max_size=40))
def test_a_known_word_is_what_is_meant(word: str) -> None:
    found = suggestion(word, ["run", "status", "--config"])
    assert found in ("", *(f"did you mean {each}? " for each in ("run", "status", "--config")))
    assert suggestion("status", ["run", "status"]) == "did you mean status? "
