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
from enclave.sdk.checks import PARAMETERS, check_request, read_response
from enclave.sdk.errors import SdkConnectionEndedError, SdkNotBuiltError, SdkWorkerError
from enclave.sdk.process import COMMAND, DISCONNECTED, Worker, WorkerFailure
from vsock_proxy.net.addresses import (
    Address,
    ConnectProxy,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.kms.endpoint import Endpoint

log = logging.getLogger(__name__)

MAX_WORKERS = 4
"""Workers at once: each has one connection and makes one call at a time."""

MAX_ATTEMPTS = 3
"""Attempts of one call whose connection ends; each retry has a new worker."""

_STATUS = re.compile(r"Got non-200 answer from KMS: (-?\d{1,3})\b")
_CONNECTION = re.compile(r"Connection failed with error ([\w: .,()-]{1,200})")

_LOCAL_ERRORS = {cls.__name__: cls for cls in (ConfigurationError, SdkNotBuiltError)}
"""Errors of a worker that keep their class: they have nothing to do with KMS."""


class SdkClient:
    """KMS through `aws_kms_*_blocking`, each call in a process that can be killed.

    A worker makes an RSA key pair and a connection of its own, keeps them until it ends, and has
    the NSM attest anew at each call. It is replaced if it hangs or dies, if its connection ends,
    or if the credentials change. Safe for many threads.

    Args:
        region: AWS region.
        endpoint: the host that TLS proves; the SDK can only post to ``/``.
        proxy: where vsock-proxy listens.
        ca_bundle: file of CA certificates, PEM. The SDK also trusts the system's.
        credentials: provider, used at each call.
        seconds: timeout of one call, with the start of a worker.
        environ: the workers' environment, without AWS's variables.
        max_workers: workers at once; further threads wait.
        command: the worker's program; tests bring their own.

    Raises:
        ConfigurationError: the SDK's client cannot connect there.
    """

    def __init__(
        self,
        *,
        region: str,
        endpoint: Endpoint,
        proxy: Address | ConnectProxy,
        ca_bundle: str,
        credentials: CredentialsProvider,
        seconds: float,
        environ: Mapping[str, str],
        max_workers: int = MAX_WORKERS,
        command: Sequence[str] = COMMAND,
    ) -> None:
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
        # Credentials go through the pipe; the SDK's own search for them must find none.
        self._environ = {
            **{name: value for name, value in environ.items() if not name.startswith("AWS_")},
            "SSL_CERT_FILE": ca_bundle,
        }
        self._command = command
        self._max_workers = max_workers
        self._closed = threading.Event()
        self._slots = self._free_slots()
        forking.register(self)

    def _free_slots(self) -> queue.LifoQueue[tuple[Worker, Credentials] | None]:
        """Return slots for workers, the last used on top: `None` if one is to be started."""
        slots: queue.LifoQueue[tuple[Worker, Credentials] | None] = queue.LifoQueue()
        for _ in range(self._max_workers):
            slots.put(None)
        return slots

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: the workers are the parent process's."""
        self._closed = threading.Event()
        self._slots = self._free_slots()

    def is_for(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """Return whether this client makes or rejects a call.

        The agent itself makes the calls that use no key pair, except for Encrypt, and those whose
        caller brings a Recipient.
        """
        return (operation in SECRET_FIELD or operation in PARAMETERS) and (
            "Recipient" not in parameters
        )

    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        """Call one of four operations; see `enclave.Agent.call`.

        Raises:
            ConfigurationError: the SDK's client cannot make this call, or the bindings do not load.
            CredentialsError: there is nothing to sign with.
            SdkWorkerError: the worker hung or died.
            SdkConnectionEndedError: its connection ended, at each attempt.
            KmsRefusedError: KMS refused; the SDK keeps only the HTTP status.
            KmsUnreachableError: there is no connection.
            KmsResponseError: KMS's response does not fit, or does not open.
        """
        check_request(operation, parameters)
        deadline = time.monotonic() + self._seconds
        credentials = self._credentials.credentials(timeout=self._seconds)
        request = {"operation": operation, "parameters": dict(parameters)}
        response = self._exchange_or_retry(request, credentials, deadline)
        content = read_response(operation, parameters, response["content"])
        if operation in SECRET_FIELD:
            log.info("%s by the SDK's own client: %d bytes", operation, len(content["Plaintext"]))
        return KmsResponse(content, None)

    def close(self) -> None:
        """Kill the idle workers; each of the others is killed after its call."""
        self._closed.set()
        while True:
            try:
                slot = self._slots.get_nowait()
            except queue.Empty:
                return
            if slot is not None:
                slot[0].kill()

    def _exchange_or_retry(
        self, request: Mapping[str, Any], credentials: Credentials, deadline: float
    ) -> dict[str, Any]:
        # KMS closes idle connections, and the SDK may hear of it only in the middle of a call.
        # None of the four operations changes anything in KMS: a retry is safe.
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                return self._exchange(request, credentials, deadline, new_worker=attempt > 1)
            except SdkConnectionEndedError as e:
                if time.monotonic() >= deadline:
                    raise
                log.info("%s: retry with a new worker: %s", request["operation"], e)
        return self._exchange(request, credentials, deadline, new_worker=True)

    def _exchange(
        self,
        request: Mapping[str, Any],
        credentials: Credentials,
        deadline: float,
        *,
        new_worker: bool,
    ) -> dict[str, Any]:
        try:
            slot = self._slots.get(timeout=max(deadline - time.monotonic(), 0.001))
        except queue.Empty:
            raise SdkWorkerError(
                f"every worker with the SDK's client is busy: {self._max_workers} calls at once",
                hint="make fewer calls at once, or use --engine sdk, which has no such limit",
            ) from None
        worker = None
        try:
            worker = self._usable_worker(slot, credentials, deadline, new=new_worker)
            response = worker.exchange(request, seconds=deadline - time.monotonic())
            slot = (worker, credentials)
        except WorkerFailure as failure:
            error = _translated(failure)
            if worker is not None and not isinstance(error, KmsRefusedError | ConfigurationError):
                worker.kill()
                worker = None
            slot = (worker, credentials) if worker is not None else None
            raise error from None
        except BaseException:
            if worker is not None:
                worker.kill()
            slot = None
            raise
        finally:
            self._give_back(slot)
        return response

    def _usable_worker(
        self,
        slot: tuple[Worker, Credentials] | None,
        credentials: Credentials,
        deadline: float,
        *,
        new: bool,
    ) -> Worker:
        if slot is not None:
            worker, signed_with = slot
            if not new and signed_with == credentials and worker.is_usable():
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
            seconds=deadline - time.monotonic(),
            command=self._command,
        )

    def _give_back(self, slot: tuple[Worker, Credentials] | None) -> None:
        if self._closed.is_set() and slot is not None:
            slot[0].kill()
            slot = None
        self._slots.put(slot)


def _proxy_options(proxy: Address | ConnectProxy) -> dict[str, Any]:
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
                hint="name a vsock://, unix: or tcp:// address, or use --engine sdk",
            )


