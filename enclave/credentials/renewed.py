"""Credentials from a service, renewed before they expire without delaying calls."""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from enclave import forking
from enclave.clock import Clock, SystemClock
from enclave.credentials.model import DEFAULT_TIMEOUT, Credentials
from enclave.errors import CredentialsError
from vsock_proxy.service.backoff import Backoff
from vsock_proxy.service.renewal import Renewal, RenewalPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

log = logging.getLogger(__name__)

POLICY = RenewalPolicy(shortest_use=1.0, pause=Backoff(first=0.1, most=15.0, jitter=0.5))
"""Renewals because of rejections are at least `shortest_use` apart, too."""


class RenewedCredentials:
    """Credentials of a service that are cached. Safe for many threads, and over forks.

    They are fetched at the first call, and renewed once about half of their time is over, by a
    thread of its own; meanwhile calls go on with the cached ones. When these have expired, or KMS
    has rejected them, calls wait for the response to one request, and while the service fails
    they get its last error at once, until a growing pause is over.

    Args:
        fetch: asks the service; it ends by itself, with credentials that are valid now, or a
            `CredentialsError`.
        source: the name of the service, for messages.
        clock: time; production code leaves it out.
        uniform: random number between two; production code leaves it out.
        silence_hint: what to do about a service that sends no response in time.
    """

    def __init__(
        self,
        fetch: Callable[[], Credentials],
        source: str,
        *,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        silence_hint: str = "",
    ) -> None:
        self._fetch = fetch
        self._source = source
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._silence_hint = silence_hint
        self._current: Credentials | None = None
        self._start_afresh()
        forking.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()  # held for moments, never while anything is waited for
        self._failure: CredentialsError | None = None
        self._schedule = Renewal(POLICY, self._uniform)
        self._renewed_for_rejection = float("-inf")
        self._renewal: Future[Credentials] | None = None

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: the thread that renews stayed behind in the parent process."""
        self._start_afresh()

    @property
    def expiration(self) -> datetime | None:
        """When the cached credentials expire; None without such."""
        current = self._current
        return current.expiration if current is not None else None

    def credentials(
        self, *, timeout: float = DEFAULT_TIMEOUT, rejected: Credentials | None = None
    ) -> Credentials:
        """See `CredentialsProvider.credentials`."""
        with self._lock:
            now = self._clock.monotonic()
            if rejected is not None and rejected == self._current:
                if now < self._renewed_for_rejection + POLICY.shortest_use:
                    return rejected  # The service was asked a moment ago and has no others.
                self._current = None
                self._schedule.renew_at_once(now)
                self._renewed_for_rejection = now
            current = self._current
            if current is not None and self._has_expired(current):
                current = None
            due = self._schedule.is_due(now) or (current is None and self._failure is None)
            if due and self._renewal is None:
                self._renewal = self._start_renewal()
            renewal, failure = self._renewal, self._failure
        if current is not None:
            return current
        if renewal is None:
            # No request under way and none due: the last one failed a moment ago.
            raise _copy(failure or CredentialsError("no AWS credentials"))
        try:
            return renewal.result(timeout)
        except TimeoutError as e:
            raise CredentialsError(
                f"no credentials from {self._source} within {timeout:g} s",
                hint=self._silence_hint,
                transient=True,
            ) from e
        except CredentialsError as e:
            raise _copy(e) from e

    def _has_expired(self, credentials: Credentials) -> bool:
        expiration = credentials.expiration
        return expiration is not None and expiration <= self._clock.now()

    def _start_renewal(self) -> Future[Credentials]:
        renewal: Future[Credentials] = Future()
        # A daemon: the program may end while it waits, for `timeout` at most.
        thread = threading.Thread(
            target=self._renew, args=(renewal,), name="credentials", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as e:  # the system has no more threads
            raise CredentialsError(
                "no thread to renew the credentials in",
                hint="there are too many threads, or too little memory",
                transient=True,
            ) from e
        return renewal

    def _renew(self, renewal: Future[Credentials]) -> None:
        try:
            credentials = self._fetch()
        except BaseException as e:  # noqa: BLE001 (whoever waits must be told)
            self._failed(e)
            renewal.set_exception(e)
        else:
            self._succeeded(credentials)
            renewal.set_result(credentials)

    def _succeeded(self, credentials: Credentials) -> None:
        left = None
        if credentials.expiration is not None:
            left = (credentials.expiration - self._clock.now()).total_seconds()
        with self._lock:
            self._current, self._failure = credentials, None
            self._schedule.succeeded(self._clock.monotonic(), left)
            self._renewal = None
        log.info("credentials from %s, valid until %s", self._source, credentials.expiration)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, CredentialsError):
            error = CredentialsError(f"internal error: {type(error).__name__}")
        with self._lock:
            self._failure = error
            self._schedule.failed(self._clock.monotonic())
            self._renewal = None
            cached = self._current is not None and not self._has_expired(self._current)
        if cached:
            log.warning("credentials not renewed, using the cached ones: %s", error)


def _copy(error: CredentialsError) -> CredentialsError:
    """Return a new error for each thread: one object's traceback would grow with every raise."""
    return CredentialsError(str(error), hint=error.hint, transient=error.transient)
