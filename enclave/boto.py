"""Make an existing boto3 or botocore client usable in the enclave: attested, if it is KMS's.

For KMS, all of it uses botocore's events, which are public (moto uses them too):
``before-parameter-build`` adds `Recipient`, ``before-send`` sends the signed request through the
vsock proxy (the response that a handler returns replaces botocore's own HTTP session), and
``after-call`` opens the response.
Everything else is the client's own: validation, signing, retries, parsing and exceptions.
"""

from __future__ import annotations

import inspect
import io
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.client
import botocore.exceptions
from botocore.awsrequest import AWSResponse

from enclave import forking
from enclave.agent import Agent
from enclave.errors import AgentError, ConfigurationError, KmsUnreachableError
from enclave.key_id import note_key_id
from enclave.kms.client import read_response
from enclave.kms.endpoint import Endpoint, parse_endpoint
from enclave.network.dialer import EgressDialer
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
"""Seconds, botocore's default, for a client configured to wait for ever: here every wait ends."""

_REQUEST = "enclave.request"
"""Key in botocore's context: a call's own parameters and its recipient, from its first event to its
last."""

_attached: weakref.WeakSet[Any] = weakref.WeakSet()


class AttachedConnectionError(botocore.exceptions.ConnectionError):  # type: ignore[misc] # no types
    """KMS was not reached, or its response broke off; botocore retries it like any of its own.

    Its ``__cause__`` is the `KmsUnreachableError` that says why.

    Attributes:
        hint: of that error. A traceback shows it as a note.
    """

    fmt = "{error}"

    def __init__(self, *, error: AgentError) -> None:
        super().__init__(error=error)
        self.hint = error.hint
        if error.hint:
            self.add_note(f"hint: {error.hint}")


def attach(
    client: Client, *, agent: Agent | None = None, egress: EgressDialer | str | None = None
) -> Client:
    """Make a boto3 or botocore client usable in the enclave, and return it: one of KMS is attested.

    A client of another service sends its requests through the egress proxy of the parent
    (docs/egress.md), and is unchanged otherwise:

        s3 = enclave.attach(boto3.client("s3", region_name="eu-central-1"))

    Of a client of KMS, region, endpoint, credentials, timeouts, retries, parameters and responses
    stay what they are. Operations that take `Recipient` get one, unless the caller brings its own,
    and ``response["Plaintext"]`` (or the operation's own field) is filled as usual; the others pass
    through. Connections go through the agent's proxy, and TLS is verified by the agent's CAs; the
    client's own options for both are ignored. Safe for many threads.

        kms = enclave.attach(boto3.client("kms", region_name="eu-central-1"))
        key = kms.generate_data_key(KeyId="alias/app", KeySpec="AES_256")["Plaintext"]

    The client's own exceptions stay: ``ClientError`` if KMS refuses, botocore's
    ``ConnectionError`` if KMS is not reached. Errors that only attestation can cause are
    `AgentError`, with a hint, and botocore neither catches nor retries them: no document from the
    NSM, a response that is forged or does not open, a server that does not prove to be KMS.

    Args:
        client: of any service. Clients of aiobotocore and aioboto3 are rejected.
        agent: its key pair, proxy and CAs are used. By default the client gets an agent of its
            own, which is closed with it. ``Agent(engine="sdk")`` works like any other;
            ``sdk-client`` is rejected, because it makes whole calls.
        egress: of a client of another service than KMS: the dialer, or where the parent's egress
            proxy listens. Default: vsock://3:8004.

    Raises:
        ConfigurationError: the argument is not such a client, its endpoint is not https, or it is
            attached already.
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
    if client in _attached:
        raise ConfigurationError(
            "this client is attached already", hint="attach a client once, where it is made"
        )
    service = client.meta.service_model.service_name
    if (agent if service != "kms" else egress) is not None:
        raise ConfigurationError(
            f"a client of {service!r} takes no {'agent' if agent is not None else 'egress'}",
            hint='agent= is for KMS; its way through an egress proxy is Agent(proxy="connect:...")',
        )
    if service != "kms":
        with forking.importing:
            from enclave.network.boto_client import send_through  # noqa: PLC0415 (urllib3)

        if not isinstance(egress, EgressDialer):
            egress = EgressDialer() if egress is None else EgressDialer(egress)
        send_through(client, egress)
        _attached.add(client)
        return client
    endpoint = _endpoint(client.meta.endpoint_url)
    if agent is not None and agent.engine == "sdk-client":
        raise ConfigurationError(
            "the SDK's own client makes whole calls: no other client can be attached to it",
            hint='use Agent(engine="sdk"): the same C code opens the responses',
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
    """The handlers. They hold no reference to the client, so it can be garbage-collected."""

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
        note_key_id(model.name, params)
        if model.name not in SECRET_FIELD or "Recipient" in params:
            return
        recipient = self._agent.recipient()
        context[_REQUEST] = dict(params), recipient
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
            read_response(response)  # invalid JSON is our error, not a crash in botocore's parser
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
        if _REQUEST not in context or http_response.status_code >= 300:
            return  # botocore turns an error into its ClientError
        request, recipient = context[_REQUEST]
        try:
            opened = opened_response(model.name, request, parsed, recipient.open)
        except AgentError:
            self._transport.renew_connections()  # see Agent.call
            raise
        parsed.clear()
        parsed.update(opened)


class _Raw(io.BytesIO):
    """A body as `AWSResponse` reads it: with urllib3's `stream`."""

    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


def _endpoint(url: str) -> Endpoint:
    """Return the endpoint of a URL of botocore's, which ends every path with a slash."""
    endpoint = parse_endpoint(url)
    return Endpoint(endpoint.host, endpoint.port, endpoint.path.rstrip("/") + "/")


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value
