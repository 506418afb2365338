"""Running a check in a forked child, which a lock that is held for ever cannot hold up."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from typing import TYPE_CHECKING

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable


def run_in_child(check: Callable[[], None]) -> None:
    """Fork, run `check` in the child, and fail where it fails or does not end."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later: that the threads of this process are not in the child. Meant so.
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            # Not caught: ends the process even while a lock is waited for.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(TEST_TIMEOUT))
            os.close(reading)
            check()
        except BaseException:  # noqa: BLE001 (reported by the parent)
            os.write(writing, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        failure = report.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child was ended by signal {-status}: it hung"
    assert not failure, failure
