"""What reaches the person at the terminal: output, error lines, log lines."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROG = "enclave-agent"


def write(answer: str | bytes) -> None:
    """Print all of an answer on standard output.

    Raises:
        ConfigurationError: bytes are not for a terminal.
        OSError: it cannot be printed.
    """
    if isinstance(answer, str):
        try:
            sys.stdout.write(answer)
        except UnicodeEncodeError as e:
            raise ConfigurationError(
                f"cannot print the answer in {sys.stdout.encoding}", hint="set PYTHONUTF8=1"
            ) from e
    elif sys.stdout.isatty():
        raise ConfigurationError(
            "binary output is not for a terminal", hint="redirect it to a file, or use a pipe"
        )
    else:
        sys.stdout.buffer.write(answer)
    sys.stdout.flush()


def complain(error: str, advice: str) -> None:
    """Print the error line and, where there is something to be said, the hint."""
    print(f"{PROG}: error: {printable(error)}", file=sys.stderr)
    hint(advice)


def hint(advice: str) -> None:
    """Print the hint line, where there is something to be said."""
    if advice:
        print(f"{PROG}: hint: {printable(advice)}", file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning line."""
    print(f"{PROG}: warning: {printable(text)}", file=sys.stderr)


@contextlib.contextmanager
def logging_to_stderr(*, debug: bool, verbose: bool) -> Iterator[None]:
    """Log lines on standard error for the length of one command."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(f"{PROG}: %(message)s"))
    # botocore's loggers are left alone: at debug level they show session tokens.
    loggers = [logging.getLogger(name) for name in ("enclave", "vsock_proxy")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


def printable(text: str) -> str:
    """Without control characters: parts of a message may come from a hostile parent."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
