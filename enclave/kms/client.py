"""One KMS call: sign, send, understand the answer, try again where that is safe.

Knows KMS's JSON 1.1 protocol and nothing of attestation.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enclave.clock import Clock, SystemClock
from enclave.errors import AgentError, ConfigurationError, KmsRefusedError, KmsResponseError
from enclave.kms.retry import MAX_ATTEMPTS, is_worth_retrying, wait_before
from enclave.kms.signing import signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.kms.endpoint import Endpoint
    from enclave.kms.transport import Answer, Transport

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 20.0
DEADLINE = 60.0
"""Seconds for one call with all its retries."""

_EXPIRED = "ExpiredTokenException"
_HINTS = {
    "AccessDeniedException": "compare the PCRs in the key policy's kms:RecipientAttestation "
    "conditions, and the role's permissions, with this enclave",
    "DryRunOperationException": "the request would have succeeded: this is how KMS says so",
    _EXPIRED: "the enclave holds expired credentials: renew them",
    "UnrecognizedClientException": "KMS does not know this access key, or the token is missing",
    "InvalidSignatureException": "wrong secret key, or the enclave's clock is off",
    "NotFoundException": "keys are regional: is this the region of the key?",
}


@dataclass(frozen=True, slots=True)
class KmsResponse:
    """What KMS answered, as JSON types, and ``x-amzn-RequestId``, by which AWS finds the call."""

    content: dict[str, Any] = field(repr=False)
    request_id: str | None


class KmsClient:
    """Calls KMS operations by name. Safe for many threads."""

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
        self._url = endpoint.url
        self._region = region
        self._credentials = credentials
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._deadline = deadline
        self._max_attempts = max_attempts

    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        """Call one operation.

        Args:
            operation: as the KMS API names it, for example ``GenerateRandom``.
            parameters: JSON types only; binary values in base64, as on the wire.

        Raises:
            CredentialsError: there is nothing to sign with.
            KmsUnreachableError: no answer by the deadline.
            KmsRefusedError: KMS said no.
            KmsResponseError: KMS's answer makes no sense.
        """
        body = json.dumps(parameters, separators=(",", ":")).encode()
        ends = self._clock.monotonic() + self._deadline
        for attempt in range(1, self._max_attempts + 1):
            try:
                return self._attempt(operation, body, ends)
            except AgentError as e:
                wait = wait_before(attempt + 1, self._uniform)
                late = self._clock.monotonic() + wait >= ends
                if attempt == self._max_attempts or late or not is_worth_retrying(e):
                    raise
                log.info("attempt %d of %s failed, trying again: %s", attempt, operation, e)
                self._clock.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, operation: str, body: bytes, ends: float) -> KmsResponse:
        if self._credentials is None:
            return self._post(operation, body, None, ends)
        credentials = self._credentials.credentials(timeout=self._left(ends))
        try:
            return self._post(operation, body, credentials, ends)
        except KmsRefusedError as e:
            if e.type != _EXPIRED:
                raise
            # KMS's clock decides, not ours. Once: new ones that have expired too are an error.
            renewed = self._credentials.credentials(timeout=self._left(ends), rejected=credentials)
            if renewed == credentials:
                raise
            log.info("KMS calls the credentials expired, trying %s with new ones", operation)
            return self._post(operation, body, renewed, ends)

    def _post(
        self, operation: str, body: bytes, credentials: Credentials | None, ends: float
    ) -> KmsResponse:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        }
        if credentials is not None:
            headers = signed_headers(
                url=self._url,
                headers=headers,
                body=body,
                credentials=credentials,
                region=self._region,
                at=self._clock.now(),
            )
        answer = self._transport.post(
            headers,
            body,
            connect_timeout=self._connect_timeout,
            read_timeout=self._read_timeout,
            deadline=self._left(ends),
        )
        log.debug("%s: %d, %d bytes", operation, answer.status, len(answer.body))
        return understood(answer)

    def _left(self, ends: float) -> float:
        return max(ends - self._clock.monotonic(), 0.001)


def understood(answer: Answer) -> KmsResponse:
    """KMS's answer, read.

    Raises:
        KmsRefusedError: it is an error of KMS's (or of whatever stands before it).
        KmsResponseError: it is neither that nor a JSON object.
    """
    request_id = answer.headers.get("x-amzn-requestid", "")[:128] or None
    try:
        content = json.loads(answer.body) if answer.body else {}
    except (ValueError, RecursionError):
        content = None
    if answer.status == 200 and isinstance(content, dict):
        return KmsResponse(content, request_id)
    if answer.status == 200:
        raise KmsResponseError("KMS's answer is not a JSON object")
    fields = content if isinstance(content, dict) else {}
    # "com.amazonaws.kms#NotFoundException" and "NotFoundException:http://..." both occur in AWS.
    named = str(fields.get("__type") or answer.headers.get("x-amzn-errortype") or "")
    type_ = named.rpartition("#")[2].partition(":")[0][:128] or f"HTTP status {answer.status}"
    message = fields.get("message") or fields.get("Message") or ""
    raise KmsRefusedError(
        type_,
        str(message)[:2048],
        request_id=request_id,
        status=answer.status,
        hint=_HINTS.get(type_, ""),
    )
