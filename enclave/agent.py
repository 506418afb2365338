"""The public face: an `Agent` makes attested KMS calls for the program it lives in."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Self, cast

from enclave import forking
from enclave.attester import check_attester, find_attester
from enclave.aws_settings import AwsSettings
from enclave.begun import BegunCall, opened
from enclave.clock import SystemClock
from enclave.clock_watch import ClockWatch
from enclave.credentials import choose_provider
from enclave.errors import AgentError, ConfigurationError, KmsRefusedError
from enclave.kms.client import CONNECT_TIMEOUT, DEADLINE, READ_TIMEOUT, KmsClient, KmsResponse
from enclave.kms.roots import public_bundle
from enclave.kms.tls import tls_context
from enclave.kms.transport import Transport
from enclave.nsm import Nsm
from enclave.operations import AttestedOperations
from enclave.options import AUTO, check_engine, locate_kms
from enclave.recipient.exchange import (
    SECRET_FIELD,
    attested_request,
    check_number_of_bytes,
)
from enclave.recipient.recipient import AttestedRecipient, Recipient
from enclave.surroundings import aws_source
from vsock_proxy.net.dialing import Dialer, SocketDialer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.attester import Attester
    from enclave.clock import Clock
    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.kms.endpoint import Endpoint
    from enclave.nitrotpm import TpmDevice
    from enclave.nsm import DevNsm, NsmDevice
    from enclave.options import KmsLocation
    from enclave.recipient.keypair import KeyPairAhead
    from enclave.sdk.client import SdkClient
    from vsock_proxy.net.addresses import Address, ConnectProxy

log = logging.getLogger(__name__)


class Agent(AttestedOperations):
    """Attested KMS for one program in one enclave.

    The first call makes the key pair and fetches its attestation document; both serve all later
    calls, from any number of threads. Connections to KMS are kept.

        with Agent(region="eu-central-1") as agent:
            seed = agent.generate_random(32)

    Args:
        region: AWS region of KMS. Default: AWS_REGION, AWS_DEFAULT_REGION, then the profile's.
        endpoint_url: https URL of KMS; TLS must prove its host name. Default:
            AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, the profile's, then the region's public
            endpoint; AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT choose among these.
        profile: name of a profile in the AWS CLI's files. Default: AWS_PROFILE, then
            AWS_DEFAULT_PROFILE, then ``default``, if there are such files. Its region, endpoint
            and other settings come after the variables (`enclave.aws_settings`).
        proxy: where vsock-proxy listens, as an address or its text; ``connect:ADDRESS`` for an
            egress proxy, which serves every region (docs/egress.md); ``direct`` connects to KMS
            itself; ``auto`` does so in a pod, a task or an instance, and otherwise takes
            vsock://3:8000 (docs/platforms.md).
        ca_bundle: file of CA certificates in PEM, trusted and no others. Default: AWS_CA_BUNDLE,
            then as `trust` has it.
        trust: ``amazon``: for AWS's own endpoints the roots of Amazon Trust Services alone, and
            botocore's bundle of public CAs for others; ``public``: that bundle for both
            (docs/trust.md).
        credentials: what to sign with: `Credentials`, a provider of them, ``"environment"``,
            ``"container"``, ``"web-identity"``, ``"instance"``, the address of the parent's
            credential service, or ``"auto"``: AWS_ACCESS_KEY_ID and its companions if any of them
            is set, then what a pod, task or instance has, otherwise the parent's service at
            vsock://3:8002 (docs/credentials.md).
        sign_requests: False for an endpoint that wants no credentials; KMS itself wants them.
        connect_timeout: seconds for one connection, TLS included.
        read_timeout: seconds for one whole response.
        deadline: seconds for one call, retries included.
        max_connections: connections to KMS at the same time; further threads wait for one.
        key_pair: a key pair made ahead, so that the first call does not wait for it.
        engine: whose code makes the key pair, has it attested and opens the response:
            ``python``, or AWS's C SDK (``sdk``), which must be built; with ``sdk-client`` the C
            SDK's own KMS client makes the whole call, in a worker process (docs/sdk.md).
        attester: what vouches for the key pair: ``nsm``, an enclave's ``/dev/nsm``; ``nitrotpm``,
            the TPM of an EC2 instance (docs/nitrotpm.md); ``auto``: the NSM if there is one,
            otherwise the NitroTPM. The C engines know the NSM only.
        device: the NSM, or with ``attester="nitrotpm"`` the TPM, for tests. Default: the real one.
        dialer: makes the connections, for tests. Default: vsock, TCP and UNIX sockets.
        clock: the time, for tests. Default: the system's.
        clock_watch: compares the system clock with the NSM's each time the document is renewed;
            for ``serve --correct-clock``. Default: one that warns of a drift over 10 s.
        environ: the variables. Default: ``os.environ``.

    Attributes:
        engine: as it was given.

    Raises:
        ConfigurationError: an argument or variable is invalid, there is no region, or the engine
            is not built.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        proxy: Address | ConnectProxy | str = AUTO,
        ca_bundle: str | None = None,
        trust: str = "amazon",
        credentials: Credentials | CredentialsProvider | str = "auto",
        sign_requests: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        deadline: float = DEADLINE,
        max_connections: int = 16,
        key_pair: KeyPairAhead | None = None,
        engine: str = "python",
        attester: str = "auto",
        device: NsmDevice | TpmDevice | None = None,
        dialer: Dialer | None = None,
        clock: Clock | None = None,
        clock_watch: ClockWatch | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        # Never a default argument: help() and inspect.signature would print the secret key in it.
        environ = os.environ if environ is None else environ
        aws = AwsSettings(environ, profile=profile)
        # A device that is given says nothing of the machine.
        here = aws_source(environ, attester=attester if device is None else "nsm")
        kms = locate_kms(
            aws,
            region=region,
            endpoint_url=endpoint_url,
            proxy=proxy,
            ca_bundle=ca_bundle,
            has_network=here is not None,
        )
        check_attester(attester)
        check_engine(
            engine,
            attester=attester,
            own_device=device is not None,
            own_dialer=dialer is not None,
        )
        self.engine = engine
        self._dialer = dialer or SocketDialer()
        self._proxy = kms.proxy
        self._ca_bundle, self._trust = kms.ca_bundle, trust
        if credentials == "auto":
            credentials = aws.credentials() or credentials
        provider = self._provider = choose_provider(
            credentials,
            environ=environ,
            here=here,
            region=kms.region,
            ca_bundle=kms.ca_bundle,
            dialer=self._dialer,
            clock=clock,
        )
        self._transports: list[Transport] = []
        self._kms = KmsClient(
            self._transport_to(kms.endpoint, max_connections=max_connections),
            endpoint=kms.endpoint,
            region=kms.region,
            credentials=provider if sign_requests else None,
            clock=clock,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            deadline=deadline,
            max_attempts=kms.max_attempts,
        )
        self._sdk_client: SdkClient | None = None
        if engine == "sdk-client":
            if not sign_requests:
                raise ConfigurationError("the SDK's own client signs every request")
            seconds = min(connect_timeout + read_timeout, deadline)
            self._sdk_client = _sdk_client(kms, provider, seconds, environ)
        self._clock = clock
        self._clock_watch = clock_watch or ClockWatch(clock)
        self._key_pair = key_pair
        self._attester = attester
        self._device = device
        self._opened_device: DevNsm | None = None
        self._recipient: Recipient | None = None
        self._preparing = threading.Lock()
        forking.register(self)

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: a child makes its own key pair, at its first call."""
        self._preparing = threading.Lock()
        self._recipient = self._key_pair = None
        device, self._opened_device = self._opened_device, None
        if device is not None:
            device._after_fork()  # noqa: SLF001 (before it is closed, which takes its lock)
            device.close()

    def call(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        failed: AgentError | None = None,
        timeout: float | None = None,
    ) -> KmsResponse:
        """Make any KMS call; it is attested if the operation takes `Recipient`.

        A caller that brings its own `Recipient` gets KMS's response untouched, since only the
        caller can open what is in it.

        Args:
            operation: as the KMS API names it.
            parameters: as the KMS API names them; JSON types, binary values in base64.
            failed: how the first attempt has ended, if it was made by `begin`.
            timeout: seconds for this call, if that is less than the Agent's deadline.

        Returns:
            KMS's response. In the response of an attested call the secret field is filled, as
            bytes, and CiphertextForRecipient is removed; every other binary value is base64.

        Raises:
            AgentError: for the reasons that `AttestedOperations` lists.
        """
        if self._sdk_client is not None and self._sdk_client.is_for(operation, parameters):
            return self._sdk_client.call(operation, parameters)
        if operation not in SECRET_FIELD or "Recipient" in parameters:
            log.debug("KMS %s is passed through, not attested", operation)
            return self._kms.call(operation, parameters, failed=failed, timeout=timeout)
        check_number_of_bytes(operation, parameters)  # before a key pair is made for nothing
        recipient = self.recipient()
        document = recipient.attestation_document()
        request = attested_request(operation, parameters, document)
        try:
            response = self._kms.call(operation, request, failed=failed, timeout=timeout)
        except KmsRefusedError as e:
            if e.type == "AccessDeniedException":
                e.hint = _denied_hint(operation, parameters, document) or e.hint
            elif e.type == "ValidationException":
                recipient.document_rejected(document)
            raise
        return opened(operation, parameters, response, recipient, self._kms)

    def begin(self, operation: str, parameters: Mapping[str, Any]) -> BegunCall | None:
        """Send the request of a call without waiting for anything, as the local endpoint does.

        What it returns, `enclave.begun.BegunCall`, is not part of the public interface.

        Args:
            operation: see `call`.
            parameters: see `call`.

        Returns:
            What receives the response; None if the call has to wait for the key pair, the
            attester, credentials or a connection. Then `call` will do.

        Raises:
            ConfigurationError: a parameter is invalid.
        """
        recipient = None
        request = parameters
        if self._sdk_client is not None:
            return None
        if operation in SECRET_FIELD and "Recipient" not in parameters:
            recipient = self._recipient
            if recipient is None or (document := recipient.document_now()) is None:
                return None
            request = attested_request(operation, parameters, document)
        post = self._kms.begin(operation, request)
        if post is None:
            return None
        return BegunCall(operation, parameters, post, self._kms, recipient)

    def recipient(self) -> Recipient:
        """Return the key pair with its document; the first call makes both.

        Raises:
            AttesterError: there is no NSM and no NitroTPM.
            ConfigurationError: the engine is ``sdk-client``.
        """
        recipient = self._recipient
        if recipient is None:
            with self._preparing:
                recipient = self._recipient
                if recipient is None:
                    recipient = self._recipient = self._new_recipient()
        return recipient

    def _new_recipient(self) -> Recipient:
        if self.engine == "sdk":
            with forking.importing:
                from enclave.sdk.recipient import SdkRecipient  # noqa: PLC0415 (seldom needed)

            return SdkRecipient(clock=self._clock, watch=self._clock_watch)
        if self.engine == "sdk-client":
            raise ConfigurationError(
                "the SDK's own client keeps its key pair to itself",
                hint="use --engine sdk: the same C code, and the calls are ours",
            )
        return AttestedRecipient(
            self._find_attester(),
            clock=self._clock,
            key_pair=self._key_pair,
            watch=self._clock_watch,
        )

    def _find_attester(self) -> Attester:
        device = self._device
        if device is None:
            found = find_attester(self._attester)
            self._opened_device = found.device
            log.debug("the key pair is attested by %s", found.title)
            return found.attester
        if self._attester == "nitrotpm":
            with forking.importing:
                from enclave.nitrotpm import NitroTpm  # noqa: PLC0415 (not for enclaves)

            return NitroTpm(cast("TpmDevice", device))
        return Nsm(cast("NsmDevice", device))

    @property
    def clock_drift(self) -> float | None:
        """Seconds the system clock was ahead of the NSM's at the last document; None before one."""
        return self._clock_watch.drift

    @property
    def document_age(self) -> float | None:
        """Seconds since the attestation document was fetched; None before the first call."""
        # Not of the seam: a recipient may have none.
        age: float | None = getattr(self._recipient, "document_age", None)
        return age

    @property
    def credentials_left(self) -> float | None:
        """Seconds until the cached credentials of the parent expire; None without such."""
        expiration = getattr(self._provider, "expiration", None)
        if expiration is None:
            return None
        left: float = (expiration - (self._clock or SystemClock()).now()).total_seconds()
        return left

    def _transport_to(self, endpoint: Endpoint, *, max_connections: int) -> Transport:
        """Return connections to another endpoint, made as the agent's own and closed with it."""
        transport = Transport(
            endpoint,
            dialer=self._dialer,
            proxy=self._proxy,
            tls=tls_context(endpoint.host, ca_bundle=self._ca_bundle, trust=self._trust),
            max_connections=max_connections,
        )
        self._transports.append(transport)
        return transport

    def close(self) -> None:
        """Close the connections and the NSM device, and drop the key pair."""
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


def _sdk_client(
    kms: KmsLocation, credentials: CredentialsProvider, seconds: float, environ: Mapping[str, str]
) -> SdkClient:
    if kms.proxy is None:
        raise ConfigurationError(
            "the SDK's own client looks up no names: it needs a proxy",
            hint="name one with --proxy, or use --engine python or sdk",
        )
    from enclave.sdk.client import SdkClient  # noqa: PLC0415 (for who asks for it)

    return SdkClient(
        region=kms.region,
        endpoint=kms.endpoint,
        proxy=kms.proxy,
        ca_bundle=kms.ca_bundle or public_bundle(),
        credentials=credentials,
        seconds=seconds,
        environ=environ,
    )


def _denied_hint(operation: str, parameters: Mapping[str, Any], document: bytes) -> str:
    """Return what KMS saw of this enclave, for a request that it has denied."""
    try:
        with forking.importing:
            from enclave.recipient.refusal import access_denied_hint  # noqa: PLC0415 (lazy)
    except (ImportError, OSError):
        return ""  # No file descriptor is left, for example: KMS's error is what matters.
    return access_denied_hint(operation, parameters, document)
