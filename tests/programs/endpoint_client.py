"""A client of the local endpoint for the storm and the soak: one connection, plain http.client."""

from __future__ import annotations

import http.client
import json
from typing import Any, Self


class NoAnswerError(Exception):
    """No HTTP response with a JSON object came; `timed_out` tells a hang from a lost connection."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class EndpointClient:
    """Calls KMS operations of the endpoint on a port of 127.0.0.1, one after another."""

    def __init__(self, port: int, *, timeout: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def call(self, operation: str, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the response.

        Raises:
            NoAnswerError: there was none. The next call opens a new connection.
        """
        headers = {"X-Amz-Target": f"TrentService.{operation}"}
        try:
            self._connection.request("POST", "/", json.dumps(parameters).encode(), headers)
            with self._connection.getresponse() as response:
                return response.status, dict(json.loads(response.read() or b"{}"))
        except (OSError, http.client.HTTPException, ValueError, TypeError) as e:
            self._connection.close()
            raise NoAnswerError(
                f"{type(e).__name__}: {e}", timed_out=isinstance(e, TimeoutError)
            ) from e

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
