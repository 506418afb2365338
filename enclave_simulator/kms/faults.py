"""KMS's faults by name: the table behind ``--fault``, the Python API and tests."""

from __future__ import annotations

import textwrap
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.quantities import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable

RESPONSE_FAULTS = {
    "refuse": "AccessDeniedException, as by IAM or a key policy",
    "expired-token": "ExpiredTokenException, as for expired credentials",
    "throttle": "ThrottlingException",
    "internal": "KMSInternalException, HTTP 500",
    "dependency-timeout": "DependencyTimeoutException, HTTP 500",
    "unavailable": "HTTP 503 with an HTML body, as by a load balancer",
    "garbage": "HTTP 200 with a body that is not JSON",
}
"""Another response in place of the true one."""

SECRET_FAULTS = {
    "plaintext": "the secret in the clear, though Recipient was sent",
    "no-ciphertext": "no CiphertextForRecipient",
    "wrong-length": "one byte of the secret fewer than requested, inside the CMS",
    "extra-length": "one byte of the secret more than requested, inside the CMS",
    "wrong-key": "CiphertextForRecipient for another key pair",
    "corrupt-cms": "CiphertextForRecipient with one bit of the encrypted key flipped",
    "wrong-key-id": "the KeyId of another key, if the response has one",
}
"""A true response but for its secret, or the key that it names."""

DELIVERY_FAULTS = {
    "stall": "no response at all; the connection stays open",
    "drip": "one byte of the body now and then, for ever",
    "cut": "half the body, then the connection is closed without TLS's close_notify",
    "reset": "the connection is reset instead of a response",
    "close-after": "a true response, then the connection is closed without an announcement",
    "huge": "a body without end",
}
"""A true response that does not arrive as it should."""

HANDSHAKE_FAULTS = {
    "wrong-host": "a certificate for another host name (counts connections, not requests)",
}

FAULTS = {**RESPONSE_FAULTS, **SECRET_FAULTS, **DELIVERY_FAULTS, **HANDSHAKE_FAULTS}
"""Every fault, with its effect in a line."""


_MOST_REQUESTS = 10**9


@dataclass(slots=True)
class Fault:
    """A fault and how many requests it lasts for; None: until it is cleared."""

    name: str
    count: int | None = None

    def __str__(self) -> str:
        return self.name if self.count is None else f"{self.name}:{self.count}"


def parse_fault(text: str) -> Fault:
    """Parse ``NAME`` or ``NAME:COUNT``.

    Raises:
        ConfigurationError: there is no such fault, or the count is invalid.
    """
    name, colon, count = text.partition(":")
    if name not in FAULTS:
        raise ConfigurationError(
            f"no such fault: {name!r}", hint="--fault help lists them: " + ", ".join(FAULTS)
        )
    if not colon:
        return Fault(name)
    number = whole_number(count, 1, _MOST_REQUESTS)
    if number is None:
        raise ConfigurationError(
            f"not a fault: {text!r}", hint="write NAME, or NAME:COUNT with a COUNT of 1 or more"
        )
    return Fault(name, number)


def describe_faults() -> str:
    """Return the table that ``--fault help`` prints, in 80 columns."""
    return "\n".join(
        textwrap.fill(text, 80, initial_indent=f"  {name:<19} ", subsequent_indent=" " * 22)
        for name, text in FAULTS.items()
    )


class FaultQueue:
    """The faults to come, in their order. Thread-safe: tests inject while a server runs."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = deque(faults)
        self._lock = threading.Lock()

    def inject(self, fault: str) -> None:
        """Queue one fault, written ``NAME`` or ``NAME:COUNT``.

        Raises:
            ConfigurationError: see `parse_fault`.
        """
        parsed = parse_fault(fault)
        with self._lock:
            self._faults.append(parsed)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def pending(self) -> list[str]:
        """Return the queued faults, as `inject` accepts them."""
        with self._lock:
            return [str(fault) for fault in self._faults]

    def take_for_request(self) -> str:
        """Return the fault of one request, or an empty string."""
        return self._take(handshake=False)

    def take_for_handshake(self) -> str:
        """Return the fault of one TLS handshake, or an empty string."""
        return self._take(handshake=True)

    def _take(self, *, handshake: bool) -> str:
        if not self._faults:  # nearly always; and a stale read costs one request
            return ""
        with self._lock:
            if not self._faults or (self._faults[0].name in HANDSHAKE_FAULTS) != handshake:
                return ""
            fault = self._faults[0]
            if fault.count is not None:
                fault.count -= 1
                if fault.count == 0:
                    self._faults.popleft()
            return fault.name
