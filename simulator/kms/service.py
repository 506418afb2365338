"""What KMS answers to one HTTP request. Pure: no sockets, no clock of its own."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from simulator.kms.cms import ContentForm, Enveloper
from simulator.kms.faults import ANSWER_FAULTS, DELIVERY_FAULTS, FaultQueue
from simulator.kms.messages import KmsError, Request, Response
from simulator.kms.recipient import MAX_DOCUMENT_AGE, Attested, DocumentVerifier
from simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials, authenticate
from simulator.kms.validation import parse_parameters
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

KeyStoreState = Literal["CONNECTED", "DISCONNECTED", "EXTERNAL"]
"""A custom key store: a CloudHSM cluster, connected or not, or an external key store."""

CONTROL_PATH = "/simulator/faults"
"""Where another process controls the faults: GET lists, POST ``{"fault": "NAME:COUNT"}`` adds,
DELETE clears. The real KMS has no path but ``/``.
"""

_SERVICE = "TrentService"  # KMS's name in x-amz-target
_CONTENT_TYPE = "application/x-amz-json-1.1"


class KmsService:
    """One simulated KMS.

    Attributes:
        faults: what goes wrong next.
        requests: how often each operation was asked for by a caller KMS knows, faults and
            errors included.
    """

    def __init__(
        self,
        nitro_root: bytes,
        *,
        credentials: Iterable[Credentials] = (SIMULATED_CREDENTIALS,),
        key_stores: Mapping[str, KeyStoreState] | None = None,
        region: str | None = None,
        max_document_age: timedelta = MAX_DOCUMENT_AGE,
        content_forms: tuple[ContentForm, ...] = ("constructed", "primitive"),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Start with no faults.

        Args:
            nitro_root: PEM of the root certificate attestation documents must chain to.
            credentials: who may call.
            key_stores: custom key stores by their id.
            region: take only credentials scoped to this region; None: any.
            max_document_age: how old a document may be.
            content_forms: how the CMS content is written, in turn.
            now: the clock for signatures and documents.
            random: where random bytes come from.
        """
        self.faults = FaultQueue()
        self.requests: Counter[str] = Counter()
        self._credentials = {c.access_key_id: c for c in credentials}
        self._key_stores = dict(key_stores or {})
        self._region = region
        self._verifier = DocumentVerifier(nitro_root, max_age=max_document_age)
        self._content_forms = content_forms
        self._envelopes = 0
        self._now = now
        self._random = random
        self._operations = {"GenerateRandom": self._generate_random}

    def handle(self, request: Request) -> Response:
        """Answer one request, whatever is in it."""
        if request.target == CONTROL_PATH:
            return self._control(request)
        request_id = str(uuid.uuid4())
        if request.method != "POST" or not request.headers.get("content-type", "").startswith(
            _CONTENT_TYPE
        ):
            # The front end cannot tell which protocol this is, and answers in none.
            return Response(404, b"<UnknownOperationException/>\n", "application/xml", request_id)
        try:
            name, document, caller = self._admit(request)
        except KmsError as e:
            return _json(e.status, e.document(), request_id)
        self.requests[name] += 1
        fault = self.faults.take_for_request()
        if fault in ANSWER_FAULTS:
            return _spoiled(fault, name, caller, request_id)
        delivery = fault if fault in DELIVERY_FAULTS else ""
        try:
            parameters = parse_parameters(name, document)
            answer = self._operations[name](_Call(self, caller, parameters, fault))
            return _json(200, answer, request_id, delivery)
        except KmsError as e:
            return _json(e.status, e.document(), request_id, delivery)

    def _admit(self, request: Request) -> tuple[str, Any, Credentials]:
        """Return operation, JSON and caller: what is wrong before that is no call yet."""
        try:
            document = json.loads(request.body)
        except (ValueError, RecursionError):
            raise KmsError("SerializationException") from None
        service, _, name = request.headers.get("x-amz-target", "").partition(".")
        if service != _SERVICE or name not in self._operations:
            raise KmsError("UnknownOperationException")
        return name, document, authenticate(request, self._credentials, self._region, self._now())

    # Operations

    def _generate_random(self, call: _Call) -> dict[str, Any]:
        number_of_bytes = call.parameters.get("NumberOfBytes")
        if number_of_bytes is None:
            raise KmsError("ValidationException", "NumberOfBytes is required.")
        self._check_key_store(call.parameters.get("CustomKeyStoreId"))
        recipient = call.recipient()
        return call.secret("Plaintext", self._random(number_of_bytes), recipient)

    def _check_key_store(self, key_store_id: str | None) -> None:
        if key_store_id is None:
            return
        match self._key_stores.get(key_store_id):
            case None:
                raise KmsError(
                    "CustomKeyStoreNotFoundException",
                    f"Custom key store {key_store_id} does not exist.",
                )
            case "DISCONNECTED":
                raise KmsError(
                    "CustomKeyStoreInvalidStateException",
                    f"Custom key store {key_store_id} is not connected.",
                )
            case "EXTERNAL":
                raise KmsError(
                    "UnsupportedOperationException",
                    "The operation is not supported by external key stores.",
                )

    # What attested operations share

    def attested(self, document: bytes) -> Attested:
        """Verify a Recipient's document.

        Raises:
            KmsError: it does not verify.
        """
        return self._verifier.verify(document, self._now())

    def next_content_form(self) -> ContentForm:
        """Return how to write the next envelope's content."""
        self._envelopes += 1
        return self._content_forms[self._envelopes % len(self._content_forms)]

    # The control path

    def _control(self, request: Request) -> Response:
        try:
            match request.method:
                case "POST":
                    self.faults.inject(str(json.loads(request.body)["fault"]))
                case "DELETE":
                    self.faults.clear()
        except (ValueError, RecursionError, LookupError, TypeError, ConfigurationError) as e:
            return _json(400, {"error": str(e)}, "")
        return _json(200, {"faults": self.faults.pending(), "requests": dict(self.requests)}, "")


