"""Asks an enclave's agent over vsock: for its numbers, and to end its program.

The enclave is not trusted: its response is bounded in bytes and in time, whatever it sends.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Final, Protocol

import h11

from vsock_proxy.errors import AgentError
from vsock_proxy.net.dialing import SocketDialer, reason_of
from vsock_proxy.service.exposition import MAX_BYTES
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

DIAL_TIMEOUT: Final = 2.0
"""Seconds to connect: a machine that runs does it in less than one."""

METRICS_TIMEOUT: Final = 5.0
"""Seconds for the numbers, from the first byte to the last."""

RESPONSE_TIMEOUT: Final = 3.0
"""Seconds for a response once the program has ended."""

_MAX_HEAD: Final = 8_192
_CHUNK: Final = 65_536


class EnclaveAgentError(AgentError):
    """The agent in an enclave gave no response, or one that cannot be used."""

    default_hint = "does `enclave-agent serve` run there, with --control?"


class EnclaveAgent(Protocol):
    """What the life cycle asks of an agent; `VsockAgent`."""

    def stop(self, seconds: float) -> bool:
        """Have the program end within so many seconds; return whether it has ended.

        Raises:
            EnclaveAgentError: no response in time.
        """
        ...


class VsockAgent:
    """The agent that listens at an address of an enclave's."""

    def __init__(
        self,
        address: Address,
        *,
        dialer: Dialer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._dialer = dialer or SocketDialer()
        self._monotonic = monotonic

    def stop(self, seconds: float) -> bool:
        """See `EnclaveAgent.stop`."""
        body = json.dumps({"seconds": seconds}).encode()
        content = self._ask("POST", "/stop", seconds + RESPONSE_TIMEOUT, body, most=1_024)
        try:
            return bool(parse_json(content)["status"] == "ended")
        except (ValueError, TypeError, KeyError):
            raise self._error("its response is malformed") from None

    def metrics(self) -> bytes:
        """Return the numbers, as the agent wrote them.

        Raises:
            EnclaveAgentError: no response in time, or one that is too large.
        """
        return self._ask("GET", "/metrics", METRICS_TIMEOUT, most=MAX_BYTES)

    def _ask(
        self, method: str, target: str, seconds: float, body: bytes = b"", *, most: int
    ) -> bytes:
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        headers = [("Host", "enclave"), ("Connection", "close"), ("Content-Length", str(len(body)))]
        request = client.send(h11.Request(method=method, target=target, headers=headers)) or b""
        request += (client.send(h11.Data(data=body)) or b"") if body else b""
        request += client.send(h11.EndOfMessage()) or b""
        try:
            with contextlib.closing(self._dialer.dial(self._address, DIAL_TIMEOUT)) as connection:
                until = self._monotonic() + seconds
                connection.sendall(request)
                content = bytearray()
                status = 0
                while True:
                    match client.next_event():
                        case h11.NEED_DATA:
                            left = until - self._monotonic()
                            if left <= 0:
                                raise self._error(f"no whole response within {seconds:g} s")
                            connection.settimeout(left)
                            client.receive_data(connection.recv(_CHUNK))
                        case h11.Response(status_code=status):
                            pass
                        case h11.Data(data=data):
                            content += data
                            if len(content) > most:
                                raise self._error(f"a response of more than {most} bytes")
                        case h11.EndOfMessage():
                            break
                        case h11.ConnectionClosed():
                            raise self._error("it hung up")
        except TimeoutError:
            raise self._error(f"no whole response within {seconds:g} s") from None
        except h11.RemoteProtocolError:
            raise self._error("its response is not HTTP") from None
        except OSError as e:
            raise self._error(reason_of(e)) from e
        if status != 200:
            raise self._error(f"its response has the status {status}")
        return bytes(content)

    def _error(self, reason: str) -> EnclaveAgentError:
        return EnclaveAgentError(f"the agent at {self._address}: {reason}")
