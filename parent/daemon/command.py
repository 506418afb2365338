"""``enclave-parent run`` and ``enclave-parent check-config``."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from parent.daemon.log_format import PROGRAM, log_to_stderr
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.console import complain
from vsock_proxy.service.extras import require
from vsock_proxy.service.notify import notify
from vsock_proxy.service.reloading import Reloader
from vsock_proxy.service.signals import STOP_SIGNALS, Signals
from vsock_proxy.service.watchdog import Watchdog

if TYPE_CHECKING:
    import argparse

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/nitro_enclaves/parent.yaml")

NEEDED = ("h11", "prometheus_client", "yaml")
"""What the extra `parent` brings."""

_STOP = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    parser = subparsers.add_parser(
        "run",
        help="run the parent's services: proxy, credentials, logs, enclaves, metrics",
        description="Run what the configuration has: the proxy, the credential service, the log "
        "sink, the enclaves, and their metrics. SIGHUP reads the file again; SIGTERM stops "
        "cleanly, a second one at once. Status: 0 if told to stop, 1 if it cannot start or a "
        "service fails.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    add("--log-format", choices=("text", "json"), default="text", help="default: %(default)s")
    add("-v", "--verbose", action="store_true", help="log every connection, not only trouble")
    parser.set_defaults(run=run)

    parser = subparsers.add_parser(
        "check-config",
        help="say what is wrong with a configuration",
        description="Read a configuration as `run` does, and print every error with its line; "
        "status 1 if there is one. Nothing is opened.",
    )
    parser.add_argument(
        "config", metavar="FILE", type=Path, nargs="?", default=DEFAULT_PATH,
        help="default: %(default)s",
    )  # fmt: skip
    parser.set_defaults(run=check_config)


def check_config(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a file, if anything."""
    # Here, as below: the commands for images do without botocore and what else the daemon needs.
    require("parent", *NEEDED)
    from parent.daemon.configuration import load_configuration  # noqa: PLC0415

    try:
        load_configuration(arguments.config)
    except ConfigurationError as e:
        complain(PROGRAM, e)
        return 1
    sys.stdout.write(f"{arguments.config}: fine\n")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal, or a failure, ends it."""
    require("parent", *NEEDED)
    from parent.daemon.configuration import load_configuration  # noqa: PLC0415
    from parent.daemon.supervisor import Supervisor  # noqa: PLC0415

    log_to_stderr(arguments.log_format, verbose=arguments.verbose)
    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    signals = Signals()
    ending = _Ending(events)
    for number in STOP_SIGNALS:
        signals.handle(number, ending)
    # While it starts there is nothing to reload; SIGHUP's default would end it.
    signals.handle(signal.SIGHUP, lambda _: None)
    threading.excepthook = lambda failure: _failed(failure, events)
    try:
        supervisor = Supervisor(load_configuration(arguments.config))
        supervisor.start()
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    reloader = Reloader(
        lambda: supervisor.reload(load_configuration(arguments.config, reloading=True))
    )
    signals.handle(signal.SIGHUP, lambda _: reloader.request())
    operations = supervisor.operations
    where = f"operations on {operations.server.address}" if operations else "no operations"
    notify(f"READY=1\nSTATUS=running; {where}")
    Watchdog(supervisor.turns).start()
    failed = events.get()
    notify("STOPPING=1")
    if failed == _STOP:
        log.info("stopping")
    else:
        log.error("%s failed; stopping everything, to be started anew", failed)
    supervisor.stop()
    return int(failed != _STOP)


def _failed(failure: threading.ExceptHookArgs, events: queue.SimpleQueue[str]) -> None:
    """A thread ended by what nobody foresaw: what it did is not done any more.

    Whichever thread it is: a daemon that goes on with a part of it missing looks well.
    """
    name = failure.thread.name if failure.thread else "a thread"
    exception = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    log.error("%s: internal error", name, exc_info=exception)  # type: ignore[arg-type]
    events.put(name)


class _Ending:
    """What a signal to end does: the first one is an event, the second one ends the process."""

    def __init__(self, events: queue.SimpleQueue[str]) -> None:
        self._events = events
        self._told = False

    def __call__(self, number: int) -> None:
        if self._told:
            os.write(2, f"{PROGRAM}: warning: ending at once\n".encode())
            os._exit(128 + number)
        self._told = True
        self._events.put(_STOP)
