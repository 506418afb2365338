"""What KMS answers to one HTTP request. Pure: no sockets, no clock of its own."""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from enclave_simulator.kms.call import Call
from enclave_simulator.kms.crypto_operations import CryptoOperations
from enclave_simulator.kms.faults import ANSWER_FAULTS, DELIVERY_FAULTS, FaultQueue
from enclave_simulator.kms.key_operations import KeyOperations
from enclave_simulator.kms.keys import SYMMETRIC, KeyStore, default_policy
from enclave_simulator.kms.messages import KmsError, Request, Response
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.recipient import MAX_DOCUMENT_AGE, Attested, DocumentVerifier
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Caller, Credentials, authenticate
from enclave_simulator.kms.validation import parse_parameters
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from enclave_simulator.kms.cms import ContentForm

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
        caller_policy: str | None = None,
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
            region: take only credentials scoped to this region; None: any, and the keys are in
                each.
            caller_policy: JSON of the IAM policy callers have, without principals; None: they
                may do everything that key policies leave to IAM.
            max_document_age: how old a document may be.
            content_forms: how the CMS content is written, in turn.
            now: the clock for signatures and documents.
            random: where random bytes come from.

        Raises:
            KmsError: MalformedPolicyDocumentException.
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
        self._owner = next(iter(self._credentials.values()), SIMULATED_CREDENTIALS).principal
        self._store = KeyStore(
            None if caller_policy is None else parse_policy(caller_policy, of_key=False)
        )
        self._operations: dict[str, Callable[[Call], dict[str, Any] | None]] = {
            **KeyOperations(self._store).by_name(),
            **CryptoOperations(self._store, random).by_name(),
            "GenerateRandom": self._generate_random,
        }

    def add_key(
        self,
        alias: str,
        *,
        spec: str = SYMMETRIC,
        usage: str | None = None,
        policy: str | None = None,
    ) -> str:
        """Make a key, past all policies, and return its id.

        Args:
            alias: begins with ``alias/``.
            spec: KeySpec, for example ``ECC_NIST_P256``.
            usage: KeyUsage; None takes what attested calls need.
            policy: JSON of the key policy; None leaves all to IAM, as KMS's default does.

        Raises:
            KmsError: as CreateKey and CreateAlias have it.
        """
        parsed = default_policy(self._owner) if policy is None else parse_policy(policy)
        now = self._now()
        key = self._store.create(spec, usage, policy=parsed, now=now)
        self._store.add_alias(alias, key, now, arn=alias)
        return key.id

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
            answer = self._answer(name, document, caller, fault)
            return _json(200, answer, request_id, delivery)
        except KmsError as e:
            return _json(e.status, e.document(), request_id, delivery)

    def _admit(self, request: Request) -> tuple[str, Any, Caller]:
        """Return operation, JSON and caller: what is wrong before that is no call yet."""
        try:
            document = json.loads(request.body)
        except (ValueError, RecursionError):
            raise KmsError("SerializationException") from None
        service, _, name = request.headers.get("x-amz-target", "").partition(".")
        if service != _SERVICE or name not in self._operations:
            raise KmsError("UnknownOperationException")
        return name, document, authenticate(request, self._credentials, self._region, self._now())

    def _answer(
        self, operation: str, document: Any, caller: Caller, fault: str
    ) -> dict[str, Any] | None:
        parameters = parse_parameters(operation, document)
        recipient = self._recipient(parameters.get("Recipient"))
        if recipient is not None:
            self._envelopes += 1
        form = self._content_forms[self._envelopes % len(self._content_forms)]
        call = Call(operation, caller, parameters, recipient, form, fault, self._now())
        answer = self._operations[operation](call)
        if parameters.get("DryRun"):
            raise KmsError(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
            )
        if fault == "wrong-key-id" and answer and "KeyId" in answer:
            answer["KeyId"] = caller.arn(f"key/{uuid.uuid4()}")
        return answer

    def _generate_random(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        number_of_bytes = call.parameters.get("NumberOfBytes")
        if number_of_bytes is None:
            raise KmsError("ValidationException", "NumberOfBytes is required.")
        self._check_key_store(call.parameters.get("CustomKeyStoreId"))
        return call.secret("Plaintext", self._random(number_of_bytes))

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

    def _recipient(self, recipient: dict[str, Any] | None) -> Attested | None:
        """Return the verified Recipient, or None where the caller sent none."""
        if recipient is None:
            return None
        if len(recipient) < 2:
            raise KmsError(
                "ValidationException",
                "Recipient needs both KeyEncryptionAlgorithm and AttestationDocument.",
            )
        return self._verifier.verify(recipient["AttestationDocument"], self._now())

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


def _spoiled(fault: str, operation: str, caller: Caller, request_id: str) -> Response:
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


def _json(
    status: int, document: dict[str, Any] | None, request_id: str, delivery: str = ""
) -> Response:
    # Operations without an answer have an empty body, as KMS's have.
    body = b"" if document is None else json.dumps(document).encode()
    return Response(status, body, _CONTENT_TYPE, request_id, delivery)
