"""Reports of asyncio, of threads and of the interpreter, as throttled lines of the log.

Python prints these on standard error by itself, without a prefix, with a traceback, and as often
as they occur: through ``--log-to`` they would flood the parent's log.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_OWN = ("enclave", "vsock_proxy")
"""Loggers whose lines the command formats itself."""


@contextlib.contextmanager
def diagnostics_to_log(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Log these reports for the duration of a ``with`` block.

    Of an exception only the type is logged: its message may hold anything. At debug level, where
    only the developer of a program looks, its traceback is.

    Args:
        loop: the event loop whose callbacks and tasks may fail.
    """
    warnings = Throttle(log, time.monotonic)

    def of_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        report(context.get("message", "error"), context.get("exception"))

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        name = arguments.thread.name if arguments.thread else "?"
        report(f"thread {name} has failed", arguments.exc_value)

    def of_interpreter(unraisable: sys.UnraisableHookArgs) -> None:
        report(unraisable.err_msg or "exception ignored", unraisable.exc_value)

    def report(message: str, error: BaseException | None) -> None:
        kind = f": {type(error).__name__}" if error is not None else ""
        warnings.warning("internal error: %s%s", message, kind)
        log.debug("internal error", exc_info=error)

    root, handler = logging.getLogger(), _LibraryHandler(warnings)
    root.addHandler(handler)
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = of_thread, of_interpreter
    logging.captureWarnings(True)  # noqa: FBT003 (the standard library's signature)
    loop.set_exception_handler(of_loop)
    try:
        yield
    finally:
        loop.set_exception_handler(None)
        logging.captureWarnings(False)  # noqa: FBT003 (as above)
        threading.excepthook, sys.unraisablehook = hooks
        root.removeHandler(handler)
        warnings.catch_up()


class _LibraryHandler(logging.Handler):
    """Logs the warnings of libraries."""

    def __init__(self, warnings: Throttle) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.name.partition(".")[0] not in _OWN:
            self._warnings.warning("%s: %s", record.name, record.getMessage())
