"""One question to the parent's credential service, over a fresh connection: ``GET /``.

What comes back is the parent's, and nothing in it is believed before it is checked.
"""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

import urllib3

from enclave.credentials.document import MAX_DOCUMENT, refusal
from enclave.errors import CredentialsError, DialError
from enclave.http_connections import DialedHTTPConnection, innermost_text, read_body

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

_HEADERS = {
    "Host": "localhost",
    "Accept": "application/json",
    # No compressed answers: a small one could be made to grow without end.
    "Accept-Encoding": "identity",
    "User-Agent": "nitro-enclave-agent",
    "Connection": "close",
}


def ask(address: Address, dialer: Dialer, timeout: float) -> bytes:
    """The body of the service's answer, at most `MAX_DOCUMENT` bytes.

    Args:
        address: where the service listens.
        dialer: where connections come from.
        timeout: seconds for all of it.

    Raises:
        CredentialsError: the service is not there, is silent, refuses, or babbles.
    """
    ends = time.monotonic() + timeout
    connection = DialedHTTPConnection("localhost", dialer=dialer, address=address, timeout=timeout)
    try:
        connection.request("GET", "/", headers=_HEADERS, preload_content=False)
        connection.timeout = max(ends - time.monotonic(), 0.001)
        response = connection.getresponse()
        body = read_body(response, MAX_DOCUMENT)
    except DialError as e:
        raise CredentialsError(
            f"no AWS credentials: the parent's service cannot be reached: {e}",
            hint=f"run one on the parent at {address}, or set AWS_ACCESS_KEY_ID and its companions",
            transient=True,
        ) from e
    except (TimeoutError, urllib3.exceptions.TimeoutError) as e:
        raise CredentialsError(
            f"no whole answer from the credential service at {address} within {timeout:g} s",
            hint="is it the credential service that listens there?",
            transient=True,
        ) from e
    except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as e:
        raise CredentialsError(
            f"no HTTP answer from the credential service at {address}: {innermost_text(e)[:200]!a}",
            hint="is it the credential service that listens there?",
            transient=True,
        ) from e
    finally:
        connection.close()
    if len(body) > MAX_DOCUMENT:
        raise CredentialsError(
            f"the credential service at {address} answers more than {MAX_DOCUMENT} bytes",
            hint="is it the credential service that listens there?",
        )
    if response.status != 200:
        raise refusal(response.status, body)
    return body
