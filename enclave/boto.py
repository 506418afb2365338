"""An existing boto3 or botocore KMS client, made attested.

Everything goes through botocore's events, which are public and what its test doubles stand on:
``before-parameter-build`` adds `Recipient`, ``before-send`` carries the signed request through the
vsock proxy (a handler that returns an answer takes the place of botocore's own HTTP session), and
``after-call`` opens what came back. In between the client is itself: it validates, signs, retries,
parses and raises as ever.
"""

from __future__ import annotations

import inspect
import io
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.client
import botocore.exceptions
from botocore.awsrequest import AWSResponse

from enclave.agent import Agent
from enclave.errors import AgentError, ConfigurationError, KmsUnreachableError
from enclave.kms.client import read_response
from enclave.kms.endpoint import Endpoint, parse_endpoint
from enclave.recipient.exchange import (
    KEY_ENCRYPTION_ALGORITHM,
    SECRET_FIELD,
    opened_response,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.awsrequest import AWSPreparedRequest

Client = TypeVar("Client")

_TIMEOUT = 60.0
"""Seconds, as botocore has it, where the client was told to wait for ever: here every wait ends."""

_ASKED = "enclave.asked"
"""Where botocore's context keeps, from a call's first event to its last, what its caller asked and
who is to open the answer.
"""

_attached: weakref.WeakSet[Any] = weakref.WeakSet()


class AttachedConnectionError(botocore.exceptions.ConnectionError):  # type: ignore[misc] # no types
    """KMS was not reached, or its answer broke off; botocore retries it like any of its own.

    Its ``__cause__`` is the `KmsUnreachableError` that says why, with a hint.
    """

    fmt = "{error}"


def attach(client: Client, *, agent: Agent | None = None) -> Client:
    """Make a boto3 or botocore KMS client attested, and return it.

    Its region, endpoint, credentials, timeouts, retries, parameters and answers stay what they
    are. Operations that take `Recipient` get one, unless the caller brings its own, and
    ``response["Plaintext"]`` (or the operation's own field) is filled as ever; the others pass
    through. Connections leave through the agent's proxy, and TLS is verified by the agent's CAs,
    whatever the client was told of either. Safe for many threads.

        kms = enclave.attach(boto3.client("kms", region_name="eu-central-1"))
        key = kms.generate_data_key(KeyId="alias/app", KeySpec="AES_256")["Plaintext"]

    What a client raises anyway it raises still: ``ClientError`` where KMS refuses, botocore's
    ``ConnectionError`` where KMS is not reached. What only attestation can fail at is an
    `AgentError`, which botocore neither catches nor retries: no document from the NSM, an answer
    that is forged or does not open, a server that does not prove to be KMS.

    Args:
        client: of the service ``kms``. Clients of aiobotocore and aioboto3 are refused.
        agent: whose key pair, proxy and CAs are used; left out, the client gets one of its own,
            which goes with it. ``Agent(engine="sdk")`` works as any other; ``sdk-client`` is
            refused, as it makes whole calls.

    Raises:
        ConfigurationError: that is no such client, its endpoint is not https, or it is attached
            already.
    """
    if not isinstance(client, botocore.client.BaseClient):
        raise ConfigurationError(
            f"not a boto3 or botocore client: {type(client).__name__}",
            hint='pass what boto3.client("kms") returned',
        )
    if inspect.iscoroutinefunction(client.close):
        raise ConfigurationError(
            "asynchronous clients cannot be attached",
            hint="call a boto3 client in a thread (asyncio.to_thread), or use the local endpoint "
            "of enclave-agent serve",
        )
    service = client.meta.service_model.service_name
    if service != "kms":
        raise ConfigurationError(f"a client of {service!r}, not of 'kms'")
    if client in _attached:
        raise ConfigurationError("this client is attached already")
    endpoint = _endpoint(client.meta.endpoint_url)
    if agent is not None and agent.engine == "sdk-client":
        raise ConfigurationError(
            "the SDK's own client makes whole calls: no other client can be attached to it",
            hint='use Agent(engine="sdk"): the same C code opens the answers',
        )
    if agent is None:
        agent = Agent(region=client.meta.region_name, endpoint_url=endpoint.url)
        weakref.finalize(client, agent.close)
    attachment = _Attachment(agent, endpoint, client.meta.config)
    for event, handler in (
        ("before-parameter-build.kms", attachment.add_recipient),
        ("before-send.kms", attachment.carry),
        ("after-call.kms", attachment.open),
    ):
        client.meta.events.register(event, handler)
    _attached.add(client)
    return client


class _Attachment:
    """The handlers. Nothing here refers to the client, so that it can go when it is let go."""

    def __init__(self, agent: Agent, endpoint: Endpoint, config: Any) -> None:
        self._agent = agent
        self._endpoint = endpoint
        self._connect_timeout = float(config.connect_timeout or _TIMEOUT)
        self._read_timeout = float(config.read_timeout or _TIMEOUT)
        self._transport = agent._transport_to(  # noqa: SLF001 (one package)
            endpoint, max_connections=int(config.max_pool_connections)
        )

    def add_recipient(
        self, *, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any
    ) -> None:
        if model.name not in SECRET_FIELD or "Recipient" in params:
            return
        recipient = self._agent.recipient()
        context[_ASKED] = dict(params), recipient
        params["Recipient"] = {
            "AttestationDocument": recipient.attestation_document(),
            "KeyEncryptionAlgorithm": KEY_ENCRYPTION_ALGORITHM,
        }

    def carry(self, *, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        if _endpoint(request.url) != self._endpoint:
            raise ConfigurationError(
                f"the client sends to {request.url}, and was attached for {self._endpoint.url}",
                hint="attach a client of its own to each endpoint",
            )
        try:
            response = self._transport.post(
                {name: _text(value) for name, value in request.headers.items()},
                request.body,
                connect_timeout=self._connect_timeout,
                read_timeout=self._read_timeout,
                timeout=self._connect_timeout + self._read_timeout,
                deadline=self._connect_timeout + self._read_timeout,
            )
        except KmsUnreachableError as e:
            if not e.transient:
                raise
            raise AttachedConnectionError(error=e) from e
        if response.status == 200:
            read_response(response)  # what is not JSON is our error, not a crash in a parser
        return AWSResponse(request.url, response.status, response.headers, _Raw(response.body))

    def open(
        self,
        *,
        http_response: AWSResponse,
        parsed: dict[str, Any],
        model: Any,
        context: dict[str, Any],
        **_: Any,
    ) -> None:
        if _ASKED not in context or http_response.status_code >= 300:
            return  # of an error botocore makes its ClientError
        asked, recipient = context[_ASKED]
        try:
            opened = opened_response(model.name, asked, parsed, recipient.open)
        except AgentError:
            self._transport.renew_connections()  # see Agent.call
            raise
        parsed.clear()
        parsed.update(opened)


class _Raw(io.BytesIO):
    """A body as `AWSResponse` reads it, which is as urllib3 gives it."""

    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


def _endpoint(url: str) -> Endpoint:
    """Where a client sends to: botocore puts a slash behind every path."""
    endpoint = parse_endpoint(url)
    return Endpoint(endpoint.host, endpoint.port, endpoint.path.rstrip("/") + "/")


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value
