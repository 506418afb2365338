"""The event loop with its innermost part in C: `pump.c`, compiled by ``vsock_proxy.relay.build``.

The compiled library is optional. It moves plain bytes; all else, ends and errors included, is
handled by the same Python code as without it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import platform
import struct
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.relay.flow import READS_PER_TURN
from vsock_proxy.relay.loop import MAX_EVENTS, Handler, Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
HEADER = HERE / "pump.h"
SOURCE = HERE / "pump.c"
LIBRARY = HERE / f"_pump-{platform.machine()}.so"

VARIABLE = "VSOCK_PROXY_RELAY"
"""Environment variable: ``python`` leaves a compiled library unused, ``native`` requires it."""

_EVENT_SIZE = 16
"""Bytes of a struct epoll_event, at most: 12 on x86-64, where it is packed."""

_LEFT = struct.Struct("=iiI")
"""struct left."""

_EVENT = 0
"""PUMP_EVENT."""


class Joined(Handler, Protocol):
    """Handles what the loop could not move between two joined descriptors."""

    def resume(self) -> None:
        """See `Resumable.resume`."""
        ...

    def unsent(self, fd: int, data: bytes) -> None:
        """Keep bytes that were read from `fd`: the other side has no room for them."""
        ...

    def source_failed(self, error: OSError) -> None:
        """Note that reading failed."""
        ...

    def sink_failed(self, fd: int, error: OSError) -> None:
        """Note that writing what came from `fd` failed."""
        ...


class Pump:
    """The compiled library, loaded.

    Raises:
        OSError: there is none, or it cannot be loaded.
        ImportError: cffi is not installed, or the library is of other sources.
    """

    def __init__(self, library: Path = LIBRARY) -> None:
        import cffi  # noqa: PLC0415 (only for those who compiled the library)

        if not library.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(library))
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(HEADER.read_text())
        self.lib: Any = self.ffi.dlopen(str(library))
        if self.ffi.string(self.lib.pump_build()).decode() != sources():
            raise ImportError(f"{library} was compiled from other sources: build it again")


def sources() -> str:
    """Return a short digest of the C sources, which the compiled library repeats."""
    return hashlib.sha256(HEADER.read_bytes() + SOURCE.read_bytes()).hexdigest()[:16]


def make_loop(
    *, tick: float = 1.0, library: Path = LIBRARY, environ: Mapping[str, str] = MappingProxyType({})
) -> Loop:
    """Return a loop with the compiled library if there is one, else one in Python alone.

    Args:
        tick: see `Loop`.
        library: the compiled one.
        environ: the environment; `VARIABLE` is read from it.

    Raises:
        ConfigurationError: `VARIABLE` requires the library, and it does not load.
    """
    choice = environ.get(VARIABLE, "")
    if choice not in ("", "python", "native"):
        raise ConfigurationError(
            f"{VARIABLE}={choice!r} is neither python nor native", hint="leave it out"
        )
    if choice != "python":
        try:
            loop = NativeLoop(Pump(library), tick=tick)
        except (OSError, ImportError) as e:
            if choice == "native":
                raise ConfigurationError(
                    f"{VARIABLE} is native, and the relay's library does not load: {e}",
                    hint="python -m vsock_proxy.relay.build compiles it",
                ) from e
            if not isinstance(e, FileNotFoundError):
                log.warning("the relay runs in Python alone: %s", e)
        else:
            log.debug("the relay's innermost part is %s", library)
            return loop
    return Loop(tick=tick)


class NativeLoop(Loop):
    """Dispatches readiness as `Loop` does, and moves plain bytes itself.

    Args:
        pump: the compiled library.
        tick: see `Loop`.
        monotonic: see `Loop`.
    """

    moves = True

    def __init__(
        self,
        pump: Pump,
        *,
        tick: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ffi, self._lib = pump.ffi, pump.lib
        self._size = 0
        self._sides: Any = None
        self._state = self._ffi.new("struct pump *")
        super().__init__(tick=tick, monotonic=monotonic)
        self._ready = self._ffi.new("char[]", MAX_EVENTS * _EVENT_SIZE)
        left = self._ffi.new("struct left[]", MAX_EVENTS)
        self._left = memoryview(self._ffi.buffer(left))
        self._bytes = self._ffi.from_buffer(self._whole_buffer)
        state = self._state
        state.epoll = self._epoll.fileno()
        state.reads = READS_PER_TURN
        state.buffer = self._bytes
        state.room = len(self.buffer)
        state.ready = self._ffi.cast("struct epoll_event *", self._ready)
        state.left = left
        state.most = MAX_EVENTS
        self._grow(1024)

    def join(self, one: int, other: int) -> None:
        """See `Loop.join`."""
        if max(one, other) >= self._size:
            self._grow(2 * max(one, other))
        for fd, peer in ((one, other), (other, one)):
            side = self._sides[fd]
            side.peer, side.blocked, side.moved = peer, 0, 0

    def block(self, one: int, other: int, *, blocked: bool) -> None:
        """See `Loop.block`."""
        self._sides[one].blocked = self._sides[other].blocked = blocked

    def moved(self, fd: int) -> int:
        """See `Loop.moved`."""
        return cast("int", self._sides[fd].moved)

    def part(self, one: int, other: int) -> None:
        """See `Loop.part`."""
        for fd in (one, other):
            side = self._sides[fd]
            side.peer, side.moved = -1, 0

    def hold(self, change: int) -> None:
        """See `Loop.hold`."""
        super().hold(change)
        self._state.room = len(self.buffer)

    def _grow(self, size: int) -> None:
        sides = self._ffi.new("struct side[]", size)
        self._ffi.buffer(sides)[:] = b"\xff" * self._ffi.sizeof(sides)  # peer: -1
        if self._sides is not None:
            self._ffi.memmove(sides, self._sides, self._ffi.sizeof(self._sides))
        self._sides = self._state.sides = sides
        self._size = self._state.size = size

    def _handle_events(self, timeout: float) -> None:
        lib, state, handlers = self._lib, self._state, self._handlers
        error = lib.pump_wait(state, math.ceil(timeout * 1000))
        self.now = self._monotonic()
        if error:
            raise OSError(error, os.strerror(error))
        while True:
            filled = lib.pump_step(state)
            for fd, why, value in _LEFT.iter_unpack(self._left[: filled * _LEFT.size]):
                handler = handlers.get(fd)
                if handler is None:
                    continue
                if why == _EVENT:
                    handler.ready(fd, value)
                else:
                    self._report(fd, why, value, cast("Joined", handler))
            if state.next == state.count:
                return

    def _report(self, fd: int, why: int, value: int, handler: Joined) -> None:
        """Tell a connection what the loop could not do for it."""
        lib = self._lib
        if why == lib.PUMP_MORE:
            self.resume_soon(handler)
        elif why == lib.PUMP_UNSENT:
            begin = self._state.begin
            handler.unsent(fd, bytes(self._whole_buffer[begin : begin + value]))
        elif why == lib.PUMP_NO_SOURCE:
            handler.source_failed(OSError(value, os.strerror(value)))
        else:
            handler.sink_failed(fd, OSError(value, os.strerror(value)))
