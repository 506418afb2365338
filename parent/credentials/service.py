"""The credential service as a component: a server for enclaves, and a thread that renews."""

from __future__ import annotations

import logging
import random
import threading
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING

from parent.clock import Clock, SystemClock
from parent.component import ComponentStatus
from parent.credentials.cache import Cache
from parent.credentials.model import Credentials, CredentialsError
from parent.credentials.responses import respond
from parent.credentials.source_process import SourceProcess
from parent.http_server import HttpServer, Limits
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from parent.credentials.settings import CredentialSettings
    from parent.http_server import Request, Response

log = logging.getLogger(__name__)

_LOOK = 30.0
"""Seconds between two looks at the clock: the wall clock may have been set."""


class CredentialService:
    """See `parent.component.Component`.

    Values of its status: ``source``, ``expires_at`` and ``renewed_at`` (seconds since 1970, or
    None), ``renewals``, ``failures``, ``failure`` (the kind of the last, or None).

    Attributes:
        server: for its counters.
    """

    name = "credentials"

    def __init__(
        self,
        settings: CredentialSettings,
        *,
        load: Callable[[datetime], Credentials] | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        limits: Limits | None = None,
    ) -> None:
        """Make one; production code passes the settings only."""
        self.settings = settings
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._source = SourceProcess()
        self._load = load or (lambda now: self._source.load(self.settings.profile, now=now))
        self._cache = Cache(self._clock, uniform)
        self._wake = threading.Condition()
        self._stopping = False
        self.server = HttpServer(settings.listen, self._respond, name=self.name, limits=limits)

    def start(self) -> None:
        """See `Component.start`. Whether there are credentials shows later: in `status`."""
        self.server.start()
        # A daemon thread: the program may exit while the source runs.
        start_thread(
            threading.Thread(target=self._keep_fresh, name="credentials-renewal", daemon=True)
        )

    def stop(self, timeout: float) -> None:
        """See `Component.stop`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._source.cancel()
        self.server.stop(timeout)

    def reconfigure(self, settings: CredentialSettings) -> list[str]:
        """Change the settings; return the keys of those that need a restart."""
        stay = [] if settings.listen == self.settings.listen else ["listen"]
        renew = settings.profile != self.settings.profile
        self.settings = replace(settings, listen=self.settings.listen)
        if renew:
            with self._wake:
                self._cache = Cache(self._clock, self._uniform)
                self._wake.notify()
        return stay

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        cache = self._cache
        credentials, failure = cache.current(), cache.failure
        detail = "no credentials yet"
        if failure is not None:
            detail = f"no credentials: {failure}"
        if credentials is not None:
            detail = f"credentials from {credentials.source}, {_validity(credentials)}"
            if failure is not None:
                detail += f"; not renewed: {failure}"
        if not self.server.running:
            detail = "not running"
        return ComponentStatus(
            healthy=self.server.running and credentials is not None,
            detail=detail,
            values={
                "source": credentials.source if credentials else None,
                "expires_at": _epoch(credentials.expiration if credentials else None),
                "renewed_at": _epoch(cache.renewed_at),
                "renewals": cache.renewals,
                "failures": cache.failures,
                "failure": failure.kind if failure else None,
            },
        )

    def renew(self) -> None:
        """Run the source once; may take a minute."""
        cache = self._cache
        try:
            credentials = self._load(self._clock.now())
        except CredentialsError as e:
            if self._stopping:
                return
            cache.failed(e)
            going_on = "the cached ones are still valid" if cache.current() else "there are none"
            log.warning("credentials not renewed (%s): %s", going_on, e)
            if e.hint:
                log.warning("hint: %s", e.hint)
        else:
            cache.renewed(credentials)
            log.info(
                "credentials from %s, access key %s, %s",
                credentials.source,
                credentials.access_key_id,
                _validity(credentials),
            )

    def _respond(self, request: Request) -> Response:
        return respond(request, self._cache, self.settings.cids)

    def _keep_fresh(self) -> None:
        while True:
            with self._wake:
                while not self._stopping and (wait := self._cache.wait()):
                    self._wake.wait(min(wait, _LOOK))
                if self._stopping:
                    return
            self.renew()


def _validity(credentials: Credentials) -> str:
    if credentials.expiration is None:
        return "without an expiration"
    return f"valid until {credentials.expiration.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def _epoch(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
