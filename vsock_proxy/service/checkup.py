"""Checks of a machine's state, each bounded by a deadline and apart from the others; a table."""

from __future__ import annotations

import enum
import os
import textwrap
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsock_proxy.errors import AgentError
from vsock_proxy.service.console import printable
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WIDTH = 100
"""Columns of a terminal of which nothing is known."""

_MIN_TEXT = 20


class Verdict(enum.Enum):
    """What a check found."""

    PASS = "pass"  # noqa: S105 (a verdict)
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It was not made: what it needs is missing, or is not to be seen from here."""


_COLOURS = {
    Verdict.PASS: "\x1b[32m",
    Verdict.WARN: "\x1b[33m",
    Verdict.FAIL: "\x1b[31m",
    Verdict.SKIP: "\x1b[2m",
}
_RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in words, and what to do about it."""

    verdict: Verdict
    text: str
    hint: str = ""


def passed(text: str) -> Finding:
    """Return that all is as it should be."""
    return Finding(Verdict.PASS, text)


def warned(text: str, hint: str = "") -> Finding:
    """Return that something may become a problem."""
    return Finding(Verdict.WARN, text, hint)


def failed(text: str, hint: str = "") -> Finding:
    """Return that something does not work."""
    return Finding(Verdict.FAIL, text, hint)


def skipped(text: str) -> Finding:
    """Return that the check was not made, and why."""
    return Finding(Verdict.SKIP, text)


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: of the table.
        look: makes it. An `AgentError` or `OSError` is a failure.
        needs: names of checks before it that must not have failed or been skipped.
    """

    name: str
    look: Callable[[], Finding]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """A check, made."""

    name: str
    finding: Finding
    seconds: float


def examine(checks: Iterable[Check], *, timeout: float) -> Iterator[Examined]:
    """Make the checks one after the other, and yield what each found.

    A check that has not ended after `timeout` seconds is a failure, and is left behind: its thread
    ends with the process.
    """
    usable: set[str] = set()
    for check in checks:
        started = time.monotonic()
        missing = [name for name in check.needs if name not in usable]
        finding = skipped(f"needs: {', '.join(missing)}") if missing else _look(check, timeout)
        if finding.verdict in (Verdict.PASS, Verdict.WARN):
            usable.add(check.name)
        yield Examined(check.name, finding, time.monotonic() - started)


def _look(check: Check, timeout: float) -> Finding:
    found: list[Finding] = []

    def look() -> None:
        try:
            found.append(check.look())
        except AgentError as e:
            found.append(failed(str(e), e.hint))
        except OSError as e:
            name = f"{os.fsdecode(e.filename)}: " if isinstance(e.filename, str | bytes) else ""
            found.append(failed(f"{name}{e.strerror or type(e).__name__}"))
        except Exception as e:  # noqa: BLE001 (one check must not end the others)
            # Its text could be anything: only the type is told.
            found.append(failed(f"internal error: {type(e).__name__}", "please report this"))

    thread = threading.Thread(target=look, name=f"check: {check.name}", daemon=True)
    try:
        start_thread(thread)
    except AgentError as e:
        return failed(str(e), e.hint)
    thread.join(timeout)
    return found[0] if found else failed(f"no result within {timeout:g} s")


def status(examined: Iterable[Examined]) -> Verdict:
    """Return the worst verdict; PASS if nothing was found."""
    verdicts = {each.finding.verdict for each in examined}
    for verdict in (Verdict.FAIL, Verdict.WARN):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS


def row(each: Examined, names: Sequence[str], *, width: int, colour: bool = False) -> str:
    """Return the lines of one check: name, verdict, what was found, and the hint below it.

    Args:
        each: the check.
        names: of all checks, for the width of the column.
        width: columns of the terminal.
        colour: colour the verdict.
    """
    verdict = each.finding.verdict
    column = max(map(len, names))
    left = f"{each.name:<{column}}  {verdict.value}  "
    lines = _wrapped(left, printable(each.finding.text), width)
    if each.finding.hint:
        indent = " " * len(left)
        lines += _wrapped(f"{indent}hint: ", printable(each.finding.hint), width, len(indent) + 2)
    text = "".join(f"{line}\n" for line in lines)
    if colour:
        at = column + 2
        told = f"{_COLOURS[verdict]}{verdict.value}{_RESET}"
        text = f"{text[:at]}{told}{text[at + len(verdict.value) :]}"
    return text


def heading(names: Sequence[str]) -> str:
    """Return the first line of the table."""
    return f"{'CHECK':<{max(map(len, names))}}        FOUND\n"


def as_json(examined: Sequence[Examined]) -> dict[str, Any]:
    """Return the checks as JSON types."""
    return {
        "status": status(examined).value,
        "checks": [
            {
                "name": each.name,
                "verdict": each.finding.verdict.value,
                "finding": each.finding.text,
                "hint": each.finding.hint,
                "seconds": round(each.seconds, 3),
            }
            for each in examined
        ],
    }


def _wrapped(first: str, text: str, width: int, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(first) + _MIN_TEXT),
        initial_indent=first,
        subsequent_indent=" " * (indent or len(first)),
        break_on_hyphens=False,
        break_long_words=False,  # A PCR is copied from here, as one word.
    ) or [first.rstrip()]
