"""The two ends of the relay benchmark, each a process of its own.

``python -m tests.programs.bench.relay_load server`` listens on a TCP port of loopback and prints
it. The first byte of a connection says what it does (`MODES`).

``python -m tests.programs.bench.relay_load client`` reads one measurement a line (JSON) from its
standard input, does it, and answers a line; the connections stay open until the next line.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = {
    "U": "throw away what comes",
    "D": "send for as long as the other takes it",
    "E": "send back what comes",
    "W": "send a byte back for every two that come",
    "C": "send a byte and close",
}
CHUNK = 256 * 1024
MESSAGE = bytes(1024)
WARM_UP = 0.1


class Server:
    """All the modes, on one epoll."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        # Handed on to what is accepted (Linux): one system call less for each.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self._listener.getsockname()[1]
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._ends: dict[int, tuple[socket.socket, str]] = {}
        self._chunk = memoryview(bytearray(CHUNK))

    def run(self) -> None:
        listener = self._listener.fileno()
        while True:
            for fd, _ in self._epoll.poll():
                if fd == listener:
                    self._accept()
                    continue
                end, mode = self._ends[fd]
                try:
                    mode = mode or self._first(end)
                    over = self._serve(end, mode)
                except BlockingIOError:
                    continue
                except OSError:
                    over = True
                if over:
                    del self._ends[fd]
                    end.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                end, _ = self._listener.accept()
                end.setblocking(False)
                self._ends[end.fileno()] = end, ""
                self._epoll.register(end, select.EPOLLIN)

    def _first(self, end: socket.socket) -> str:
        mode = end.recv(1).decode()
        self._ends[end.fileno()] = end, mode
        if mode == "D":
            self._epoll.modify(end, select.EPOLLOUT)
        return mode

    def _serve(self, end: socket.socket, mode: str) -> bool:
        """Handle one event; True where it was the last."""
        match mode:
            case "U":
                return not end.recv_into(self._chunk)
            case "D":
                end.send(self._chunk)
            case "E":
                message = end.recv(CHUNK)
                end.send(message)
                return not message
            case "W":
                message = end.recv(2, socket.MSG_PEEK)
                if len(message) == 2:
                    end.recv(2)
                    end.send(b"w")
                return not message
            case _:
                if mode == "C":
                    end.send(b"c")
                return True
        return False


