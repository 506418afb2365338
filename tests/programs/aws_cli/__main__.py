"""Compare AWS CLI version 2 with ``enclave-agent``: output and exit code.

Both are given the command lines of ``invocations.txt`` and one simulated KMS; the AWS CLI calls it
without attestation. Each difference has a row, with its reason, in docs/cli-differences.md: the
first column has patterns (fnmatch) of command lines. Arguments choose the lines that hold one of
them.

Exit status: 0 if every difference has its row and every row its difference; 1 if not; 0, with a
line that says so, if there is no AWS CLI to be had here.
"""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.paths import ROOT
from tests.programs.aws_cli.expansion import expand
from tests.programs.aws_cli.folder import UnavailableError, python_of_aws_cli
from tests.programs.aws_cli.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
DIFFERENCES = ROOT / "docs" / "cli-differences.md"

_VARIABLE = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)
_CIPHERTEXT = re.compile(r"AQICA[A-Za-z0-9+/]{40,}={0,2}")
_RESET = "\x1b[0m"


class Result(NamedTuple):
    """What one program did."""

    exit_code: int
    out: str
    err: str


@dataclass(frozen=True)
class Invocation:
    """A command line, and the variables before it; ``""`` removes one."""

    line: str
    words: list[str]
    variables: dict[str, str]

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in {**base, **self.variables}.items() if value}


def main(arguments: list[str]) -> int:
    """Compare, report, and return the exit status."""
    try:
        command, variables = python_of_aws_cli()
    except UnavailableError as e:
        print(f"test-aws-cli: SKIPPED: {e}")
        return 0
    rows = [re.findall(r"`([^`]+)`", row) for row in table_rows()]
    used: Counter[int] = Counter()
    total = unexplained = 0
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        server = subprocess.Popen(
            [*command, str(HERE / "server.py")],
            env={**variables, "HOME": str(world.environ["HOME"])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with server:
            for each in invocations(world.variables):
                if arguments and not any(part in each.line for part in arguments):
                    continue
                total += 1
                environ = each.environ(world.environ)
                ours = Result(*world.run(each.words, environ))
                theirs = ask(server, aws_words(each.words), environ, folder)
                if shown(ours) == shown(theirs):
                    continue
                row = explaining(each.line, rows)
                if row is not None:
                    used[row] += 1
                    continue
                unexplained += 1
                print(f"\n$ {each.line}")
                print(f"  aws            {brief(theirs)}\n  enclave-agent  {brief(ours)}")
            assert server.stdin
            server.stdin.close()
    stale = [] if arguments else [row for row in range(len(rows)) if not used[row]]
    for row in stale:
        print(f"test-aws-cli: no difference is explained by {rows[row]}")
    print(
        f"test-aws-cli: {total} command lines: {total - unexplained - used.total()} the same, "
        f"{used.total()} differ as docs/cli-differences.md says, {unexplained} differ otherwise"
    )
    return int(bool(unexplained or stale))


def table_rows() -> list[str]:
    """Return the first column of the table of differences."""
    lines = DIFFERENCES.read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[0] for line in lines if line.startswith("| `")]


def invocations(variables: Mapping[str, str]) -> Iterator[Invocation]:
    """Read the command lines."""
    for text in (HERE / "invocations.txt").read_text(encoding="utf-8").splitlines():
        if not text or text.startswith("#"):
            continue
        for words in expand(text):
            line = " ".join(word or "''" for word in words)
            filled = [string.Template(word).safe_substitute(variables) for word in words]
            given: dict[str, str] = {}
            while filled and (match := _VARIABLE.fullmatch(filled[0])):
                given[match[1]] = match[2]
                filled.pop(0)
            yield Invocation(line, filled, given)


def aws_words(words: list[str]) -> list[str]:
    """Put ``kms`` where the AWS CLI has it: before the command."""
    at = 0
    while at < len(words) and words[at].startswith("--"):
        at += 2
    return [*words[:at], "kms", *words[at:]]


def ask(
    server: subprocess.Popen[str], words: list[str], environ: Mapping[str, str], folder: str
) -> Result:
    """Have the AWS CLI run."""
    assert server.stdin
    assert server.stdout
    request = {"words": words, "environ": dict(environ), "folder": folder}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Result(**json.loads(server.stdout.readline()))


def shown(result: Result) -> tuple[int, str]:
    """Return what is compared: not how ciphertexts differ by chance, nor resets of no colour."""
    out = _CIPHERTEXT.sub(lambda match: "C" * len(match[0]), result.out)
    return result.exit_code, out.replace(_RESET, "")


def explaining(line: str, rows: list[list[str]]) -> int | None:
    """Return the number of the row whose pattern a command line has."""
    for number, patterns in enumerate(rows):
        if any(fnmatchcase(line, pattern) for pattern in patterns):
            return number
    return None


def brief(result: Result) -> str:
    """Return a line for a person."""
    return f"{result.exit_code} {result.out[:300]!r} {result.err[:300]!r}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
