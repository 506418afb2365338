"""Copies the console of an enclave in debug mode to the daemon's log, line by line."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from parent.enclaves import nitro_cli
from parent.enclaves.nitro_cli import NitroCliError
from parent.enclaves.runner import end, passed_environment, spawn
from parent.logs.lines import neutralise
from vsock_proxy.errors import AgentError
from vsock_proxy.service.backoff import Backoff
from vsock_proxy.service.budget import Budget
from vsock_proxy.service.log_lines import LineSplitter
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

console_log = logging.getLogger("parent.enclaves.console")

LINES_PER_SECOND = 100
"""That reach the log; more are dropped and counted."""

_RETRY = Backoff(first=1.0, most=60.0)
"""Before the console is opened again."""


class Console:
    """Follows the console of one enclave at a time."""

    def __init__(
        self,
        name: str,
        program: str = "nitro-cli",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._program = program
        self._environment = passed_environment(os.environ) if environment is None else environment
        self._id = ""
        self._reader: _Reader | None = None

    def follow(self, enclave_id: str) -> None:
        """Read the console of this enclave from now on; "" for none."""
        if enclave_id == self._id:
            return
        self.stop()
        self._id = enclave_id
        if enclave_id:
            reader = _Reader(self._name, self._program, enclave_id, self._environment)
            try:
                start_thread(reader)
            except AgentError as e:
                self._id = ""  # the next call tries again
                console_log.warning("%s: no console: %s", self._name, e)
            else:
                self._reader = reader

    def stop(self) -> None:
        """Stop reading."""
        reader, self._reader, self._id = self._reader, None, ""
        if reader:
            reader.stop()


class _Reader(threading.Thread):
    def __init__(
        self, name: str, program: str, enclave_id: str, environment: Mapping[str, str]
    ) -> None:
        super().__init__(name=f"console/{name}", daemon=True)
        self._enclave = name
        self._program = program
        self._arguments = nitro_cli.console_arguments(enclave_id)
        self._environment = environment
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._budget = Budget(LINES_PER_SECOND)

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._process:
                self._process.kill()
        self.join(5)

    def run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                self._once()
            except NitroCliError as e:
                if not self._stopped.is_set():
                    console_log.warning("%s: no console: %s", self._enclave, e)
            failures += 1
            self._stopped.wait(_RETRY.delay(failures))

    def _once(self) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            process = spawn(self._program, self._arguments, self._environment)
            self._process = process
        try:
            self._copy(process)
            if process.wait() > 0:
                stderr = process.stderr.read(4096) if process.stderr else b""
                raise nitro_cli.failure(self._arguments[0], process.returncode, stderr)
        finally:
            with self._lock:
                self._process = None
            end(process)

    def _copy(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        splitter = LineSplitter()
        while data := os.read(process.stdout.fileno(), 4096):
            self._log(splitter.feed(data))
        self._log(splitter.end())

    def _log(self, lines: list[bytes]) -> None:
        for line in lines:
            now = time.monotonic()
            if dropped := self._budget.report(now):
                console_log.warning("%s: %d lines dropped", self._enclave, dropped)
            if self._budget.take(now):
                console_log.info("%s: %s", self._enclave, neutralise(line))