def _translated(failure: WorkerFailure) -> AgentError:
    """Return the error that a worker's failure, and what C printed, stand for."""
    if local := _LOCAL_ERRORS.get(failure.type):
        return local(str(failure), hint=failure.hint)
    if found := _STATUS.search(failure.printed):
        status = int(found[1])
        if status <= 0:  # no status: `rest_client_request_blocking` failed (source/kms.c)
            return SdkConnectionEndedError(
                "the SDK's client received no HTTP response: its connection ended, or what came "
                "is not HTTP"
            )
        if status != 200:  # with 200 it is the response that could not be read
            return KmsRefusedError(
                f"HTTP status {status}", "", request_id=None, status=status,
                hint="the SDK's own client drops KMS's reason; --engine sdk shows it",
            )  # fmt: skip
    if "CMS" in failure.printed or "Could not read response" in failure.printed:
        return KmsResponseError("the SDK's client cannot read or decrypt KMS's response")
    if DISCONNECTED in failure.printed:
        return SdkConnectionEndedError("the connection of the SDK's client ended")
    if connection := _CONNECTION.search(failure.printed):
        return KmsUnreachableError(f"the SDK's client has no connection: {connection[1]}")
    return KmsUnreachableError(
        str(failure),
        hint="the SDK gives no reason: no NSM, no response, or one that does not decrypt; "
        "--engine python says more",
    )
