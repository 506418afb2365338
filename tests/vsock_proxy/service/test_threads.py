"""Threads that the system does not give; and that every start of one is looked at."""

from __future__ import annotations

import errno
import os
import re
import threading

import pytest

from tests.doubles import no_threads
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import AgentError
from vsock_proxy.service.checkup import Check, Verdict, examine, passed
from vsock_proxy.service.scarcity import starting
from vsock_proxy.service.threads import call_together, start_thread


def test_without_a_thread_one_error_says_so() -> None:
    with no_threads(), pytest.raises(AgentError, match="cannot start a thread") as caught:
        start_thread(threading.Thread(target=print))
    assert "pids.max" in caught.value.hint


def test_a_fork_that_fails_is_the_same_error() -> None:
    with pytest.raises(AgentError, match="cannot start a thread or process"), starting():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no"), RuntimeError("a bug"), ValueError("NUL")]
)
def test_other_errors_of_a_start_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, starting():
        raise error
    assert caught.value is error


def test_functions_are_called_at_the_same_time() -> None:
    both = threading.Barrier(2)
    call_together([lambda: both.wait(TEST_TIMEOUT), lambda: both.wait(TEST_TIMEOUT)])


def test_without_threads_each_function_is_called_all_the_same() -> None:
    called: list[int] = []
    with no_threads():
        call_together([lambda: called.append(1), lambda: called.append(2)])
    assert called == [1, 2]


@pytest.mark.parametrize("after", [0, 1])
def test_a_function_that_raises_keeps_no_other_from_being_called(after: int) -> None:
    called: list[int] = []

    def fail() -> None:
        raise AgentError("this one")

    with no_threads(after=after), pytest.raises(AgentError, match="this one"):
        call_together([fail, lambda: called.append(1)])
    assert called == [1]


def test_a_check_without_a_thread_is_a_failure_with_a_hint() -> None:
    with no_threads():
        [found] = examine([Check("one", lambda: passed("yes"))], timeout=1)
    assert found.finding.verdict is Verdict.FAIL
    assert "cannot start a thread" in found.finding.text
    assert found.finding.hint


CATCH_RUNTIME_ERROR = {
    "enclave/credentials/renewed.py": "a CredentialsError, which is transient",
    "enclave/nitrotpm/device.py": "a TpmUnavailableError",
    "enclave/recipient/keypair.py": "the key pair is made without",
    "vsock_proxy/net/resolving.py": "an OSError, as of a look-up",
    "vsock_proxy/relay/resolver.py": "the callers: an OSError, or a look-up that waits",
    "vsock_proxy/service/threads.py": "the error itself",
}
_START = re.compile(r"[tT]hread\.start\(\)|[tT]hread\(.*\)\.start\(\)")


def test_every_thread_of_ours_is_started_where_its_lack_is_an_error() -> None:
    files = {
        str(path.relative_to(ROOT))
        for folder in ("enclave", "parent", "vsock_proxy")
        for path in (ROOT / folder).rglob("*.py")
        if _START.search(path.read_text())
    }
    assert files == set(CATCH_RUNTIME_ERROR)