class _Call:
    """One call of an operation: who, with what, and what shall go wrong with its secret."""

    def __init__(
        self, service: KmsService, caller: Credentials, parameters: dict[str, Any], fault: str
    ) -> None:
        self.caller = caller
        self.parameters = parameters
        self._service = service
        self._fault = fault

    def recipient(self) -> Attested | None:
        """Return the verified Recipient, or None where the caller sent none.

        Raises:
            KmsError: half a Recipient, or one whose document does not verify.
        """
        recipient = self.parameters.get("Recipient")
        if recipient is None:
            return None
        if len(recipient) < 2:
            raise KmsError(
                "ValidationException",
                "Recipient needs both KeyEncryptionAlgorithm and AttestationDocument.",
            )
        return self._service.attested(recipient["AttestationDocument"])

    def secret(self, field: str, secret: bytes, recipient: Attested | None) -> dict[str, Any]:
        """Return the members that carry a secret: in the clear, or for the recipient alone."""
        if self._fault == "wrong-length":
            secret = secret[:-1]
        elif self._fault == "extra-length":
            secret += b"\0"
        if recipient is None or self._fault == "plaintext":
            return {field: _base64(secret)}
        if self._fault == "no-ciphertext":
            return {field: None}
        enveloper = recipient.enveloper
        if self._fault == "wrong-key":
            enveloper = Enveloper(rsa.generate_private_key(65537, 2048).public_key())
        ciphertext = enveloper.encrypt(secret, self._service.next_content_form())
        if self._fault == "corrupt-cms":
            # In the encrypted key: OAEP notices for certain, which CBC's padding does not.
            ciphertext = ciphertext[:200] + bytes([ciphertext[200] ^ 1]) + ciphertext[201:]
        return {field: None, "CiphertextForRecipient": _base64(ciphertext)}


def _spoiled(fault: str, operation: str, caller: Credentials, request_id: str) -> Response:
    """Return what one of `ANSWER_FAULTS` answers with."""
    match fault:
        case "unavailable":
            body = b"<html><body><h1>503 Service Unavailable</h1></body></html>\n"
            return Response(503, body, "text/html")
        case "garbage":
            return Response(200, b"\x00\xff{garbage", _CONTENT_TYPE, request_id)
        case "refuse":
            error = KmsError(
                "AccessDeniedException",
                f"User: {caller.principal} is not authorized to perform: "
                f"kms:{operation} on resource: * because no identity-based policy allows the "
                f"kms:{operation} action",
            )
        case "expired-token":
            error = KmsError(
                "ExpiredTokenException", "The security token included in the request is expired"
            )
        case "throttle":
            error = KmsError(
                "ThrottlingException",
                "You have exceeded the rate at which you may call KMS. "
                "Reduce the frequency of your calls.",
            )
        case "dependency-timeout":
            error = KmsError(
                "DependencyTimeoutException",
                "The system timed out while trying to fulfill the request.",
                status=500,
            )
        case _:
            error = KmsError("KMSInternalException", status=500)
    return _json(error.status, error.document(), request_id)


def _json(status: int, document: dict[str, Any], request_id: str, delivery: str = "") -> Response:
    return Response(status, json.dumps(document).encode(), _CONTENT_TYPE, request_id, delivery)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
