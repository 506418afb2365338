"""HTTPS to KMS through the dialer: urllib3 over a connection that leaves through the parent.

TLS ends here; the proxy on the parent carries bytes. Every stage ends by a deadline, and every
error of the libraries below is translated here, once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from enclave.errors import DialError, KmsResponseError, KmsUnreachableError
from enclave.http_connections import (
    DialedHTTPSConnection,
    innermost_text,
    read_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from enclave.kms.endpoint import Endpoint
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

log = logging.getLogger(__name__)

MAX_ANSWER = 1_048_576
"""Bytes of an answer's body that are read; KMS's largest are a tenth of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, lower-case headers, whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """A pool of kept connections to one endpoint. Safe for many threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        dialer: Dialer,
        proxy: Address,
        tls: ssl.SSLContext,
        max_connections: int = 16,
    ) -> None:
        self._path = endpoint.path
        self._where = f"{endpoint.host} through {proxy}"

        def new_pool() -> urllib3.HTTPSConnectionPool:
            pool = urllib3.HTTPSConnectionPool(
                endpoint.host,
                endpoint.port,
                maxsize=max_connections,
                block=True,
                ssl_context=tls,
                dialer=dialer,
                address=proxy,
            )
            pool.ConnectionCls = _KmsConnection
            return pool

        self._new_pool = new_pool
        self._pool = new_pool()
        self._process = os.getpid()

    def post(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_timeout: float,
        read_timeout: float,
        deadline: float,
    ) -> Answer:
        """Send one request and read the whole answer.

        Args:
            headers: signed headers; Host is added as it was signed.
            body: the request.
            connect_timeout: seconds for a connection with TLS, where a new one is needed, and
                for sending.
            read_timeout: seconds for the whole answer, first byte to last.
            deadline: seconds for all of it together.

        Raises:
            KmsUnreachableError: no connection, no TLS, no whole answer in time.
            KmsResponseError: the answer is too long, or is not HTTP.
        """
        if self._process != os.getpid():
            # After a fork two processes would speak on one TLS connection.
            self._pool, self._process = self._new_pool(), os.getpid()
        timeout = urllib3.Timeout(total=deadline, connect=connect_timeout, read=read_timeout)
        with self._translated(min(connect_timeout, deadline), min(read_timeout, deadline)):
            response = self._pool.urlopen(
                "POST",
                self._path,
                body,
                # No compressed answers: a small one could be made to grow without end.
                {"User-Agent": "nitro-enclave-agent", **headers, "Accept-Encoding": "identity"},
                retries=False,
                redirect=False,
                timeout=timeout,
                pool_timeout=connect_timeout,  # type: ignore[arg-type] # seconds may be a float
                preload_content=False,
                decode_content=False,
            )
            whole = False
            try:
                received = read_body(response, MAX_ANSWER)
                if len(received) > MAX_ANSWER:
                    raise KmsResponseError(f"KMS's answer is longer than {MAX_ANSWER} bytes")
                whole = True
            finally:
                if not whole:
                    response.close()  # What is left of this answer must not become the next.
                response.release_conn()  # Closed or not, its place in the pool is free again.
            answer_headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, answer_headers, received)

    def close(self) -> None:
        """Close every kept connection."""
        self._pool.close()

    @contextlib.contextmanager
    def _translated(self, connect_timeout: float, read_timeout: float) -> Iterator[None]:
        try:
            yield
        except DialError as e:
            hint = e.hint or "does vsock-proxy run on the parent, and listen where --proxy says?"
            raise KmsUnreachableError(f"KMS cannot be reached: {e}", hint=hint) from e
        except (urllib3.exceptions.SSLError, ssl.SSLError) as e:
            raise _tls_error(e, self._where) from e
        except urllib3.exceptions.ConnectTimeoutError as e:
            raise KmsUnreachableError(
                f"no TLS with {self._where} within {connect_timeout:g} s",
                hint="the proxy is there; does it reach KMS from the parent?",
            ) from e
        except urllib3.exceptions.ReadTimeoutError as e:
            raise KmsUnreachableError(
                f"no whole answer from {self._where} within {read_timeout:g} s",
                hint="a longer --cli-read-timeout helps only if KMS is slow, not if it is silent",
            ) from e
        except urllib3.exceptions.EmptyPoolError as e:
            raise KmsUnreachableError(
                f"every connection to {self._where} is busy",
                hint="more threads than connections: give the Agent more max_connections",
            ) from e
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise KmsUnreachableError(
                f"the connection to {self._where} broke: {innermost_text(e)}",
                hint="the proxy or KMS closed it in the middle of an answer",
            ) from e
        except ValueError as e:  # http.client on a header or length that makes no sense
            raise KmsResponseError("KMS's answer is not HTTP") from e


class _KmsConnection(DialedHTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError as e:  # urllib3 would call it a read timeout
            raise urllib3.exceptions.ConnectTimeoutError(self, "TLS") from e
        version = self.sock.version() if isinstance(self.sock, ssl.SSLSocket) else None
        log.info("connected to %s through %s, %s", self.host, self.address, version)


def _tls_error(error: Exception, where: str) -> KmsUnreachableError:
    text = innermost_text(error)
    if "CERTIFICATE_VERIFY_FAILED" not in text and "certificate" not in text.lower():
        return KmsUnreachableError(
            f"TLS with {where} failed: {text}",
            hint="does the proxy lead to KMS, and to nothing else?",
        )
    hint = "trust a private CA with --ca-bundle; never turn verification off"
    if "mismatch" in text:
        hint = "the proxy leads to another host than the endpoint names"
    elif "expired" in text or "not yet valid" in text:
        hint = "is the enclave's clock right?"
    return KmsUnreachableError(
        f"{where} does not prove to be KMS: {text}", hint=hint, transient=False
    )
