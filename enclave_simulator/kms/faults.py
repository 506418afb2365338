"""What can go wrong with KMS, by name: the table behind ``--fault``, the Python API and tests."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

ANSWER_FAULTS = {
    "refuse": "AccessDeniedException, as IAM or a key policy gives it",
    "expired-token": "ExpiredTokenException, as credentials past their time get it",
    "throttle": "ThrottlingException",
    "internal": "KMSInternalException, HTTP 500",
    "dependency-timeout": "DependencyTimeoutException, HTTP 500",
    "unavailable": "HTTP 503 with an HTML body, as a load balancer gives it",
    "garbage": "HTTP 200 with a body that is not JSON",
}
"""An answer in place of the true one."""

SECRET_FAULTS = {
    "plaintext": "the secret in the clear, though Recipient was sent",
    "no-ciphertext": "no CiphertextForRecipient",
    "wrong-length": "one byte of the secret fewer than asked for, inside the CMS",
    "extra-length": "one byte of the secret more than asked for, inside the CMS",
    "wrong-key": "CiphertextForRecipient for another key pair",
    "corrupt-cms": "CiphertextForRecipient with one bit of the encrypted key flipped",
    "wrong-key-id": "the KeyId of another key, where the answer has one",
}
"""A true answer, but for the secret in it, or whose key it says it used."""

DELIVERY_FAULTS = {
    "stall": "no answer at all; the connection stays open",
    "drip": "one byte of the body now and then, for ever",
    "cut": "half the body, then the end of the connection without TLS's goodbye",
    "reset": "the connection is reset instead of an answer",
    "close-after": "a true answer, then the connection is closed without a word in the headers",
    "huge": "a body without end",
}
"""A true answer that does not arrive as it should."""

HANDSHAKE_FAULTS = {
    "wrong-host": "a certificate for another host name (counts connections, not requests)",
}

FAULTS = {**ANSWER_FAULTS, **SECRET_FAULTS, **DELIVERY_FAULTS, **HANDSHAKE_FAULTS}
"""Every fault, with one line on what it does."""


@dataclass(slots=True)
class Fault:
    """A fault and for how many requests it holds; None: until it is cleared."""

    name: str
    count: int | None = None

    def __str__(self) -> str:
        return self.name if self.count is None else f"{self.name}:{self.count}"


def parse_fault(text: str) -> Fault:
    """Read ``NAME`` or ``NAME:COUNT``.

    Raises:
        ConfigurationError: there is no such fault, or the count is not one.
    """
    name, colon, count = text.partition(":")
    if name not in FAULTS:
        raise ConfigurationError(
            f"no such fault: {name!r}", hint="--fault help lists them: " + ", ".join(FAULTS)
        )
    if not colon:
        return Fault(name)
    if not (count.isascii() and count.isdigit() and 1 <= int(count[:10]) <= 10**9):
        raise ConfigurationError(
            f"not a fault: {text!r}", hint="write NAME, or NAME:COUNT with a COUNT of 1 or more"
        )
    return Fault(name, int(count))


def describe_faults() -> str:
    """Return the table that ``--fault help`` prints."""
    return "\n".join(f"  {name:<19} {text}" for name, text in FAULTS.items())


class FaultQueue:
    """The faults to come, first things first. Thread-safe: tests inject while a server runs."""

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
        """Forget all faults: from now on everything is true."""
        with self._lock:
            self._faults.clear()

    def pending(self) -> list[str]:
        """Return what is queued, as `inject` takes it."""
        with self._lock:
            return [str(fault) for fault in self._faults]

    def take_for_request(self) -> str:
        """Return the fault that one request shall meet, or an empty string."""
        return self._take(handshake=False)

    def take_for_handshake(self) -> str:
        """Return the fault that one TLS handshake shall meet, or an empty string."""
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
