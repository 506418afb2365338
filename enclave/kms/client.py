"""One KMS call: signs and sends the request, reads the response, retries where that is safe.

Knows KMS's JSON 1.1 protocol and nothing of attestation.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enclave.clock import Clock, SystemClock
from enclave.errors import (
    AgentError,
    ConfigurationError,
    CredentialsError,
    KmsRefusedError,
    KmsResponseError,
)
from enclave.kms.body import Body, encode_body
from enclave.kms.request import KmsRequestWriter
from enclave.kms.retry import (
    MAX_ATTEMPTS,
    REJECTED_CREDENTIALS,
    is_worth_retrying,
    wait_before,
)
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.http.response import Response
    from enclave.kms.endpoint import Endpoint
    from enclave.kms.transport import BegunPost, Transport

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 20.0
DEADLINE = 60.0
"""Seconds for one call with all its retries."""

_decode = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class KmsResponse:
    """KMS's response, as JSON types.

    Attributes:
        content: the JSON object.
        request_id: ``x-amzn-RequestId``, by which AWS finds the call, or None if none came.
    """

    content: dict[str, Any] = field(repr=False)
    request_id: str | None


class KmsClient:
    """Calls KMS operations by name. Safe for many threads.

    Args:
        transport: connections to the endpoint.
        endpoint: what is signed.
        region: AWS region of KMS.
        credentials: what requests are signed with; None sends them unsigned.
        clock: time; production code leaves it out.
        uniform: random number between two; production code leaves it out.
        connect_timeout: seconds for one connection, TLS included.
        read_timeout: seconds for one whole response.
        deadline: seconds for one call, retries included.

    Attributes:
        read_timeout: as it was given.

    Raises:
        ConfigurationError: a number of seconds is out of range.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        endpoint: Endpoint,
        region: str,
        credentials: CredentialsProvider | None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        deadline: float = DEADLINE,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        for name, seconds in (
            ("connect timeout", connect_timeout),
            ("read timeout", read_timeout),
            ("deadline", deadline),
        ):
            if not 0 < seconds <= 86_400:
                raise ConfigurationError(
                    f"the {name} is {seconds:g} s",
                    hint="more than 0, at most a day: every wait has a deadline here",
                )
        self._transport = transport
        self._requests = KmsRequestWriter(endpoint, region)
        self._credentials = credentials
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self._seconds = deadline
        self._max_attempts = max_attempts

    def call(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        failed: AgentError | None = None,
        timeout: float | None = None,
    ) -> KmsResponse:
        """Call one operation.

        Args:
            operation: as the KMS API names it, for example ``GenerateRandom``.
            parameters: JSON types only; binary values in base64, as on the wire.
            failed: how the first attempt has ended, if it was made by `begin`.
            timeout: seconds for this call, if that is less than the deadline of all calls.

        Raises:
            ConfigurationError: a parameter is not a JSON type, or the operation's name has
                characters that no name has.
            CredentialsError: there are no credentials to sign with.
            KmsUnreachableError: there was no response by the deadline.
            KmsRefusedError: KMS refused the request.
            KmsResponseError: KMS's response is malformed.
        """
        body = encode_body(operation, parameters)
        seconds = self._seconds if timeout is None else min(timeout, self._seconds)
        deadline = self._clock.monotonic() + seconds
        for attempt in range(1, self._max_attempts + 1):
            try:
                first, failed = failed, None
                return self._attempt(operation, body, deadline, first)
            except AgentError as e:
                if attempt == self._max_attempts or not is_worth_retrying(e):
                    raise
                wait = wait_before(attempt + 1, self._uniform)
                if self._clock.monotonic() + wait >= deadline:
                    raise
                log.info("attempt %d of %s failed, retrying: %s", attempt, operation, e)
                self._clock.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def begin(self, operation: str, parameters: Mapping[str, Any]) -> BegunPost | None:
        """Send the request of a first attempt without waiting for anything.

        `read_response` reads its response; `call` goes on after an error. It serves programs whose
        loop waits for many responses.

        Returns:
            What receives the response; None if the call has to wait for credentials or a
            connection. Then `call` will do.

        Raises:
            ConfigurationError: see `call`.
        """
        credentials = None
        if self._credentials is not None:
            try:
                credentials = self._credentials.credentials(timeout=0)
            except CredentialsError:
                return None
        body = encode_body(operation, parameters)
        request = self._requests.write(operation, body, credentials, self._clock.now())
        return self._transport.begin(request)

    def renew_connections(self) -> None:
        """Use none of the connections that there are again: a response did not fit its request."""
        self._transport.renew_connections()

    def _attempt(
        self, operation: str, body: Body, deadline: float, failed: AgentError | None
    ) -> KmsResponse:
        if self._credentials is None:
            if failed is not None:
                raise failed
            return self._post(operation, body, None, deadline)
        credentials = self._credentials.credentials(timeout=self._left(deadline))
        try:
            if failed is not None:
                raise failed
            return self._post(operation, body, credentials, deadline)
        except KmsRefusedError as e:
            if e.type not in REJECTED_CREDENTIALS:
                raise
            # KMS decides, not our clock. Once: if it rejects new ones too, that is the error.
            renewed = self._credentials.credentials(
                timeout=self._left(deadline), rejected=credentials
            )
            if renewed == credentials:
                raise
            log.info("KMS rejected the credentials (%s): retrying with new ones", e.type)
            return self._post(operation, body, renewed, deadline)

    def _post(
        self, operation: str, body: Body, credentials: Credentials | None, deadline: float
    ) -> KmsResponse:
        response = self._transport.send(
            self._requests.write(operation, body, credentials, self._clock.now()),
            connect_timeout=self._connect_timeout,
            read_timeout=self.read_timeout,
            timeout=self._left(deadline),
            deadline=self._seconds,
        )
        log.debug("%s: %d, %d bytes", operation, response.status, len(response.body))
        return read_response(response)

    def _left(self, deadline: float) -> float:
        return max(deadline - self._clock.monotonic(), 0.001)


def read_response(response: Response) -> KmsResponse:
    """Read KMS's JSON.

    Raises:
        KmsRefusedError: it is an error of KMS's (or of whatever stands before it).
        KmsResponseError: it is neither that nor a JSON object.
    """
    request_id = response.headers.get("x-amzn-requestid", "")[:128] or None
    try:
        content = parse_json(response.body.decode(), _decode) if response.body else {}
    except ValueError:
        content = None
    if response.status == 200 and isinstance(content, dict):
        return KmsResponse(content, request_id)
    if response.status == 200:
        raise KmsResponseError(
            "KMS's response is not a JSON object", hint="does the endpoint lead to KMS?"
        )
    fields = content if isinstance(content, dict) else {}
    # "com.amazonaws.kms#NotFoundException" and "NotFoundException:http://..." both occur in AWS.
    named = str(fields.get("__type") or response.headers.get("x-amzn-errortype") or "")
    type_ = named.rpartition("#")[2].partition(":")[0][:128] or f"HTTP status {response.status}"
    message = fields.get("message") or fields.get("Message") or ""
    raise KmsRefusedError(
        type_,
        str(message)[:2048],
        request_id=request_id,
        status=response.status,
    )