class Client:
    """Every measurement; what `address` is decides on the family. `target` is what a proxy is told
    to connect to first (HTTP CONNECT); None where there is none to be told.
    """

    def __init__(self, address: Any, target: str | None = None) -> None:
        self._head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        self._asks = target is not None
        self._address = address if isinstance(address, str) else tuple(address)
        self._family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._open: list[socket.socket] = []
        self._buffer = memoryview(bytearray(CHUNK))

    def close(self) -> None:
        for end in self._open:
            end.close()

    def connect(self, mode: str) -> socket.socket:
        end = socket.socket(self._family)
        if self._family == socket.AF_INET:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.connect(self._address)  # Without a timeout, which on UNIX sockets waits for nobody.
        end.settimeout(TEST_TIMEOUT)
        if self._asks:
            end.send(self._head)
            if not mode:
                return end
            _established(end)
        end.send(mode.encode())
        return end

    def _connect(self, mode: str, number: int) -> list[socket.socket]:
        self._open = [self.connect(mode) for _ in range(number)]
        return self._open

    def bulk(self, mode: str, connections: int, seconds: float) -> dict[str, float]:
        """Bytes a second, once warm. (`items`: what the CPU that was used went into.)"""
        with select.epoll() as epoll:
            ends = {end.fileno(): end for end in self._connect(mode, connections)}
            for end in ends.values():
                end.setblocking(False)
                epoll.register(end, select.EPOLLOUT if mode == "U" else select.EPOLLIN)
            started = time.perf_counter()
            warm = started + WARM_UP
            total = before = 0
            while (now := time.perf_counter()) < warm + seconds:
                if not before and now >= warm:
                    warm, before = now, total
                for fd, _ in epoll.poll(TEST_TIMEOUT):
                    end = ends[fd]
                    total += end.send(self._buffer) if mode == "U" else end.recv_into(self._buffer)
        return {"rate": (total - before) / (now - warm), "items": total}

    def ping_pong(self, seconds: float) -> dict[str, float]:
        """Seconds from message to message, on one connection."""
        (end,) = self._connect("E", 1)
        times: list[float] = []
        give_up = time.perf_counter() + seconds
        while (started := time.perf_counter()) < give_up:
            end.send(MESSAGE)
            received = 0
            while received < len(MESSAGE):
                received += _some(end.recv_into(self._buffer))
            times.append(time.perf_counter() - started)
        times.sort()
        return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}

    def messages(self, connections: int, seconds: float) -> dict[str, float]:
        """Messages a second, there and back, each connection with one under way."""
        with select.epoll() as epoll:
            ends = {end.fileno(): end for end in self._connect("E", connections)}
            missing = dict.fromkeys(ends, len(MESSAGE))
            for end in ends.values():
                epoll.register(end, select.EPOLLIN)
                end.send(MESSAGE)
            count = 0
            started = time.perf_counter()
            while (now := time.perf_counter()) < started + seconds:
                for fd, _ in epoll.poll(TEST_TIMEOUT):
                    end = ends[fd]
                    left = missing[fd] - _some(end.recv_into(self._buffer))
                    if not left:
                        count += 1
                        left = len(MESSAGE)
                        end.send(MESSAGE)
                    missing[fd] = left
        return {"rate": count / (now - started), "items": count}

    def connections(self, clients: int, seconds: float) -> dict[str, float]:
        """Connections a second: opened, a byte each way, closed by the server."""
        count = 0
        started = time.perf_counter()
        if clients == 1:
            while (now := time.perf_counter()) < started + seconds:
                with self.connect("C") as end:
                    while end.recv(16):
                        pass
                count += 1
            return {"rate": count / (now - started), "items": count}
        with select.epoll() as epoll:
            ends: dict[int, socket.socket] = {}

            asked: set[int] = set()

            def start() -> None:
                # The proxy's response is not waited for here: the others go on meanwhile.
                end = self.connect("" if self._asks else "C")
                end.setblocking(False)
                if self._asks:
                    asked.add(end.fileno())
                ends[end.fileno()] = end
                epoll.register(end, select.EPOLLIN)

            for _ in range(clients):
                start()
            while (now := time.perf_counter()) < started + seconds:
                for fd, _ in epoll.poll(TEST_TIMEOUT):
                    if fd in asked:
                        asked.discard(fd)
                        _established(ends[fd])
                        ends[fd].send(b"C")
                        continue
                    try:
                        while ends[fd].recv(16):
                            pass
                    except BlockingIOError:
                        continue
                    ends.pop(fd).close()
                    count += 1
                    start()
            self._open = list(ends.values())
        return {"rate": count / (now - started), "items": count}

    def write_write_read(self, times: int) -> dict[str, float]:
        """Median seconds for two small writes and the answer that takes both."""
        (end,) = self._connect("W", 1)
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            end.send(b"1")
            end.send(b"2")
            _some(len(end.recv(1)))
            taken.append(time.perf_counter() - started)
        return {"median": sorted(taken)[times // 2]}

    def idle(self, connections: int) -> dict[str, float]:
        """Connections that were used once, and stay."""
        for end in self._connect("E", connections):
            end.send(b"x")
            _some(len(end.recv(1)))
        return {"connections": connections}


def _established(end: socket.socket) -> None:
    """Read the response to CONNECT, which every proxy here sends at once."""
    head = end.recv(1000)
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or not head.endswith(b"\r\n\r\n"):
        raise ConnectionError(f"no tunnel: {head!r}")


def _some(count: int) -> int:
    if not count:
        raise ConnectionError("the other side closed")
    return count


def _jobs() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    """Be one of the two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "server":
        server = Server()
        print(server.port, flush=True)
        server.run()
    open_before: Client | None = None
    for job in _jobs():
        if open_before is not None:
            open_before.close()
        if not job:
            print("{}", flush=True)
            continue
        client = open_before = Client(job.pop("address"), job.pop("target", None))
        try:
            answer = getattr(client, job.pop("measure"))(**job)
        except OSError as e:
            answer = {"error": str(e)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
