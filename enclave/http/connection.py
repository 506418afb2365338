"""One request and its response at a time, on one connection."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from enclave.http.errors import HttpTimeoutError
from enclave.http.response import Response, ResponseReader

if TYPE_CHECKING:
    from enclave.http.errors import Stage
    from enclave.http.stream import Stream


class HttpConnection:
    """A connection to one server. For one thread at a time.

    Attributes:
        reusable: whether another request may be sent: the last response was complete, the server
            keeps the connection open, and nothing was left to read.
    """

    __slots__ = ("_reader", "_stream", "idle_since", "reusable")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.reusable = True
        self.idle_since = 0.0
        self._reader: ResponseReader | None = None

    def exchange(
        self, request: bytes, *, send_by: float, read_timeout: float, deadline: float, max_body: int
    ) -> Response:
        """Send a request and receive the whole response.

        After an error, whichever, the connection is closed.

        Args:
            request: as it goes over the wire.
            send_by: moment by which it must be sent.
            read_timeout: seconds for the response, first byte to last.
            deadline: moment by which all must be done.
            max_body: bytes of the response's body, at most.

        Raises:
            HttpError: there is no response; see its subclasses.
        """
        self.reusable = False
        stream = self._stream
        stage: Stage = "send"
        try:
            stream.send(request, send_by)
            stage = "response"
            deadline = min(deadline, monotonic() + read_timeout)
            reader = ResponseReader(max_body)
            complete = False
            while not complete:
                data = stream.receive(deadline)
                if data:
                    complete = reader.receive(data)
                else:
                    reader.end()
                    complete = True
            response = reader.response
            assert response is not None  # noqa: S101 (for mypy: it is complete)
            self.reusable = reader.may_reuse and stream.is_quiet()
        except TimeoutError:
            raise HttpTimeoutError(stage) from None
        finally:
            if not self.reusable:
                stream.close()
        return response

    def begin(self, request: bytes, *, max_body: int) -> None:
        """Send a request, whose response `receive_now` receives. After an error it is closed.

        Args:
            request: as it goes over the wire.
            max_body: bytes of the response's body, at most.

        Raises:
            HttpError: the kernel does not take all of it at once, or the connection broke.
        """
        self.reusable = False
        try:
            self._stream.send(request, monotonic())
        except TimeoutError:
            self._stream.close()
            raise HttpTimeoutError("send") from None
        except BaseException:
            self._stream.close()
            raise
        self._reader = ResponseReader(max_body)

    def receive_now(self) -> Response | None:
        """Read what has come of the response; return the response if that is all of it.

        After an error, whichever, the connection is closed.

        Raises:
            HttpError: there is no response; see its subclasses.
        """
        stream, reader = self._stream, self._reader
        assert reader is not None  # noqa: S101 (for mypy: a request has been sent)
        try:
            while (data := stream.receive_now()) is not None:
                if not data:
                    reader.end()
                    break
                if reader.receive(data):
                    break
            if (response := reader.response) is None:
                return None
            self._reader = None
            self.reusable = reader.may_reuse and stream.is_quiet()
        except BaseException:
            stream.close()
            raise
        if not self.reusable:
            stream.close()
        return response

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._stream.fileno()

    def is_quiet(self) -> bool:
        """Return whether it is open and nothing has come since the last response."""
        return self._stream.is_quiet()

    def close(self) -> None:
        """Close it."""
        self.reusable = False
        self._stream.close()
