"""The public face: an `Agent` makes attested KMS calls for the program it lives in."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Self

from enclave.credentials import choose_provider
from enclave.errors import ConfigurationError
from enclave.kms.client import CONNECT_TIMEOUT, DEADLINE, READ_TIMEOUT, KmsClient, KmsResponse
from enclave.kms.endpoint import parse_endpoint, regional_endpoint
from enclave.kms.transport import Transport, default_ca_bundle, tls_context
from enclave.nsm import DevNsm, Nsm
from enclave.operations import AttestedOperations
from enclave.recipient.exchange import (
    SECRET_FIELD,
    attested_request,
    check_number_of_bytes,
    opened_answer,
)
from enclave.recipient.recipient import NsmRecipient, Recipient
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, VsockAddress, parse_address
from vsock_proxy.net.dialing import Dialer, SocketDialer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.clock import Clock
    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.kms.endpoint import Endpoint
    from enclave.nsm import NsmDevice
    from enclave.recipient.keypair import KeyPairAhead
    from enclave.sdk.client import SdkClient

log = logging.getLogger(__name__)

ENGINES = ("auto", "python", "sdk", "sdk-client")
"""See `Agent`."""

DEFAULT_PROXY = VsockAddress(VMADDR_CID_PARENT, 8000)
"""Where AWS's documentation has vsock-proxy listen: port 8000 of the parent."""


