"""Credentials from the parent, over vsock, renewed before they expire without holding anybody up.

The parent is not trusted: wrong credentials can keep KMS from answering, and they decide whose
account answers. A key named by its ARN stays that key, since the exchange compares it; an alias is
a key of whatever account the credentials are of (docs/credentials.md).
"""

from __future__ import annotations

import logging
import os
import random
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from enclave.clock import Clock, SystemClock
from enclave.credentials.document import parse_credentials
from enclave.credentials.model import DEFAULT_TIMEOUT, Credentials
from enclave.credentials.service import ask
from enclave.errors import CredentialsError
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, VsockAddress
from vsock_proxy.net.dialing import Dialer, SocketDialer
from vsock_proxy.net.ports import CREDENTIALS_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

DEFAULT_SERVICE = VsockAddress(VMADDR_CID_PARENT, CREDENTIALS_PORT)
"""Where the parent's credential service listens."""

LONGEST_USE = 900.0
"""Seconds after which even credentials that last are asked for again: a role may have changed."""

_SHORTEST_USE = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0
"""Seconds between failures, doubled each time."""


class ParentCredentials:
    """Credentials of the parent's credential service. Safe for many threads.

    Asked for at the first call, and again once about half of their time is over, by a thread of
    its own; meanwhile calls go on with those at hand. When they have expired calls wait for the
    answer to one question, and while the service fails they get its last error at once, until a
    growing pause is over.

    Args:
        address: where the service listens.
        dialer: where connections come from; production code leaves it out.
        clock: time; production code leaves it out.
        uniform: random number between two; production code leaves it out.
        timeout: seconds for one question and its answer.
    """

    def __init__(
        self,
        address: Address = DEFAULT_SERVICE,
        *,
        dialer: Dialer | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        timeout: float = 5.0,
    ) -> None:
        self._address = address
        self._dialer = dialer or SocketDialer()
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._timeout = timeout
        self._lock = threading.Lock()  # held for moments, never while anything is waited for
        self._current: Credentials | None = None
        self._failure: CredentialsError | None = None
        self._failures = 0
        self._answered_at = self._ask_at = float("-inf")
        self._asking: Future[Credentials] | None = None
        self._process = os.getpid()

    def credentials(
        self, *, timeout: float = DEFAULT_TIMEOUT, rejected: Credentials | None = None
    ) -> Credentials:
        """See `CredentialsProvider.credentials`."""
        with self._lock:
            if self._process != os.getpid():
                # The thread that asks stayed behind in the process that was forked.
                self._process, self._asking = os.getpid(), None
            now = self._clock.monotonic()
            if rejected is not None and rejected == self._current:
                if now < self._answered_at + _SHORTEST_USE:
                    return rejected  # The service was asked just now and has no others.
                self._current, self._ask_at = None, now
            current = self._current
            if current is not None and self._has_expired(current):
                current = None
            due = now >= self._ask_at or (current is None and self._failure is None)
            if due and self._asking is None:
                self._asking = self._start_asking()
            asking, failure = self._asking, self._failure
        if current is not None:
            return current
        if asking is None:
            # No question under way and none due: the last one failed a moment ago.
            raise _again(failure or CredentialsError("no AWS credentials"))
        try:
            return asking.result(timeout)
        except TimeoutError as e:
            raise CredentialsError(
                f"no credentials from {self._address} within {timeout:g} s", transient=True
            ) from e
        except CredentialsError as e:
            raise _again(e) from e

    def _has_expired(self, credentials: Credentials) -> bool:
        expiration = credentials.expiration
        return expiration is not None and expiration <= self._clock.now()

    def _start_asking(self) -> Future[Credentials]:
        asking: Future[Credentials] = Future()
        # A daemon: the program may end while it waits, for `timeout` at most.
        threading.Thread(target=self._ask, args=(asking,), name="credentials", daemon=True).start()
        return asking

    def _ask(self, asking: Future[Credentials]) -> None:
        try:
            body = ask(self._address, self._dialer, self._timeout)
            credentials = parse_credentials(body, now=self._clock.now())
        except BaseException as e:  # noqa: BLE001 (whoever waits must hear of it)
            self._failed(e)
            asking.set_exception(e)
        else:
            self._succeeded(credentials)
            asking.set_result(credentials)

    def _succeeded(self, credentials: Credentials) -> None:
        use = LONGEST_USE
        if credentials.expiration is not None:
            left = (credentials.expiration - self._clock.now()).total_seconds()
            use = min(max(left / 2, _SHORTEST_USE), LONGEST_USE)
        with self._lock:
            self._current, self._failure, self._failures = credentials, None, 0
            self._answered_at = self._clock.monotonic()
            # Enclaves that started together must not ask together.
            self._ask_at = self._answered_at + self._uniform(0.8 * use, use)
            self._asking = None
        log.info("credentials from %s, good until %s", self._address, credentials.expiration)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, CredentialsError):
            error = CredentialsError(f"internal error: {type(error).__name__}")
        with self._lock:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 16))
            self._failure, self._failures = error, self._failures + 1
            self._ask_at = self._clock.monotonic() + self._uniform(pause / 2, pause)
            self._asking = None
            going_on = self._current is not None and not self._has_expired(self._current)
        if going_on:
            log.warning("credentials not renewed, going on with the last ones: %s", error)


def _again(error: CredentialsError) -> CredentialsError:
    """A new error for each thread: one object's traceback would grow with every raise."""
    return CredentialsError(str(error), hint=error.hint, transient=error.transient)
