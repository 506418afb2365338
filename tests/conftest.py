"""What all tests share."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.descriptors import pytest_runtest_makereport as pytest_runtest_makereport  # noqa: PLC0414
from tests.descriptors import pytest_runtest_protocol as pytest_runtest_protocol  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = dict(os.environ)
"""As it was before the modules of tests were imported."""

# Under nohup(1) and in the background of a script these are ignored, and so by every program that a
# test starts and ends by them. A handler ignores them here and not there: execve(2) resets it.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if (
        signal.getsignal(number) is signal.SIG_IGN
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(number, lambda *_: None)

# A busy machine must not fail a property test.
for name, examples in (("unhurried", 40), ("thorough", 500)):
    settings.register_profile(
        name,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))


@pytest.hookimpl(optionalhook=True)  # The guest of the boot test has no xdist.
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are CPUs: some tests wait, for a deadline or a program."""
    return (os.cpu_count() or 1) + 1


LOGGERS = ("enclave", "vsock_proxy", "parent", "enclave_simulator")
"""Those that have handlers of ours; of all others, such as asyncio's, only the level is set."""


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """Take back what a command set up for its own process, when a test runs it in this one.

    Its handler would write to a standard error that the next tests do not have.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    known = list(logging.root.manager.loggerDict.items())
    levels = [(each, each.level) for _, each in known if isinstance(each, logging.Logger)]
    yield
    for logger, level in levels:
        logger.setLevel(level)
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # of basicConfig; pytest's are others
            root.removeHandler(handler)