class Agent(AttestedOperations):
    """Attested KMS for one program in one enclave.

    The key pair is made, and its document fetched, at the first call; both serve all later
    calls, from any number of threads. Connections to KMS are kept.

        with Agent(region="eu-central-1") as agent:
            seed = agent.generate_random(32)

    Args:
        region: AWS region of KMS; else AWS_REGION, AWS_DEFAULT_REGION.
        endpoint_url: https URL of KMS; else AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, else the
            region's public endpoint. TLS must prove its host name.
        proxy: where vsock-proxy listens, as an address or its text.
        ca_bundle: file of CA certificates in PEM; else AWS_CA_BUNDLE, else botocore's.
        credentials: what to sign with: `Credentials`, a provider of them, ``"environment"``, the
            address of the parent's credential service, or ``"auto"``: AWS_ACCESS_KEY_ID and its
            companions if any is set, else the parent's service at vsock://3:8002.
        sign_requests: False for an endpoint that wants no credentials; KMS itself does.
        connect_timeout: seconds for one connection, TLS included.
        read_timeout: seconds for one whole answer.
        deadline: seconds for one call, retries and all.
        max_connections: connections to KMS at once; further threads wait for one.
        key_pair: made ahead, for a first call that does not wait for it.
        engine: whose code makes the key pair, has it attested and opens the answer: ``python``
            (``auto`` is the same), or AWS's C SDK (``sdk``), which must be built in; with
            ``sdk-client`` the C SDK's own KMS client makes the whole call, in a worker process.
            See docs/sdk.md.
        device: the NSM; production code leaves it out and gets ``/dev/nsm``.
        dialer: where connections come from; production code leaves it out.
        clock: time; production code leaves it out.
        environ: where variables are looked up.

    Attributes:
        engine: as it was given.

    Raises:
        ConfigurationError: an argument or variable makes no sense, there is no region, or the
            engine is not built.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        proxy: Address | str = DEFAULT_PROXY,
        ca_bundle: str | None = None,
        credentials: Credentials | CredentialsProvider | str = "auto",
        sign_requests: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        deadline: float = DEADLINE,
        max_connections: int = 16,
        key_pair: KeyPairAhead | None = None,
        engine: str = "auto",
        device: NsmDevice | None = None,
        dialer: Dialer | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        region = region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise ConfigurationError(
                "no AWS region", hint="name one with --region, region= or AWS_REGION"
            )
        regional = regional_endpoint(region)  # also refuses what is no region
        endpoint_url = (
            endpoint_url or environ.get("AWS_ENDPOINT_URL_KMS") or environ.get("AWS_ENDPOINT_URL")
        )
        endpoint = parse_endpoint(endpoint_url) if endpoint_url else regional
        self._dialer = dialer or SocketDialer()
        self._proxy = parse_address(proxy) if isinstance(proxy, str) else proxy
        ca_bundle = ca_bundle or environ.get("AWS_CA_BUNDLE") or default_ca_bundle()
        self._tls = tls_context(ca_bundle)
        provider = choose_provider(credentials, environ=environ, dialer=self._dialer, clock=clock)
        self._transports: list[Transport] = []
        self._kms = KmsClient(
            self.transport_to(endpoint, max_connections=max_connections),
            endpoint=endpoint,
            region=region,
            credentials=provider if sign_requests else None,
            clock=clock,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            deadline=deadline,
        )
        self.engine = _checked_engine(engine, device, dialer)
        self._sdk_client: SdkClient | None = None
        if engine == "sdk-client":
            if not sign_requests:
                raise ConfigurationError("the SDK's own client signs every request")
            self._sdk_client = _sdk_client(
                region=region,
                endpoint=endpoint,
                proxy=self._proxy,
                ca_bundle=ca_bundle,
                credentials=provider,
                seconds=min(connect_timeout + read_timeout, deadline),
                environ=environ,
            )
        self._clock = clock
        self._key_pair = key_pair
        self._device = device
        self._opened_device: DevNsm | None = None
        self._recipient: Recipient | None = None
        self._preparing = threading.Lock()

    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        """Make any KMS call; attested where the operation takes `Recipient`.

        A caller that brings a `Recipient` of its own gets KMS's answer untouched: what is in it
        is not for us to open.

        Args:
            operation: as the KMS API names it.
            parameters: as the KMS API names them; JSON types, binary values in base64.

        Returns:
            KMS's answer. Of an attested call the secret field is filled, as bytes, and
            CiphertextForRecipient is gone; binary values are in base64 else.

        Raises:
            AgentError: as `AttestedOperations` has it.
        """
        if self._sdk_client is not None and self._sdk_client.is_for(operation, parameters):
            return self._sdk_client.call(operation, parameters)
        if operation not in SECRET_FIELD or "Recipient" in parameters:
            log.debug("KMS %s is passed through, not attested", operation)
            return self._kms.call(operation, parameters)
        check_number_of_bytes(operation, parameters)  # before a key pair is made for nothing
        recipient = self.recipient()
        request = attested_request(operation, parameters, recipient.attestation_document())
        answer = self._kms.call(operation, request)
        content = opened_answer(operation, parameters, answer.content, recipient.open)
        return KmsResponse(content, answer.request_id)

    def recipient(self) -> Recipient:
        """The key pair and its document, made now if this is the first time.

        Raises:
            NsmUnavailableError: there is no NSM.
            ConfigurationError: the engine is ``sdk-client``.
        """
        if self._recipient is None:
            with self._preparing:
                if self._recipient is None:
                    self._recipient = self._new_recipient()
        return self._recipient

    def _new_recipient(self) -> Recipient:
        if self.engine == "sdk":
            from enclave.sdk.recipient import SdkRecipient  # noqa: PLC0415 (for who asks for it)

            return SdkRecipient(clock=self._clock)
        if self.engine == "sdk-client":
            raise ConfigurationError(
                "the SDK's own client keeps its key pair to itself",
                hint="use --engine sdk: the same C code, and the calls are ours",
            )
        device = self._device
        if device is None:
            device = self._opened_device = DevNsm()
        return NsmRecipient(Nsm(device), clock=self._clock, key_pair=self._key_pair)

    def transport_to(self, endpoint: Endpoint, *, max_connections: int) -> Transport:
        """Connections to another endpoint, the way this agent makes its own; closed with it."""
        transport = Transport(
            endpoint,
            dialer=self._dialer,
            proxy=self._proxy,
            tls=self._tls,
            max_connections=max_connections,
        )
        self._transports.append(transport)
        return transport

    def close(self) -> None:
        """Close connections and the NSM device; the key pair goes with the object."""
        for transport in self._transports:
            transport.close()
        if self._sdk_client is not None:
            self._sdk_client.close()
        with self._preparing:
            self._recipient = None
            if self._opened_device is not None:
                self._opened_device.close()
                self._opened_device = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _checked_engine(engine: str, device: NsmDevice | None, dialer: Dialer | None) -> str:
    if engine not in ENGINES:
        raise ConfigurationError(
            f"no such engine: {engine!r}", hint="there are " + ", ".join(ENGINES)
        )
    if engine.startswith("sdk"):
        from enclave.sdk.bindings.native import check_built  # noqa: PLC0415 (as below)

        check_built()
        if device is not None or (engine == "sdk-client" and dialer is not None):
            raise ConfigurationError(
                "the C SDK opens the NSM, and its client the connection, by itself",
                hint="leave out device= and dialer=, or use --engine python",
            )
    return engine


def _sdk_client(**settings: Any) -> SdkClient:
    from enclave.sdk.client import SdkClient  # noqa: PLC0415 (for who asks for it)

    return SdkClient(**settings)
