"""Runs the C compiler, for the optional parts that are built by a named command."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

OUTPUT_LIMIT = 4000
"""Characters of a command's output that are shown."""


class BuildError(ConfigurationError):
    """The compiler or the first load failed.

    Attributes:
        output: the end of what was printed.
    """

    def __init__(self, message: str, *, output: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.output = output[-OUTPUT_LIMIT:]


def compiler(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the beginning of a command line that compiles a shared object: $CC and $CFLAGS."""
    return [
        *shlex.split(environ.get("CC", "cc")),
        "-shared", "-fPIC", "-O2", "-Wall",
        *shlex.split(environ.get("CFLAGS", "")),
    ]  # fmt: skip


def compile_shared(command: Sequence[str], *, what: str, hint: str) -> None:
    """Run the compiler.

    Args:
        command: its command line.
        what: what is compiled, for the error.
        hint: for the case that it does not compile.

    Raises:
        ConfigurationError: there is no compiler.
        BuildError: it does not compile.
    """
    try:
        done = run(command, timeout=None)
    except OSError as e:
        raise ConfigurationError(
            f"cannot run the C compiler {command[0]!r}: {e.strerror}",
            hint="on Debian, apt-get install gcc python3-dev",
        ) from e
    if done.returncode != 0:
        raise BuildError(f"{what} do not compile", output=done.stderr, hint=hint)


def run(command: Sequence[str], *, timeout: float | None) -> subprocess.CompletedProcess[str]:
    """Run a command without input; return its status and output. Raises as `subprocess.run`."""
    return subprocess.run(  # noqa: S603 (the user's compiler, or this Python)
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into a ConfigurationError that names the folder."""
    try:
        yield
    except OSError as e:
        raise ConfigurationError(
            f"cannot write in {folder}: {e.strerror}",
            hint="run the build as the user who installed the package",
        ) from e
