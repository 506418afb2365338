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
from vsock_proxy.service.console import complain, warn
from vsock_proxy.service.extras import require
from vsock_proxy.service.notify import notify
from vsock_proxy.service.platforms import require_linux
from vsock_proxy.service.reloading import Reloader
from vsock_proxy.service.signals import STOP_SIGNALS, Signals
from vsock_proxy.service.watchdog import Watchdog

if TYPE_CHECKING:
    import argparse

    from parent.daemon.configuration import Configuration

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/nitro_enclaves/parent.yaml")

NEEDED = ("h11", "prometheus_client", "yaml")
"""What the extra `parent` brings."""

_STOP = ""

_CHECK_HINT = "name the file: enclave-parent check-config FILE"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    parser = subparsers.add_parser(
        "run",
        help="run the parent's services: proxy, credentials, logs, enclaves, metrics",
        description="Run what the configuration has: the proxy, the credential service, the log "
        "sink, the enclaves, and their metrics. SIGHUP reloads the file; SIGTERM stops cleanly, a "
        "second one at once. Exit status: 0 after a signal, 1 if it cannot start or a service "
        "fails.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    add("--log-format", choices=("text", "json"), default="text", help="default: %(default)s")
    add("-v", "--verbose", action="store_true", help="log every connection, not only problems")
    parser.set_defaults(run=run)

    parser = subparsers.add_parser(
        "check-config",
        help="report every mistake in a configuration",
        description="Read a configuration as `run` does, and print every mistake of all sections "
        "with its line. Exit status: 1 if there is one; warnings do not count. Nothing is opened.",
    )
    add = parser.add_mutually_exclusive_group().add_argument
    add("file", metavar="FILE", type=Path, nargs="?", help=f"default: {DEFAULT_PATH}")
    add("--config", metavar="FILE", type=Path, help="the same, as the other commands have it")
    parser.set_defaults(run=check_config)


def check_config(arguments: argparse.Namespace) -> int:
    """Print every mistake in a file."""
    # Imported here, as in `run`: the commands for images work without botocore and PyYAML.
    require_linux(f"{PROGRAM} check-config")
    require("parent", *NEEDED)
    from parent.daemon.configuration import load_configuration  # noqa: PLC0415

    path = arguments.file or arguments.config or DEFAULT_PATH
    try:
        configuration = load_configuration(path, hint=_CHECK_HINT)
    except ConfigurationError as e:
        for warning in getattr(e, "warnings", ()):
            warn(PROGRAM, warning)
        complain(PROGRAM, e)
        return 1
    for warning in configuration.warnings:
        warn(PROGRAM, warning)
    count = len(configuration.warnings)
    told = f", {count} warning{'s' * (count > 1)}" if count else ""
    sys.stdout.write(f"{path}: ok{told}\n")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal or a failure."""
    require_linux(f"{PROGRAM} run")
    require("parent", *NEEDED)
    from parent.daemon.configuration import load_configuration  # noqa: PLC0415
    from parent.daemon.supervisor import Supervisor  # noqa: PLC0415

    log_to_stderr(arguments.log_format, verbose=arguments.verbose)
    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    signals = Signals()
    ending = _Ending(events)
    for number in STOP_SIGNALS:
        signals.handle(number, ending)
    # While it starts there is nothing to reload; the default of SIGHUP would end it.
    signals.handle(signal.SIGHUP, lambda _: None)
    threading.excepthook = lambda failure: _failed(failure, events)

    def reload() -> None:
        changed = load_configuration(arguments.config, reloading=True)
        _warn(changed)
        supervisor.reload(changed)

    try:
        configuration = load_configuration(arguments.config, hint="name the file with --config")
        _warn(configuration)
        supervisor = Supervisor(configuration)
        # Before: without their threads, what is started would have to be stopped again.
        reloader = Reloader(reload)
        Watchdog(supervisor.turns).start()
        supervisor.start()
    except AgentError as e:
        complain(PROGRAM, e)
        return 1

    signals.handle(signal.SIGHUP, lambda _: reloader.request())
    operations = supervisor.operations
    where = f"operations on {operations.server.address}" if operations else "no operations"
    notify(f"READY=1\nSTATUS=running; {where}")
    failed = events.get()
    notify("STOPPING=1")
    if failed == _STOP:
        log.info("stopping")
    else:
        log.error("%s failed; stopping everything, to be restarted", failed)
    supervisor.stop()
    return int(failed != _STOP)


def _failed(failure: threading.ExceptHookArgs, events: queue.SimpleQueue[str]) -> None:
    """Report a thread that ended by an unexpected exception.

    Whichever thread it is: a daemon that goes on with a part of it missing looks healthy.
    """
    name = failure.thread.name if failure.thread else "a thread"
    exception = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    log.error("%s: internal error", name, exc_info=exception)  # type: ignore[arg-type]
    events.put(name)


class _Ending:
    """Handles signals to stop: the first one is an event, the second one exits at once."""

    def __init__(self, events: queue.SimpleQueue[str]) -> None:
        self._events = events
        self._told = False

    def __call__(self, number: int) -> None:
        if self._told:
            os.write(2, f"{PROGRAM}: warning: stopping at once\n".encode())
            os._exit(128 + number)
        self._told = True
        self._events.put(_STOP)


def _warn(configuration: Configuration) -> None:
    for warning in configuration.warnings:
        log.warning("%s", warning)
