"""What a command prints for people: error, hint and warning lines; and its exit status, kept.

Every command of this project complains in the same way: ``NAME: error: ...`` and, on the next
line, ``NAME: hint: ...``, both on standard error. Parts of a message may come from a hostile
peer, so control characters are escaped. Printing a complaint never fails: standard error may be
closed, full, or a pipe that nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from vsock_proxy.errors import AgentError
from vsock_proxy.service.scarcity import hint_of, scarcity

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TextIO

    P = ParamSpec("P")


def terminal_width(otherwise: int = 80) -> int:
    """Return the columns of the terminal, or of the variable COLUMNS; as shutil does.

    Args:
        otherwise: if standard output is no terminal.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns[:9]):
        return int(columns[:9])
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or otherwise  # type: ignore[union-attr]
    return otherwise


def complain(program: str, error: AgentError | str, hint: str = "") -> None:
    """Print an error and its hint on standard error.

    Args:
        program: the command's name, which begins each line.
        error: a message, or an error of this project; one with several `errors` (of one
            configuration, for example) is printed as all of them.
        hint: replaces the error's own hint.
    """
    lines = []
    for each in getattr(error, "errors", (error,)):
        lines.append(f"{program}: error: {printable(str(each))}\n")
        advice = hint or (hint_of(each) if isinstance(each, AgentError) else "")
        if advice:
            lines.append(f"{program}: hint: {printable(advice)}\n")
    _print("".join(lines))


def inform(program: str, text: str) -> None:
    """Print a line on standard error."""
    _print(f"{program}: {printable(text)}\n")


def warn(program: str, text: str) -> None:
    """Print a warning line on standard error."""
    _print(f"{program}: warning: {printable(text)}\n")


def hint(program: str, text: str) -> None:
    """Print a hint line on standard error, unless `text` is empty."""
    if text:
        _print(f"{program}: hint: {printable(text)}\n")


def show(text: str) -> None:
    """Print what another program said on standard error, line by line, indented."""
    _print("".join(f"    {printable(line)}\n" for line in text.splitlines()))


def printable(text: str) -> str:
    """Return `text` with control characters, line ends included, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def keep_exit_status(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command's main function: its exit status survives its standard streams.

    Python flushes standard output and standard error when it ends. If that fails, because a pipe
    is closed, for example, it exits with status 120, whatever the program returned. The flush is
    done here instead. A status other than 0 is kept always. A status of 0 becomes 1 only if what
    was printed on standard output is lost for another reason than that its reader closed it.

    An interrupt of the keyboard is status 130, also while modules load; no traceback is printed.

    An error that says that the machine or the process lacks something, whichever code it came
    from, is one error line with its hint, and status 1.

    A standard descriptor that is closed at the start is opened on the null device: the next file
    or connection would get its number otherwise, and receive what is printed.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        _replace_closed_streams()
        try:
            status = main(*args, **kwargs)
        except SystemExit as e:  # argparse: --help, --version
            lost = _flush_standard_streams()
            if lost and not e.code:
                return output_lost(lost)
            raise
        except KeyboardInterrupt:
            _flush_standard_streams()
            return 130  # 128 + SIGINT
        except BaseException as e:
            lack = scarcity(e) if isinstance(e, Exception) else None
            if lack is not None:
                complain(_program(), lack)
            _flush_standard_streams()
            if lack is None:
                raise
            return 1
        lost = _flush_standard_streams()
        return output_lost(lost) if lost and not status else status

    return run


def output_lost(error: OSError) -> int:
    """Complain that standard output cannot be printed on; return the exit status."""
    if error.errno == errno.EPIPE:
        return 0
    complain(
        _program(),
        f"cannot print on standard output: {error.strerror}",
        "is it open, and is there space where it leads?",
    )
    return 1


def _program() -> str:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 (a word, not a path)
    return name or "error"


def _replace_closed_streams() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()  # Python's, if it was closed at the start
    if sys.stderr is None:
        # print(file=None) means standard output, where no error line belongs.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


class _ClosedOutput(io.TextIOBase):
    """Standard output that was closed at the start: writing fails as write(2) would."""

    @property
    def buffer(self) -> _ClosedOutput:
        return self

    def write(self, _data: object) -> NoReturn:
        raise OSError(errno.EBADF, "it is closed")


def _flush_standard_streams() -> OSError | None:
    """Flush both; return the error of standard output, if there is one."""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as e:
            if stream is sys.stdout:
                lost = e
            _discard(stream)
        except ValueError:  # closed by the program
            pass
    return lost


def _discard(stream: TextIO) -> None:
    """Let what the stream still holds go to the null device when Python flushes it."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()
