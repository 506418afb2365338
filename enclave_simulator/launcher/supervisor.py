"""The supervisor: one loop that executes the system calls the filter stops.

A single thread and one epoll. Every call ends at once (a UNIX socket connects or refuses
immediately; an NSM request takes a millisecond or two, and the driver, too, takes one at a time),
except `accept` without a connection, which is put aside: so no thread of the program waits for
another one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from enclave_simulator.launcher.accept_calls import Accepts
from enclave_simulator.launcher.devices import Device, Devices, NsmDevice
from enclave_simulator.launcher.notification import Listener, Outcome, Syscall
from enclave_simulator.launcher.process import live_unix_sockets, started, status
from enclave_simulator.launcher.program_sockets import Access
from enclave_simulator.launcher.sockets import Inodes, VsockTable
from enclave_simulator.launcher.tpm_device import TpmDevice, TpmDevices
from enclave_simulator.launcher.vsock import Vsock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave_simulator.launcher.abi import Architecture

log = logging.getLogger(__name__)

_CHECK_WAITING = 0.05
"""Seconds between two looks at threads in accept: the most a signal to one may be delayed."""

_MOST_FOREIGN = 64
"""Processes of another ABI that are remembered before those that have ended are forgotten."""

_RELEASE_KEPT = 1.0
"""Seconds between two looks whether a listener for which a connection is kept still exists."""


class Supervisor:
    """Executes the stopped calls of one program and all its descendants.

    Owns the notification descriptor. `run` belongs on a thread of its own; `stop` may be
    called from another.
    """

    def __init__(
        self,
        listener_fd: int,
        *,
        architecture: Architecture,
        nsm: NsmDevice | None,
        cid: int,
        folder: str,
        parent_ports: Mapping[int, str],
        rdev: int | None = None,
        tpm: TpmDevice | None = None,
    ) -> None:
        self._architecture = architecture
        self._listener = Listener(listener_fd)
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._warned = False
        self._next_release = 0.0
        self._foreign: dict[int, int] = {}  # those sent SIGSYS: when each was started
        opened: Inodes[Device] = Inodes(live_unix_sockets)
        table = VsockTable(cid, folder, parent_ports, live_unix_sockets)
        access = Access(self._listener, table)
        self._accepts = Accepts(self._listener, access, table, self._epoll)
        vsock = Vsock(self._listener, access, table, self._accepts)
        self._tpms = None if tpm is None else TpmDevices(self._listener, tpm, self._epoll)
        devices = Devices(self._listener, architecture, nsm, cid, opened, rdev, self._tpms)
        by_name = {**devices.handlers, **vsock.handlers}
        if self._tpms is not None:
            by_name["read"] = self._tpms.read
        self._handlers: dict[int, Callable[[Syscall], int | Outcome]] = {
            number: by_name[name]
            for name, number in architecture.syscalls.items()
            if name in by_name
        }

    def run(self) -> None:
        """Run until no process is left that the filter applies to, or until `stop`."""
        try:
            self._epoll.register(self._listener.fd, select.EPOLLIN)
            self._epoll.register(self._stop, select.EPOLLIN)
            while self._turn():
                pass
        finally:
            self._accepts.close()
            if self._tpms is not None:
                self._tpms.close()
            self._listener.close()
            self._epoll.close()

    def stop(self) -> None:
        """Make `run` return soon."""
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """Close the last descriptor; after `run` has returned."""
        os.close(self._stop)

    def _turn(self) -> bool:
        timeout = None
        if self._accepts.waiting:
            timeout = _CHECK_WAITING
        elif self._accepts.keeping:
            timeout = _RELEASE_KEPT
        for fd, events in self._epoll.poll(timeout):
            if fd == self._stop:
                return False
            if self._tpms is not None and self._tpms.owns(fd):
                self._tpms.ready(fd)
            elif fd != self._listener.fd:
                self._accepts.ready(fd)
            elif events & select.EPOLLIN:
                call = self._listener.receive()
                if call is not None:
                    self._listener.answer(call, self._handle(call))
            elif events & select.EPOLLHUP:
                return False
        if self._accepts.waiting:
            self._accepts.check_waiting()
        if self._accepts.keeping and time.monotonic() >= self._next_release:
            self._accepts.release()
            self._next_release = time.monotonic() + _RELEASE_KEPT
        return True

    def _handle(self, call: Syscall) -> int | Outcome:
        if call.architecture != self._architecture.audit:
            return self._kill_foreign(call)
        try:
            return self._handlers[call.number](call)
        except PermissionError as e:
            self._warn_hidden(call, e)
            return Outcome.CONTINUE
        except OSError as e:
            return -(e.errno or errno.EIO)
        except Exception:
            # A fault in here must not make the program hang, nor others with it.
            log.exception("simulating system call %d failed", call.number)
            return -errno.EIO

    def _kill_foreign(self, call: Syscall) -> int:
        """Kill a program of an ABI that is not simulated, by SIGSYS, as the filter alone would."""
        with contextlib.suppress(OSError):
            process = status(call.thread).process
            since = started(process)
            if self._foreign.get(process) != since:
                if len(self._foreign) >= _MOST_FOREIGN:
                    self._foreign = {p: s for p, s in self._foreign.items() if _lives(p, s)}
                self._foreign[process] = since
                name = os.readlink(f"/proc/{process}/exe")  # noqa: PTH115
                log.error(
                    "%s makes 32-bit system calls, which have no simulated enclave: killed. "
                    "Build it for %s.",
                    name,
                    os.uname().machine,
                )
                os.kill(process, signal.SIGSYS)
            elif self._listener.waits(call):
                os.kill(process, signal.SIGKILL)  # It ignores SIGSYS.
        return -errno.ENOSYS

    def _warn_hidden(self, call: Syscall, error: OSError) -> None:
        """Warn once of a program that is undumpable, or whose file this user may not read."""
        if not self._warned:
            self._warned = True
            log.warning(
                "process %d cannot be accessed, so it has no simulated enclave: %s",
                call.thread,
                error,
            )


def _lives(process: int, since: int) -> bool:
    try:
        return started(process) == since
    except OSError:
        return False
