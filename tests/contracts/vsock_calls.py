"""What each call on a vsock socket returns in each state: a table, and a program that makes them.

``python -m tests.contracts.vsock_calls`` makes every call and prints the outcomes as JSON. It runs
on a kernel's AF_VSOCK and in a simulated enclave; `test_vsock` holds both to the table. Expected is
what net/vmw_vsock/af_vsock.c does, with the virtio transports. Standard library only, and addresses
of the loopback only, which both have.
"""

# That shutdown or connect returns None is an outcome here.
# mypy: disable-error-code="func-returns-value"

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL = 1  # VMADDR_CID_LOCAL
ANY = 0xFFFF_FFFF
NOBODY = 4_000_000
"""A port on which nothing listens."""

SOL = socket.AF_VSOCK
SIZE, MIN_SIZE, MAX_SIZE, TIMEOUT, TIMEOUT_NEW = 0, 1, 2, 6, 8
"""SO_VM_SOCKETS_* (<linux/vm_sockets.h>)."""
SO_PROTOCOL, SO_DOMAIN = 38, 39
PATIENCE = struct.pack("ll", 60, 0)
"""Nothing in here waits so long: a call that does ends with EAGAIN."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Case:
    """One call in one state.

    Attributes:
        name: in words.
        act: makes the call.
        kernel: what a kernel's AF_VSOCK returns: errors by name, else the value.
        launcher: what a simulated enclave returns, if that differs; empty if not.
        why: it differs.
        since: the first Linux that returns `kernel`; older ones are not asked.
        launcher_since: the first Linux on which `launcher` is returned; likewise.
    """

    name: str
    act: Callable[[Sockets], object]
    kernel: str
    launcher: str = ""
    why: str = ""
    since: tuple[int, int] = (0, 0)
    launcher_since: tuple[int, int] = (0, 0)

    def outcome(self) -> str:
        """Make the call."""
        with Sockets() as sockets:
            try:
                return str(self.act(sockets))
            except OSError as e:
                return error_name(e.errno or 0)


class Sockets(contextlib.ExitStack):
    """Sockets in a state, closed afterwards."""

    def fresh(self) -> socket.socket:
        """Return a socket that nothing was done with."""
        created = self.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
        return put(created, socket.SO_RCVTIMEO, PATIENCE, socket.SOL_SOCKET)

    def bound(self) -> socket.socket:
        """Return a socket that has an address."""
        created = self.fresh()
        created.bind((LOCAL, ANY))
        return created

    def listening(self) -> socket.socket:
        """Return a socket that waits for connections."""
        created = self.bound()
        created.listen(8)
        return created

    def pair(self) -> Self:
        """Make a connection: `client` and `server`."""
        self.listener = self.listening()
        self.client = self.fresh()
        self.client.connect(self.listener.getsockname())
        self.server = self.enter_context(self.listener.accept()[0])
        put(self.server, socket.SO_RCVTIMEO, PATIENCE, socket.SOL_SOCKET)
        return self

    def refused(self) -> socket.socket:
        """Return a socket whose connect was refused."""
        created = self.fresh()
        with contextlib.suppress(ConnectionResetError):
            created.connect((LOCAL, NOBODY))
        return created

    def failed(self) -> socket.socket:
        """Return a non-blocking socket whose connect has begun and failed."""
        created = self.fresh()
        created.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            created.connect((LOCAL, NOBODY))
        events(created, select.POLLOUT)
        return created

    def ended(self) -> Self:
        """Make a connection whose server has closed."""
        self.pair().server.close()
        events(self.client, select.POLLIN)
        return self


def events(one: socket.socket, wanted: int, milliseconds: int = 20_000) -> int:
    """Wait for an event; return all."""
    poll = select.poll()
    poll.register(one, wanted | select.POLLRDHUP)
    return dict(poll.poll(milliseconds)).get(one.fileno(), 0)


def named(mask: int) -> str:
    """Return a poll's events by name."""
    names = ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP", "POLLRDHUP")
    return " ".join(name for name in names if mask & getattr(select, name)) or "none"


