"""One request to the parent's credential service, over a fresh connection: ``GET /``.

The response is the parent's: nothing in it is trusted before it is checked.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from enclave.credentials.document import MAX_BODY, refusal
from enclave.errors import CredentialsError, DialError
from enclave.http.client import open_plain
from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpError, HttpTimeoutError, ResponseTooLargeError
from enclave.http.request import RequestWriter

if TYPE_CHECKING:
    from enclave.http.response import Response
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

_REQUEST = RequestWriter(
    "GET", "localhost", "/", {"Accept": "application/json", "Connection": "close"}
).write({})

_HINT = "is it the credential service that listens there?"


def fetch(address: Address, dialer: Dialer, timeout: float) -> bytes:
    """Return the body of the service's response, at most `MAX_BODY` bytes.

    Args:
        address: where the service listens.
        dialer: where connections come from.
        timeout: seconds for all of it.

    Raises:
        CredentialsError: the service is not there, is silent, refuses, or does not speak HTTP.
    """
    try:
        response = _exchange(address, dialer, timeout)
    except DialError as e:
        raise CredentialsError(
            f"no AWS credentials: the parent's service cannot be reached: {e}",
            hint=f"run one on the parent at {address}, or set AWS_ACCESS_KEY_ID and its companions",
            transient=True,
        ) from e
    except HttpTimeoutError as e:
        raise CredentialsError(
            f"no complete response from the credential service at {address} within {timeout:g} s",
            hint=_HINT,
            transient=True,
        ) from e
    except ResponseTooLargeError as e:
        raise CredentialsError(
            f"the credential service at {address} sent more than {MAX_BODY} bytes", hint=_HINT
        ) from e
    except HttpError as e:
        raise CredentialsError(
            f"no HTTP response from the credential service at {address}: {e}",
            hint=_HINT,
            transient=True,
        ) from e
    if response.status != 200:
        raise refusal(response.status, response.body)
    return response.body


def _exchange(address: Address, dialer: Dialer, timeout: float) -> Response:
    deadline = monotonic() + timeout
    connection = HttpConnection(open_plain(dialer, address, deadline))
    try:
        return connection.exchange(
            _REQUEST, send_by=deadline, read_timeout=timeout, deadline=deadline, max_body=MAX_BODY
        )
    finally:
        connection.close()
