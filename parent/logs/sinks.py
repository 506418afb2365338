"""Sinks of log lines: the journal, a file of bounded size, or the daemon's own log."""

from __future__ import annotations

import contextlib
import errno
import logging
import logging.handlers
import os
import socket
import sys
import time
from typing import NoReturn, Protocol

from parent.logs.settings import LogFile
from vsock_proxy.errors import ConfigurationError

JOURNAL = "/run/systemd/journal/socket"
"""systemd's "Native Journal Protocol", with a field a line."""

_GONE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN)

enclave_log = logging.getLogger("parent.logs.enclave")


class Sink(Protocol):
    """Writes lines; each is neutralised (`lines.neutralise`)."""

    def write(self, enclave: str, cid: int | None, line: str) -> None:
        """Write one line.

        Raises:
            OSError: it is lost.
        """
        ...

    def close(self) -> None:
        """Close what it holds."""
        ...


def open_sink(to: str | LogFile) -> Sink:
    """Open a sink.

    Raises:
        ConfigurationError: it cannot be written to.
    """
    if isinstance(to, LogFile):
        return _File(to)
    return Journal() if to == "journal" else _OwnLog()


class Journal:
    """Sends datagrams to journald, which looks up by itself who sent them.

    The `systemd-python` package would need a compiler and libsystemd for what is one `sendto`: a
    line of ours always fits into one datagram and never holds a line break, so neither of the
    protocol's two complications arises.
    """

    def __init__(self, path: str = JOURNAL) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # If the journal is slow lines are lost; waiting for it would hold up all enclaves.
        self._socket.settimeout(0)
        try:
            self._socket.connect(self._path)
        except OSError as e:
            self._socket.close()
            raise ConfigurationError(
                f"no journal at {path}: {e.strerror}",
                hint="without systemd, log to a file or to stderr",
            ) from e

    def write(self, enclave: str, cid: int | None, line: str) -> None:
        """Send one line; see `Sink`."""
        fields = [f"MESSAGE={line}", "PRIORITY=6", "SYSLOG_IDENTIFIER=enclave"]
        fields += [f"ENCLAVE={enclave}"] if enclave else []
        fields += [f"CID={cid}"] if cid is not None else []
        datagram = "".join(f"{field}\n" for field in fields).encode()
        try:
            self._socket.send(datagram)
        except OSError as e:
            if e.errno not in _GONE:
                raise
            # journald was restarted: its socket is another one, and may not be there yet. From the
            # second failure on Linux says that this one is not connected.
            self._socket.connect(self._path)
            self._socket.send(datagram)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class _File:
    def __init__(self, to: LogFile) -> None:
        try:
            if to.path.is_fifo():  # Opening it would wait for a reader.
                raise ConfigurationError(f"cannot write {to.path}: it is a FIFO")
            self._handler = _Rotating(
                to.path, maxBytes=to.size, backupCount=to.keep, encoding="utf-8"
            )
        except OSError as e:
            raise ConfigurationError(
                f"cannot write {to.path}: {e.strerror}",
                hint="the folder has to be there, and open to the user who runs the daemon",
            ) from e
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self._handler.setFormatter(formatter)

    def write(self, enclave: str, cid: int | None, line: str) -> None:
        message = f"{_who(enclave, cid)}: {line}"
        self._handler.emit(logging.LogRecord("enclave", logging.INFO, "", 0, message, None, None))

    def close(self) -> None:
        # On a full disk it cannot write what is left over from lines that are counted as lost.
        with contextlib.suppress(OSError):
            self._handler.close()


class _Rotating(logging.handlers.RotatingFileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; into a new file if somebody has moved or deleted this one."""
        stream = self.stream
        if stream and not self._is_there(stream.fileno()):
            self.stream = None
            with contextlib.suppress(OSError):  # What was not written is counted already.
                stream.close()
        super().emit(record)

    def _is_there(self, descriptor: int) -> bool:
        try:
            now = os.stat(self.baseFilename)  # noqa: PTH116 (a str)
        except FileNotFoundError:
            return False
        return os.path.samestat(now, os.fstat(descriptor))

    def handleError(self, record: logging.LogRecord) -> NoReturn:  # noqa: ARG002, N802
        """Raise the error, such as a full disk: the caller counts it."""
        error = sys.exception()
        raise error if isinstance(error, OSError) else OSError(str(error))


class _OwnLog:
    def write(self, enclave: str, cid: int | None, line: str) -> None:
        enclave_log.info("%s: %s", _who(enclave, cid), line, extra={"enclave": enclave, "cid": cid})

    def close(self) -> None:
        pass


def _who(enclave: str, cid: int | None) -> str:
    return enclave if cid is None else f"{enclave}[{cid}]"
