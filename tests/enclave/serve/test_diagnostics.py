"""Reports of asyncio, threads and the interpreter: throttled lines of the log, and no more."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from typing import TYPE_CHECKING

from enclave.serve.diagnostics import diagnostics_to_log

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def run(act: Callable[[asyncio.AbstractEventLoop], None]) -> None:
    """Act with diagnostics in the log, in a turn of a loop; then let some turns pass."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with diagnostics_to_log(loop):
            act(loop)
            for _ in range(3):
                await asyncio.sleep(0)

    asyncio.run(main())


def own(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("enclave.")]


def fail() -> None:
    raise RuntimeError("s3cret")


def test_a_callback_that_fails_is_one_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(fail)

    run(act)
    (line,) = own(caplog)
    assert line.startswith("internal error: Exception in callback fail()")
    assert line.endswith(": RuntimeError")
    assert "s3cret" not in line
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_fails_is_one_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(_: object) -> None:
        thread = threading.Thread(target=fail, name="probe")
        thread.start()
        thread.join()

    run(act)
    assert own(caplog) == ["internal error: thread probe has failed: RuntimeError"]
    assert capfd.readouterr() == ("", "")


class _Broken:
    def __del__(self) -> None:
        fail()


def test_a_finalizer_that_fails_is_one_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(_: object) -> None:
        _Broken()
        gc.collect()

    run(act)
    assert [line for line in own(caplog) if "RuntimeError" in line]
    assert capfd.readouterr() == ("", "")


def test_a_flood_of_a_library_is_few_lines(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(_: object) -> None:
        for _i in range(1000):
            logging.getLogger("asyncio").warning("socket.send() raised exception.")

    run(act)
    lines = own(caplog)
    assert 1 <= len(lines) <= 20
    assert lines[0] == "asyncio: socket.send() raised exception."
    assert capfd.readouterr() == ("", "")


def test_a_warning_of_python_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    def act(_: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("odd", RuntimeWarning, stacklevel=1)

    run(act)
    assert any(line.startswith("py.warnings: ") and "odd" in line for line in own(caplog))


def test_everything_is_as_before_afterwards() -> None:
    before = threading.excepthook, logging.getLogger().handlers[:], warnings.showwarning
    run(lambda _: None)
    assert before == (threading.excepthook, logging.getLogger().handlers[:], warnings.showwarning)