def call(name: str, *arguments: object) -> int:
    """Call the C library, with what Python's own functions would not pass on."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def then(*results: object) -> object:
    """Return the last of some results."""
    return results[-1]


def get(one: socket.socket, number: int, size: int, level: int = SOL) -> bytes:
    """Return an option. Python's own method takes 64 bits only, whatever the option."""
    value, length = ctypes.create_string_buffer(size), ctypes.c_int(size)
    call("getsockopt", one.fileno(), level, number, value, ctypes.byref(length))
    return value.raw[: length.value]


def put(one: socket.socket, number: int, value: bytes, level: int = SOL) -> socket.socket:
    """Set an option."""
    call("setsockopt", one.fileno(), level, number, value, len(value))
    return one


def get_at(level: int) -> Callable[[Sockets], object]:
    """Return a call that gets an option of a level."""
    return lambda s: get(s.fresh(), 1, 4, level)


def put_at(level: int) -> Callable[[Sockets], object]:
    """Return a call that sets an option of a level."""
    return lambda s: put(s.fresh(), 1, bytes(4), level)


def option(one: socket.socket, number: int, size: int = 8, level: int = SOL) -> int:
    """Return an option that is a number, or a struct timeval in microseconds."""
    value = get(one, number, size, level)
    if len(value) == 16:
        seconds, micros = (int.from_bytes(value[at : at + 8], "little") for at in (0, 8))
        return seconds * 1_000_000 + micros
    return int.from_bytes(value, "little")


def set_number(one: socket.socket, number: int, value: int) -> socket.socket:
    """Set an option of 64 bits."""
    return put(one, number, value.to_bytes(8, "little"))


def set_timeout(one: socket.socket, number: int, seconds: int, micros: int) -> socket.socket:
    """Set a connect timeout."""
    return put(one, number, struct.pack("ll", seconds, micros))


def accepted_option(s: Sockets, number: int, value: int) -> int:
    """Return an accepted socket's option that was set on the listener."""
    listener = set_number(s.listening(), number, value)
    s.fresh().connect(listener.getsockname())
    return option(s.enter_context(listener.accept()[0]), number)


def connect_again(one: socket.socket, s: Sockets) -> str:
    """Connect to something that listens."""
    one.connect(s.listening().getsockname())
    return "connected"


def error_name(code: int) -> str:
    """Return an error's name: one that has two, by that of sockets."""
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def attempt(act: Callable[[], object]) -> str:
    """Return a result, or the error's name."""
    try:
        return str(act())
    except OSError as e:
        return error_name(e.errno or 0)


def pending_error(one: socket.socket) -> str:
    """Return SO_ERROR's name; reading it clears it."""
    return error_name(option(one, socket.SO_ERROR, 4, socket.SOL_SOCKET))


def sigpipe(one: socket.socket) -> str:
    """Return whether sending to an ended connection raises SIGPIPE."""
    seen: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: seen.append(number))
    try:
        with contextlib.suppress(BrokenPipeError):
            _send(one, 0)
        return "SIGPIPE" if seen else "no signal"
    finally:
        signal.signal(signal.SIGPIPE, before)


