"""How many clients the file descriptors allow; how the program is given secrets, and ended."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError
from enclave.secrets.errors import SecretError
from enclave.serve import endpoint
from enclave.serve.endpoint import SPARE_DESCRIPTORS, fit_clients
from enclave.serve.http_server import REJECTED_HELD
from enclave.serve.program import opened_secrets
from enclave.serve.stop import Stop
from tests.waiting import TEST_TIMEOUT


def allow(patch: pytest.MonkeyPatch, hard: int) -> None:
    patch.setattr(endpoint, "raise_descriptor_limit", lambda wanted: min(wanted, hard))


@given(st.integers(1, 70_000), st.integers(1, 300), st.integers(1, 5), st.integers(1, 80_000))
def test_clients_and_calls_fit_into_the_descriptors(
    clients: int, calls: int, regions: int, hard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        allow(patch, hard)
        try:
            fitting = fit_clients(clients, calls, regions)
        except ConfigurationError:
            assert hard <= calls * regions + SPARE_DESCRIPTORS + REJECTED_HELD
            return
    assert 1 <= fitting <= clients
    assert fitting + calls * regions < hard or fitting == clients


def test_fewer_clients_than_wanted_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allow(monkeypatch, 64)
    assert fit_clients(256, 16, 1) == 24
    assert caplog.messages == [
        "64 file descriptors (ulimit -Hn) are enough for 24 clients, not for 256"
    ]
    assert fit_clients(24, 16, 1) == 24
    assert len(caplog.messages) == 1


def test_a_signal_does_not_wait_for_secrets_that_are_being_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def open_secrets(*_: object) -> None:
        opening.set()
        assert go_on.wait(TEST_TIMEOUT)

    async def main() -> None:
        stop = Stop()
        task = asyncio.create_task(opened_secrets(Any, {}, stop))  # type: ignore[arg-type]
        await asyncio.to_thread(opening.wait, TEST_TIMEOUT)
        stop.requested.set()
        assert await asyncio.wait_for(task, TEST_TIMEOUT) is None
        go_on.set()

    monkeypatch.setattr("enclave.secrets.opening.open_secrets", open_secrets)
    asyncio.run(main())


def test_an_error_of_the_secrets_is_that_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_secrets(*_: object) -> None:
        raise SecretError("it does not open")

    async def main() -> None:
        await opened_secrets(Any, {}, Stop())  # type: ignore[arg-type]

    monkeypatch.setattr("enclave.secrets.opening.open_secrets", open_secrets)
    with pytest.raises(SecretError, match="it does not open"):
        asyncio.run(main())


@pytest.mark.parametrize(("ignores", "code"), [(False, 0), (True, 128 + signal.SIGKILL)])
def test_a_program_is_ended_and_one_that_does_not_is_killed(ignores: bool, code: int) -> None:
    ignoring = (
        "import signal; signal.signal(15, signal.SIG_IGN)"
        if ignores
        else ("import signal, sys; signal.signal(15, lambda *_: sys.exit(0))")
    )
    program = f"{ignoring}; print(1, flush=True); import time; time.sleep(600)"

    async def main() -> int | None:
        stop = Stop()
        assert await stop.end(1.0) is None
        assert stop.requested.is_set()
        stop.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        assert stop.process.stdout
        await stop.process.stdout.readline()
        return await stop.end(0.05 if ignores else TEST_TIMEOUT)

    assert asyncio.run(main()) == code
