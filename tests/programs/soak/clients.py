"""The clients of a soak: each call has one right result, or one typed error in time."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tests.programs.endpoint_client import EndpointClient, NoAnswerError
from tests.programs.soak.parts import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs.soak.parts import Chain, Part
    from tests.programs.soak.tally import Tally

SLACK = 5.0
"""Seconds beyond the deadline for a loaded machine."""

LONGEST = 8.0
"""Seconds that a fault stops an endpoint for, at most."""

PAUSE = 0.02
"""Seconds between two calls of a client; after an error ten times that, as SDKs wait too."""

_KEPT = 32
"""Ciphertexts that a client keeps: they must decrypt after rotations and restarts."""


class Gate:
    """Lets clients call, or has them wait; tells when none calls any more."""

    def __init__(self) -> None:
        self.calm = False
        self.stopped = False
        self._open = True
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Wait until calls are allowed; return False if they never will be again."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self.stopped)
            if self.stopped:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self, within: float) -> bool:
        """Let no call begin; return whether all calls have ended in time."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: self._inside == 0, within)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


class SoakClient:
    """One client: it calls one endpoint until the gate stops it."""

    def __init__(
        self, number: int, made: Chain, gate: Gate, tally: Tally, *, port: int, seed: int
    ) -> None:
        self._number = number
        self._key = made.key
        self._gate = gate
        self._tally = tally
        self._part: Part = made.agents[port]
        self._client = EndpointClient(port, timeout=DEADLINE + SLACK + LONGEST)
        self._choose = random.Random(seed)  # noqa: S311 (which call comes next)
        self._kept: deque[tuple[str, bytes]] = deque(maxlen=_KEPT)
        self._jobs: list[Callable[[], bool]] = [
            *[self._random] * 6, *[self._data_key] * 2, *[self._decrypt] * 3,
            self._encrypt, self._wrong_context, self._key_pair,
        ]  # fmt: skip

    def run(self) -> None:
        with self._client:
            while self._gate.enter():
                try:
                    right = self._choose.choice(self._jobs)()
                except Exception as e:  # noqa: BLE001 (a response that is not KMS's: counted)
                    self._tally.note_wrong(f"{type(e).__name__}: {e}")
                    right = False
                finally:
                    self._gate.leave()
                time.sleep(PAUSE if right else 10 * PAUSE)

    def _call(
        self, operation: str, parameters: dict[str, Any], *, expected: str = ""
    ) -> dict[str, Any] | None:
        """Return KMS's response, or None after an error, which is counted.

        Args:
            operation: of KMS.
            parameters: its parameters.
            expected: the error that is the right response.
        """
        calm, began, waited = self._gate.calm, time.monotonic(), self._part.waited()
        try:
            status, fields = self._client.call(operation, parameters)
        except NoAnswerError as e:
            impaired = self._part.impaired(began - 1.0)
            took = time.monotonic() - began
            if e.timed_out and took - impaired > DEADLINE + SLACK:
                self._tally.note_time(
                    operation, took - impaired, DEADLINE + SLACK, self._part.waited() - waited
                )
            elif impaired > 0:
                self._tally.note_away()
            else:
                self._tally.note_wrong(f"{operation}: the endpoint was there, and yet: {e}")
            return None
        impaired = self._part.impaired(began)
        took = time.monotonic() - began
        waited = max(0.0, self._part.waited() - waited)  # it may have been started anew
        self._tally.note_time(operation, took - impaired, DEADLINE + SLACK, waited)
        if status == 200 and not expected:
            return fields
        if status == 200:
            self._tally.note_wrong(f"{operation}: a result instead of {expected}")
            return None
        kind = str(fields.get("__type", ""))
        message = str(fields.get("message") or fields.get("Message") or "")
        if expected and kind == expected:
            return fields
        message += f" ({took:.1f} s; {self._part.name} waited {waited:.1f} s for a CPU)"
        self._tally.note_error(operation, kind, message, calm=calm and self._gate.calm)
        return None

    def _right(self, operation: str, secret: bytes = b"") -> bool:
        self._tally.note_right(operation, secret)
        return True

    def _wrong(self, text: str) -> bool:
        self._tally.note_wrong(text)
        return False

    def _context(self) -> dict[str, str]:
        return {"client": str(self._number)}

    def _random(self) -> bool:
        number = self._choose.choice((1, 16, 32, 32, 32, 64, 256, 1024))
        fields = self._call("GenerateRandom", {"NumberOfBytes": number})
        if fields is None:
            return False
        secret = base64.b64decode(fields["Plaintext"])
        if len(secret) != number:
            return self._wrong(f"GenerateRandom: {len(secret)} bytes of {number}")
        return self._right("GenerateRandom", secret)

    def _data_key(self) -> bool:
        parameters = {
            "KeyId": self._key,
            "KeySpec": "AES_256",
            "EncryptionContext": self._context(),
        }
        fields = self._call("GenerateDataKey", parameters)
        if fields is None:
            return False
        secret = base64.b64decode(fields["Plaintext"])
        if len(secret) != 32 or fields["KeyId"] != self._key:
            return self._wrong(f"GenerateDataKey: {len(secret)} bytes of {fields['KeyId']}")
        self._kept.append((fields["CiphertextBlob"], secret))
        return self._right("GenerateDataKey", secret)

    def _encrypt(self) -> bool:
        secret = self._choose.randbytes(self._choose.randrange(1, 64))
        parameters = {
            "KeyId": self._key,
            "Plaintext": base64.b64encode(secret).decode(),
            "EncryptionContext": self._context(),
        }
        fields = self._call("Encrypt", parameters)
        if fields is None:
            return False
        self._kept.append((fields["CiphertextBlob"], secret))
        return self._right("Encrypt")

    def _decrypt(self) -> bool:
        if not self._kept:
            return self._data_key()
        blob, secret = self._choose.choice(self._kept)
        parameters = {
            "CiphertextBlob": blob, "KeyId": self._key, "EncryptionContext": self._context(),
        }  # fmt: skip
        fields = self._call("Decrypt", parameters)
        if fields is None:
            return False
        if base64.b64decode(fields["Plaintext"]) != secret or fields["KeyId"] != self._key:
            return self._wrong("Decrypt: another plaintext")
        return self._right("Decrypt")

    def _wrong_context(self) -> bool:
        if not self._kept:
            return self._data_key()
        parameters = {
            "CiphertextBlob": self._kept[-1][0], "KeyId": self._key,
            "EncryptionContext": {"client": "nobody"},
        }  # fmt: skip
        if self._call("Decrypt", parameters, expected="InvalidCiphertextException") is None:
            return False
        return self._right("Decrypt, rejected")

    def _key_pair(self) -> bool:
        parameters = {"KeyId": self._key, "KeyPairSpec": "ECC_NIST_P256"}
        fields = self._call("GenerateDataKeyPair", parameters)
        if fields is None:
            return False
        if not fields["PrivateKeyPlaintext"] or not fields["PublicKey"]:
            return self._wrong("GenerateDataKeyPair: half a pair")
        return self._right("GenerateDataKeyPair")
