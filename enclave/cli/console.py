"""What reaches the person at the terminal: output, error lines, log lines."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError
from vsock_proxy.service import console
from vsock_proxy.service.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.errors import AgentError

PROG = "enclave-agent"


def write(output: str | bytes) -> None:
    """Print all of the output of a command.

    Raises:
        ConfigurationError: bytes are not for a terminal.
        OSError: it cannot be printed.
    """
    if isinstance(output, str):
        try:
            sys.stdout.write(output)
        except UnicodeEncodeError as e:
            raise ConfigurationError(
                f"cannot print the output in {sys.stdout.encoding}", hint="set PYTHONUTF8=1"
            ) from e
    elif sys.stdout.isatty():
        raise ConfigurationError(
            "binary output is not for a terminal", hint="redirect it to a file, or use a pipe"
        )
    else:
        sys.stdout.buffer.write(output)
    sys.stdout.flush()


def complain(error: AgentError | str, hint: str = "") -> None:
    """Print the error line and, if there is one, the hint line."""
    console.complain(PROG, error, hint)


def hint(text: str) -> None:
    """Print a hint line, unless `text` is empty."""
    console.hint(PROG, text)


def warn(text: str) -> None:
    """Print a warning line."""
    console.warn(PROG, text)


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
