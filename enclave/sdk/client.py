"""The SDK's own KMS client for the agent: worker processes, deadlines, typed errors."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from enclave import forking
from enclave.errors import (
    AgentError,
    ConfigurationError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.kms.client import KmsResponse
from enclave.recipient.exchange import SECRET_FIELD
from enclave.sdk.bindings.kms import MAX_PORT
from enclave.sdk.checks import PARAMETERS, check_request, read_answer
from enclave.sdk.errors import SdkConnectionEndedError, SdkWorkerError
from enclave.sdk.process import COMMAND, DISCONNECTED, Worker, WorkerFailure
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.kms.endpoint import Endpoint

log = logging.getLogger(__name__)

MAX_WORKERS = 4
"""Workers at once: each has one connection and makes one call at a time."""

_STATUS = re.compile(r"Got non-200 answer from KMS: (\d{3})\b")
_CONNECTION = re.compile(r"Connection failed with error ([\w: .,()-]{1,200})")


class SdkClient:
    """KMS through `aws_kms_*_blocking`, each call in a process that can be killed.

    A worker makes an RSA key pair and a connection of its own, keeps them for its life, and has
    the NSM attest anew at each call. When it hangs, dies, or its connection ends, or when the
    credentials change, it is replaced. For any number of threads.
    """

    def __init__(
        self,
        *,
        region: str,
        endpoint: Endpoint,
        proxy: Address,
        ca_bundle: str,
        credentials: CredentialsProvider,
        seconds: float,
        environ: Mapping[str, str],
        max_workers: int = MAX_WORKERS,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Check what can be; workers start when they are needed.

        Args:
            region: AWS region.
            endpoint: what TLS proves; the SDK can only post to ``/``.
            proxy: where vsock-proxy listens.
            ca_bundle: file of CA certificates, PEM. The SDK trusts the system's as well.
            credentials: asked at each call.
            seconds: one call may take, with the start of a worker.
            environ: the workers' environment, but for AWS's variables.
            max_workers: further threads wait for one.
            command: the worker's program; tests bring their own.

        Raises:
            ConfigurationError: the SDK's client cannot be led there.
        """
        if endpoint.path != "/" or endpoint.port != 443:
            raise ConfigurationError(
                f"the SDK's own client cannot post to {endpoint.url}",
                hint="it knows https://HOST/ only; use --engine sdk for other endpoints",
            )
        self._options = {
            "region": region,
            "host_name": endpoint.host,
            **_proxy_options(proxy),
        }
        self._credentials = credentials
        self._seconds = seconds
        # Credentials come by the pipe; the SDK's own search for them shall find nothing.
        self._environ = {
            **{name: value for name, value in environ.items() if not name.startswith("AWS_")},
            "SSL_CERT_FILE": ca_bundle,
        }
        self._command = command
        self._max_workers = max_workers
        self._closed = threading.Event()
        self._places = self._free_places()
        forking.register(self)

    def _free_places(self) -> queue.LifoQueue[tuple[Worker, Credentials] | None]:
        """Return places for workers, the last used on top: `None` where one is to be started."""
        places: queue.LifoQueue[tuple[Worker, Credentials] | None] = queue.LifoQueue()
        for _ in range(self._max_workers):
            places.put(None)
        return places

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: the workers are the parent process's."""
        self._closed = threading.Event()
        self._places = self._free_places()

    def is_for(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """Whether a call is this client's to make or to refuse.

        What no key pair takes part in is the agent's, but for Encrypt; and so is a call whose
        caller has a Recipient of its own.
        """
        return (operation in SECRET_FIELD or operation in PARAMETERS) and (
            "Recipient" not in parameters
        )

    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        """Call one of four operations; see `enclave.Agent.call`.

        Raises:
            ConfigurationError: the SDK's client cannot make this call.
            CredentialsError: nothing to sign with.
            SdkWorkerError: it hung or died.
            KmsRefusedError: KMS said no; the SDK keeps only the HTTP status.
            KmsUnreachableError: no connection.
            KmsResponseError: KMS's answer does not fit, or does not open.
        """
        check_request(operation, parameters)
        ends = time.monotonic() + self._seconds
        credentials = self._credentials.credentials(timeout=self._seconds)
        request = {"operation": operation, "parameters": dict(parameters)}
        try:
            answer = self._ask(request, credentials, ends)
        except SdkConnectionEndedError as e:
            # KMS closes what is idle, and that may be heard of in the middle of the next call.
            # None of these operations leaves a trace in KMS: to ask twice is safe.
            log.info("%s, once more by a new client: %s", operation, e)
            answer = self._ask(request, credentials, ends)
        content = read_answer(operation, parameters, answer["answer"])
        if operation in SECRET_FIELD:
            log.info("%s by the SDK's own client: %d bytes", operation, len(content["Plaintext"]))
        return KmsResponse(content, None)

    def close(self) -> None:
        """End the workers; those in use end with their call."""
        self._closed.set()
        while True:
            try:
                place = self._places.get_nowait()
            except queue.Empty:
                return
            if place is not None:
                place[0].kill()

    def _ask(
        self, request: Mapping[str, Any], credentials: Credentials, ends: float
    ) -> dict[str, Any]:
        try:
            place = self._places.get(timeout=max(ends - time.monotonic(), 0.001))
        except queue.Empty:
            raise SdkWorkerError("every worker with the SDK's client is busy") from None
        worker = None
        try:
            worker = self._fit_worker(place, credentials, ends)
            answer = worker.ask(request, seconds=ends - time.monotonic())
            place = (worker, credentials)
        except WorkerFailure as failure:
            error = _translated(failure)
            if worker is not None and not isinstance(error, KmsRefusedError):
                worker.kill()
                worker = None
            place = (worker, credentials) if worker is not None else None
            raise error from None
        except BaseException:
            if worker is not None:
                worker.kill()
            place = None
            raise
        finally:
            self._give_back(place)
        return answer

    def _fit_worker(
        self, place: tuple[Worker, Credentials] | None, credentials: Credentials, ends: float
    ) -> Worker:
        if place is not None:
            worker, signed_with = place
            if signed_with == credentials and worker.is_fit():
                return worker
            log.info("the SDK's client is replaced: connection ended, or credentials changed")
            worker.kill()
        return Worker(
            {
                **self._options,
                "access_key_id": credentials.access_key_id,
                "secret_access_key": credentials.secret_access_key,
                "session_token": credentials.session_token or "",
            },
            environ=self._environ,
            seconds=ends - time.monotonic(),
            command=self._command,
        )

    def _give_back(self, place: tuple[Worker, Credentials] | None) -> None:
        if self._closed.is_set() and place is not None:
            place[0].kill()
            place = None
        self._places.put(place)


def _proxy_options(proxy: Address) -> dict[str, Any]:
    match proxy:
        case VsockAddress(cid, port):
            if port > MAX_PORT:
                raise ConfigurationError(
                    f"port {port} of the proxy is more than the SDK's {MAX_PORT}",
                    hint="let vsock-proxy listen on a lower port, or use --engine sdk",
                )
            return {"domain": "VSOCK", "address": str(cid), "port": port}
        case UnixAddress(path):
            return {"domain": "LOCAL", "address": path, "port": 0}
        case TcpAddress(host, port):
            return {"domain": "IPV6" if ":" in host else "IPV4", "address": host, "port": port}
        case _:
            raise ConfigurationError(
                f"the SDK's own client cannot connect to {proxy}",
                hint="give it a vsock://, unix: or tcp:// address, or use --engine sdk",
            )


def _translated(failure: WorkerFailure) -> AgentError:
    """What C printed, as far as it tells anything, as the error it stands for."""
    if status := _STATUS.search(failure.said):
        code = int(status[1])
        if code != 200:  # with 200 it is the answer that could not be read
            return KmsRefusedError(
                f"HTTP status {code}", "", request_id=None, status=code,
                hint="the SDK's own client drops KMS's reason; --engine sdk shows it",
            )  # fmt: skip
    if "CMS" in failure.said or "Could not read response" in failure.said:
        return KmsResponseError("the SDK's client cannot read or open KMS's answer")
    if DISCONNECTED in failure.said:
        return SdkConnectionEndedError("the connection of the SDK's client ended")
    if connection := _CONNECTION.search(failure.said):
        return KmsUnreachableError(f"the SDK's client has no connection: {connection[1]}")
    return KmsUnreachableError(
        str(failure),
        hint=failure.hint
        or "the SDK gives no reason: no NSM, no answer, or one that does not open",
    )
