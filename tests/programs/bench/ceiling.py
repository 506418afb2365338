"""A server to compare the endpoint with: ``python -m tests.programs.bench.ceiling WHICH``.

``constant`` sends the same response to whatever arrives, on the same event loop: what is
measured of it is the load generator, the loop and the kernel. ``cached`` is the endpoint with a
pool whose fetches cost next to nothing: the endpoint without KMS. Prints its port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from enclave.kms.client import KmsResponse
from enclave.serve.calls import Calls
from enclave.serve.pooled import PooledRandom
from enclave.serve.protocol import http_bytes, random_response
from enclave.serve.readiness import Readiness
from enclave.serve.server import EndpointServer

if TYPE_CHECKING:
    from collections.abc import Mapping

RESPONSE = http_bytes(
    random_response(bytes(32), "00000000-0000-0000-0000-000000000000"),
    date="Thu, 01 Jan 1970 00:00:00 GMT",
    close=False,
)


class Constant(asyncio.Protocol):
    """One client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # it is one

    def data_received(self, _data: bytes) -> None:
        self._transport.write(RESPONSE)


def _fetch(_operation: str, parameters: Mapping[str, Any], **_: object) -> KmsResponse:
    return KmsResponse({"Plaintext": os.urandom(parameters["NumberOfBytes"])}, None)


def _no_call(*_: object) -> NoReturn:
    raise AssertionError("all that is asked for here is in the pool")


async def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    if sys.argv[1] == "constant":
        await asyncio.get_running_loop().create_server(Constant, sock=listener)
    else:
        pool = PooledRandom(_fetch, deadline=60, capacity=1 << 20)
        calls = Calls({"us-east-1": _no_call}, most=1, deadline=60, pool=pool)
        EndpointServer(calls, Readiness(_no_call)).accept_from(listener)
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
