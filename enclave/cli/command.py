"""A subcommand, as its module hands it to `enclave.cli.main`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from enclave.cli.environment import Environment


@dataclass(frozen=True, slots=True)
class Command:
    """What a subcommand does.

    Attributes:
        run: from its options to what is printed on standard output, or to its exit code.
        divide: called before `run`, if there is one: it may fork, and returns the exit code in
            the process that only waits for the other, None in the one that goes on.
    """

    run: Callable[[Namespace, Environment], str | bytes | int]
    divide: Callable[[Namespace], int | None] | None = None
