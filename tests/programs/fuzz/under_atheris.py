"""One target under atheris: ``python -m tests.programs.fuzz.under_atheris NAME PACKAGES SECONDS``.

PACKAGES, with commas, are instrumented; what follows is libFuzzer's. It ends the process itself.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.programs.fuzz.target import Target

CPU = 5.0
"""Seconds of CPU that one input may take, instrumented, on a machine with other work."""


class _Formatting(logging.Handler):
    """Formats every record, as a log would, and drops it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def within_bounds(target: Target, data: bytes) -> None:
    """Run one input.

    Raises:
        AssertionError: it took too long, or what `Target.run` raises.
    """
    began = time.process_time()
    target.run(data)
    took = time.process_time() - began
    assert took < CPU, f"{took:.1f} s of CPU for {len(data)} bytes"


def end_after(seconds: float) -> None:
    """Have libFuzzer end, with its figures, when this process has used so much CPU.

    Its own -max_total_time counts the time in which a busy machine runs something else.
    """

    def look(*_: object) -> None:
        # The timer counts in ticks: by the account of the process it may be early.
        if time.process_time() >= seconds:
            os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGPROF, look)
    # Again and again: in the middle of a deep recursion `look` itself ends in RecursionError, which
    # the target may take for its own.
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.1)


def main() -> None:
    # Only here: atheris is in no environment but that of make fuzz.
    atheris = importlib.import_module("atheris")
    name, packages, seconds, *options = sys.argv[1:]
    with atheris.instrument_imports(include=packages.split(",")):
        from tests.programs.fuzz.targets import TARGETS  # noqa: PLC0415 (to be instrumented)
    logging.root.handlers[:] = [_Formatting()]
    logging.root.setLevel(logging.DEBUG)
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *options], lambda data: within_bounds(target, data))
    end_after(float(seconds))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