def _send(one: socket.socket, flags: int) -> int:
    """Send until it fails, in a moment: the peer's end may still be on its way."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        one.send(b"x", flags)
    return 0


def unread(s: Sockets) -> str:
    """Return what the client reads once the server has closed without reading what came."""
    s.pair().client.sendall(b"x")
    events(s.server, select.POLLIN)
    s.server.close()
    events(s.client, select.POLLIN)
    return attempt(lambda: s.client.recv(1))


def after_shutdown(s: Sockets, how: int) -> str:
    """Return what recv gives after data came and this end was shut down."""
    s.pair().server.sendall(b"x")
    events(s.client, select.POLLIN)
    s.client.shutdown(how)
    return attempt(lambda: s.client.recv(1))


def descriptors_sent(s: Sockets) -> str:
    """Return how many descriptors come with a byte that one was sent with."""
    socket.send_fds(s.pair().client, [b"x"], [s.client.fileno()])
    data, fds, _, _ = socket.recv_fds(s.server, 1, 1)
    for fd in fds:
        os.close(fd)
    return f"{data!r}, {len(fds)} descriptors"


def ioctl(one: socket.socket, request: int) -> int:
    """Make an ioctl that returns an int."""
    return int.from_bytes(fcntl.ioctl(one, request, bytes(4)), "little")


def duplicated(s: Sockets) -> str:
    """Return what a duplicate of a connected socket is."""
    with socket.socket(fileno=os.dup(s.pair().client.fileno())) as copy:
        return f"{copy.family.name} {copy.getpeername() == s.listener.getsockname()}"


_UNIX = "a UNIX socket's: receiving and polling do not stop, so that data is as fast as outside"
_STREAM = socket.SOCK_STREAM
_OOB = socket.MSG_OOB
_FIONREAD, _SIOCOUTQ, _LOCAL_CID = 0x541B, 0x5411, 0x7B9
_V = socket.AF_VSOCK
_RETRY = (6, 12)
"""A refused connect leaves its error in the socket of an older Linux (seen with 6.1.176), where the
next connect returns it. Stable releases of 2026, 6.1.192 among them, take it out (sock_error)."""

CASES = (
    # --- socket ---
    Case("socket, datagrams", lambda _: socket.socket(_V, socket.SOCK_DGRAM), "ENODEV"),
    Case("socket, raw", lambda _: socket.socket(_V, socket.SOCK_RAW), "ESOCKTNOSUPPORT"),
    Case("socket, of a protocol", lambda _: socket.socket(_V, _STREAM, 1), "EPROTONOSUPPORT"),
    Case("socket, protocol AF_VSOCK",
         lambda s: s.enter_context(socket.socket(_V, _STREAM, 40)).proto, "40"),
    Case("socket, no such type", lambda _: call("socket", 40, 12, 0), "EINVAL"),
    Case("socket, no such flag", lambda _: call("socket", 40, 0x11, 0), "EINVAL"),
    Case("socketpair", lambda _: call("socketpair", 40, 1, 0, (ctypes.c_int * 2)()), "EOPNOTSUPP"),
    Case("SO_TYPE", lambda s: option(s.fresh(), socket.SO_TYPE, 4, 1), "1"),
    Case("SO_DOMAIN", lambda s: option(s.fresh(), SO_DOMAIN, 4, 1), "40"),
    Case("SO_PROTOCOL", lambda s: option(s.fresh(), SO_PROTOCOL, 4, 1), "0"),
    Case("SO_ACCEPTCONN, unconnected",
         lambda s: option(s.fresh(), socket.SO_ACCEPTCONN, 4, 1), "0"),
    Case("SO_ACCEPTCONN, listening",
         lambda s: option(s.listening(), socket.SO_ACCEPTCONN, 4, 1), "1"),
    Case("SO_PEERCRED, connected",
         lambda s: struct.unpack("iii", get(s.pair().client, socket.SO_PEERCRED, 12, 1)),
         "(0, -1, -1)"),
    # --- bind, listen ---
    Case("getsockname, unbound", lambda s: s.fresh().getsockname(), f"({ANY}, {ANY})"),
    Case("bind, a foreign CID", lambda s: s.fresh().bind((77, 5000)), "EADDRNOTAVAIL"),
    Case("bind, the host's CID", lambda s: s.fresh().bind((0, 5000)), "EADDRNOTAVAIL"),
    Case("bind, twice", lambda s: s.bound().bind((LOCAL, ANY)), "EINVAL"),
    Case("bind, connected", lambda s: s.pair().client.bind((LOCAL, ANY)), "EINVAL"),
    Case("bind, a port in use", lambda s: s.fresh().bind(s.bound().getsockname()), "EADDRINUSE"),
    Case("bind, a port in use, any CID",
         lambda s: s.fresh().bind((ANY, s.bound().getsockname()[1])), "EADDRINUSE"),
    Case("bind, too short an address",
         lambda s: call("bind", s.fresh().fileno(), bytes(16), 15), "EINVAL"),
    Case("bind, too long an address",
         lambda s: call("bind", s.fresh().fileno(), bytes(200), 200), "EINVAL"),
    Case("bind, another family",
         lambda s: call("bind", s.fresh().fileno(), struct.pack("HHII4x", 2, 0, ANY, ANY), 16),
         "EINVAL"),
    Case("bind, a bad pointer",
         lambda s: call("bind", s.fresh().fileno(), ctypes.c_void_p(8), 16), "EFAULT"),
    Case("listen, unbound", lambda s: s.fresh().listen(), "EINVAL"),
    Case("listen, twice", lambda s: s.listening().listen(), "None"),
    Case("listen, connected", lambda s: s.pair().client.listen(), "EINVAL"),
    Case("listen, after a refused connect", lambda s: s.refused().listen(), "None"),
    Case("listen, after a failed non-blocking connect", lambda s: s.failed().listen(), "EINVAL",
         "None", "a UNIX socket's: listen does not stop"),
    # --- connect ---
    Case("connect, nothing listens", lambda s: s.fresh().connect((LOCAL, NOBODY)), "ECONNRESET"),
    Case("connect, too short an address",
         lambda s: call("connect", s.fresh().fileno(), bytes(16), 15), "EINVAL"),
    Case("connect, another family",
         lambda s: call("connect", s.fresh().fileno(), struct.pack("HHII4x", 2, 0, 1, 1), 16),
         "EINVAL"),
    Case("connect, twice",
         lambda s: then(s.pair(), s.client.connect(s.listener.getsockname())), "EISCONN"),
    Case("connect, listening", lambda s: connect_again(s.listening(), s), "EINVAL"),
    Case("connect, listening, to a refusal",
         lambda s: s.listening().connect((LOCAL, NOBODY)), "EINVAL"),
    Case("connect, accepted",
         lambda s: then(s.pair(), s.server.connect(s.listener.getsockname())), "EISCONN"),
    Case("connect, after a refusal",
         lambda s: connect_again(s.refused(), s), "connected", since=_RETRY),
    Case("connect, after a shutdown",
         lambda s: then(s.pair(), s.client.shutdown(2), s.client.connect((LOCAL, NOBODY))),
         "EINVAL"),
    Case("connect, non-blocking",
         lambda s: then(sock := s.fresh(), sock.setblocking(False), sock.connect((LOCAL, NOBODY))),
         "EINPROGRESS"),
    Case("connect, non-blocking, SO_ERROR", lambda s: pending_error(s.failed()), "ECONNRESET"),
    Case("connect, non-blocking, SO_ERROR twice",
         lambda s: then(sock := s.failed(), pending_error(sock), pending_error(sock)), "0"),
    Case("connect, non-blocking, again after it failed",
         lambda s: connect_again(s.failed(), s), "EALREADY"),
    Case("connect, non-blocking, again after it failed and SO_ERROR",
         lambda s: then(sock := s.failed(), pending_error(sock), connect_again(sock, s)),
         "EALREADY"),
    Case("connect, blocking after a non-blocking one failed",
         lambda s: then(sock := s.failed(), sock.setblocking(True), connect_again(sock, s)),
         "ECONNRESET"),
    Case("connect, blocking after a non-blocking one failed and SO_ERROR",
         lambda s: then(sock := s.failed(), pending_error(sock), sock.setblocking(True),
                        connect_again(sock, s)), "ETIMEDOUT"),
    Case("connect, blocking, the third time",
         lambda s: then(sock := s.failed(), sock.setblocking(True),
                        attempt(lambda: connect_again(sock, s)), connect_again(sock, s)),
         "connected", since=_RETRY),
    Case("getsockname, after a refusal", lambda s: s.refused().getsockname()[0], f"{ANY}"),
    Case("SO_ERROR, after a refusal",
         lambda s: pending_error(s.refused()), "0", since=_RETRY),
    # --- getpeername, accept ---
    Case("getpeername, unconnected", lambda s: s.fresh().getpeername(), "ENOTCONN"),
    Case("getpeername, listening", lambda s: s.listening().getpeername(), "ENOTCONN"),
    Case("getpeername, after a refusal", lambda s: s.refused().getpeername(), "ENOTCONN"),
    Case("getpeername, connected",
         lambda s: s.pair().client.getpeername() == s.listener.getsockname(), "True"),
    Case("getpeername, after the peer closed",
         lambda s: s.ended().client.getpeername() == s.listener.getsockname(), "True"),
    Case("getpeername, after a shutdown",
         lambda s: then(s.pair(), s.client.shutdown(1), s.client.getpeername()), "ENOTCONN"),
    Case("getpeername, of a duplicate", duplicated, "AF_VSOCK True"),
    Case("accept, unbound", lambda s: s.fresh().accept(), "EINVAL"),
    Case("accept, bound", lambda s: s.bound().accept(), "EINVAL"),
    Case("accept, connected", lambda s: s.pair().client.accept(), "EINVAL"),
    Case("accept, non-blocking",
         lambda s: then(sock := s.listening(), sock.setblocking(False), sock.accept()), "EAGAIN"),
    Case("accept4, no such flag",
         lambda s: call("accept4", s.listening().fileno(), None, None, 4), "EINVAL"),
    Case("accept, after a shutdown of the listener",
         lambda s: then(sock := s.listening(), attempt(lambda: sock.shutdown(2)),
                        sock.setblocking(False), sock.accept()), "EAGAIN"),
    Case("connect, after a shutdown of the listener",
         lambda s: then(sock := s.listening(), attempt(lambda: sock.shutdown(2)),
                        s.fresh().connect(sock.getsockname())), "None"),
    # --- shutdown ---
    Case("shutdown, unconnected", lambda s: s.fresh().shutdown(2), "ENOTCONN"),
    Case("shutdown, listening", lambda s: s.listening().shutdown(2), "ENOTCONN"),
    Case("shutdown, after a refusal", lambda s: s.refused().shutdown(1), "ENOTCONN"),
    Case("shutdown, no such half", lambda s: s.fresh().shutdown(3), "EINVAL"),
    Case("shutdown, twice",
         lambda s: then(s.pair(), s.client.shutdown(1), s.client.shutdown(1)), "None"),
    Case("shutdown, after the peer closed", lambda s: s.ended().client.shutdown(1), "None"),
    # --- sending ---
    Case("send, unconnected", lambda s: s.fresh().send(b"x"), "ENOTCONN"),
    Case("send, listening", lambda s: s.listening().send(b"x"), "ENOTCONN"),
    Case("send, after a refusal", lambda s: s.refused().send(b"x"), "ENOTCONN"),
    Case("sendto an address, unconnected",
         lambda s: s.fresh().sendto(b"x", (LOCAL, NOBODY)), "EOPNOTSUPP"),
    Case("sendto an address, connected",
         lambda s: s.pair().client.sendto(b"x", (LOCAL, NOBODY)), "EISCONN"),
    Case("send, urgent, unconnected", lambda s: s.fresh().send(b"x", _OOB), "EOPNOTSUPP"),
    Case("send, urgent, connected", lambda s: s.pair().client.send(b"x", _OOB), "EOPNOTSUPP"),
    Case("send, after a shutdown for writing",
         lambda s: then(s.pair(), s.client.shutdown(1), s.client.send(b"x")), "EPIPE"),
    Case("send, after a shutdown for reading",
         lambda s: then(s.pair(), s.client.shutdown(0), s.client.send(b"x")), "1"),
    Case("send, after the peer closed",
         lambda s: _send(s.ended().client, socket.MSG_NOSIGNAL), "EPIPE"),
    Case("send, after the peer closed, its signal",
         lambda s: sigpipe(s.ended().client), "SIGPIPE", since=(6, 7)),
    Case("send, after the peer's shutdown for reading",
         lambda s: then(s.pair(), s.server.shutdown(0), _send(s.client, socket.MSG_NOSIGNAL)),
         "EPIPE"),
    Case("send, after the peer's shutdown for writing",
         lambda s: then(s.pair(), s.server.shutdown(1), events(s.client, select.POLLIN),
                        s.client.send(b"x")), "1"),
    Case("send, nothing", lambda s: call("send", s.pair().client.fileno(), b"", 0, 0), "0"),
    Case("send, a descriptor", descriptors_sent, "b'x', 0 descriptors", "EPERM",
         "a UNIX socket's, and Linux 6.16's: before, descriptors pass", launcher_since=(6, 16)),
    # --- receiving ---
    Case("recv, unconnected", lambda s: s.fresh().recv(1), "ENOTCONN", "EINVAL", _UNIX),
    Case("recv, bound", lambda s: s.bound().recv(1), "ENOTCONN", "EINVAL", _UNIX),
    Case("recv, listening", lambda s: s.listening().recv(1), "ENOTCONN", "EINVAL", _UNIX),
    Case("recv, after a refusal", lambda s: s.refused().recv(1), "ENOTCONN", "EINVAL", _UNIX),
    Case("recv, after a failed non-blocking connect",
         lambda s: s.failed().recv(1), "ENOTCONN", "EINVAL", _UNIX),
    Case("recv, nothing there",
         lambda s: s.pair().client.recv(1, socket.MSG_DONTWAIT), "EAGAIN"),
    Case("recv, of no bytes, nothing there",
         lambda s: call("recv", s.pair().client.fileno(), ctypes.create_string_buffer(1), 0,
                        socket.MSG_DONTWAIT), "0", "EAGAIN", _UNIX),
    Case("recv, urgent, unconnected", lambda s: s.fresh().recv(1, _OOB), "ENOTCONN"),
    Case("recv, urgent, listening", lambda s: s.listening().recv(1, _OOB), "ENOTCONN"),
    Case("recv, urgent, connected", lambda s: s.pair().client.recv(1, _OOB), "EOPNOTSUPP"),
    Case("recvmsg, urgent, connected",
         lambda s: s.pair().client.recvmsg(1, 0, _OOB), "EOPNOTSUPP"),
    Case("recv, after the peer closed", lambda s: s.ended().client.recv(1), "b''"),
    Case("recv, after the peer closed with data unread", unread, "b''", "ECONNRESET", _UNIX),
    Case("recv, after a shutdown for reading",
         lambda s: then(s.pair(), s.client.shutdown(0), s.client.recv(1)), "b''"),
    Case("recv, after a shutdown for reading, data there",
         lambda s: after_shutdown(s, 0), "b''", "b'x'", _UNIX),
    Case("recv, after a shutdown for writing, data there",
         lambda s: after_shutdown(s, 1), "b'x'"),
    # --- options ---
    Case("buffer size", lambda s: option(s.fresh(), SIZE), "262144"),
    Case("least buffer size", lambda s: option(s.fresh(), MIN_SIZE), "128"),
    Case("most buffer size", lambda s: option(s.fresh(), MAX_SIZE), "262144"),
    Case("buffer size, too short", lambda s: option(s.fresh(), SIZE, 7), "EINVAL"),
    Case("buffer size, too long", lambda s: len(get(s.fresh(), SIZE, 20)), "8"),
    Case("buffer size, no pointer",
         lambda s: call("getsockopt", s.fresh().fileno(), SOL, SIZE, None, None), "EFAULT"),
    Case("set buffer size",
         lambda s: option(set_number(s.fresh(), SIZE, 4096), SIZE), "4096"),
    Case("set buffer size, above the most",
         lambda s: option(set_number(s.fresh(), SIZE, 1 << 20), SIZE), "262144"),
    Case("set buffer size, below the least",
         lambda s: option(set_number(s.fresh(), SIZE, 1), SIZE), "128"),
    Case("set most buffer size, below the size",
         lambda s: option(set_number(s.fresh(), MAX_SIZE, 4096), SIZE), "4096"),
    Case("set least buffer size, above the size",
         lambda s: option(set_number(set_number(s.fresh(), SIZE, 4096), MIN_SIZE, 8192), SIZE),
         "8192"),
    Case("set buffer size, too short",
         lambda s: put(s.fresh(), SIZE, bytes(7)), "EINVAL"),
    Case("buffer size, of an accepted socket",
         lambda s: accepted_option(s, SIZE, 4096), "4096"),
    Case("connect timeout", lambda s: option(s.fresh(), TIMEOUT, 16), "2000000"),
    Case("connect timeout, new form", lambda s: option(s.fresh(), TIMEOUT_NEW, 16), "2000000"),
    Case("connect timeout, too short", lambda s: option(s.fresh(), TIMEOUT, 8), "EINVAL"),
    Case("set connect timeout",
         lambda s: option(set_timeout(s.fresh(), TIMEOUT, 3, 500_000), TIMEOUT, 16), "3500000"),
    Case("set connect timeout, seen in the new form",
         lambda s: option(set_timeout(s.fresh(), TIMEOUT, 3, 0), TIMEOUT_NEW, 16), "3000000"),
    Case("set connect timeout, none",
         lambda s: option(set_timeout(s.fresh(), TIMEOUT, 0, 0), TIMEOUT, 16), "2000000"),
    Case("set connect timeout, negative",
         lambda s: set_timeout(s.fresh(), TIMEOUT, -1, 0), "ERANGE"),
    Case("set connect timeout, too many microseconds",
         lambda s: set_timeout(s.fresh(), TIMEOUT, 1, 1_000_000), "ERANGE"),
    Case("set connect timeout, too short",
         lambda s: put(s.fresh(), TIMEOUT, bytes(8)), "EINVAL"),
    Case("an option of other transports", lambda s: option(s.fresh(), 3), "ENOPROTOOPT"),
    Case("set an option of other transports",
         lambda s: set_number(s.fresh(), 5, 1), "ENOPROTOOPT"),
    # Python's http.client goes on after ENOPROTOOPT alone.
    Case("an option of IP", get_at(socket.IPPROTO_IP), "ENOPROTOOPT"),
    Case("an option of TCP", get_at(socket.IPPROTO_TCP), "ENOPROTOOPT"),
    Case("an option of no protocol", get_at(999), "ENOPROTOOPT"),
    Case("set an option of IP", put_at(socket.IPPROTO_IP), "ENOPROTOOPT"),
    Case("set an option of IPv6", put_at(socket.IPPROTO_IPV6), "ENOPROTOOPT"),
    Case("set an option of TCP", put_at(socket.IPPROTO_TCP), "ENOPROTOOPT"),
    Case("set an option of no protocol", put_at(999), "ENOPROTOOPT"),
    Case("set TCP_NODELAY, connected",
         lambda s: put(s.pair().client, socket.TCP_NODELAY, bytes(4), socket.IPPROTO_TCP),
         "ENOPROTOOPT"),
    # --- ioctl ---
    Case("ioctl, the CID, on a socket", lambda s: ioctl(s.fresh(), _LOCAL_CID), "ENOTTY",
         since=(6, 11)),
    Case("ioctl SIOCOUTQ, unconnected", lambda s: ioctl(s.fresh(), _SIOCOUTQ), "EOPNOTSUPP",
         "0", "a UNIX socket's: ioctl does not stop", since=(6, 11)),
    Case("ioctl SIOCOUTQ, connected", lambda s: ioctl(s.pair().client, _SIOCOUTQ), "0",
         since=(6, 11)),
    Case("ioctl FIONREAD, unconnected", lambda s: ioctl(s.fresh(), _FIONREAD), "EOPNOTSUPP",
         "0", "a UNIX socket's: ioctl does not stop", since=(6, 15)),
    Case("ioctl FIONREAD, connected", lambda s: ioctl(s.pair().client, _FIONREAD), "0",
         since=(6, 15)),
    # --- polling ---
    Case("poll, unconnected", lambda s: named(events(s.fresh(), 5, 0)), "POLLOUT",
         "POLLOUT POLLHUP", _UNIX),
    Case("poll, listening", lambda s: named(events(s.listening(), 5, 0)), "none"),
    Case("poll, connected", lambda s: named(events(s.pair().client, 5)), "POLLOUT"),
    Case("poll, after a failed non-blocking connect",
         lambda s: named(events(s.failed(), 5)), "POLLOUT POLLERR", "POLLOUT POLLHUP", _UNIX),
    Case("poll, after the peer's shutdown for writing",
         lambda s: then(s.pair(), s.server.shutdown(1), events(s.client, select.POLLIN),
                        named(events(s.client, 5))), "POLLIN POLLOUT POLLRDHUP"),
    Case("poll, after the peer closed",
         lambda s: named(events(s.ended().client, 5)), "POLLIN POLLOUT POLLRDHUP",
         "POLLIN POLLOUT POLLHUP POLLRDHUP", _UNIX),
    Case("poll, both ends shut down for writing",
         lambda s: then(s.pair(), s.server.shutdown(1), events(s.client, select.POLLIN),
                        s.client.shutdown(1), named(events(s.client, 5))),
         "POLLIN POLLHUP POLLRDHUP", "POLLIN POLLOUT POLLHUP POLLRDHUP", _UNIX),
)  # fmt: skip


def main() -> int:
    """Make all the calls."""
    json.dump({case.name: case.outcome() for case in CASES}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
