"""KMS's response to one HTTP request. No I/O: no sockets, no files, no clock of its own."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.call import Call
from enclave_simulator.kms.events import event, is_read_only
from enclave_simulator.kms.faults import DELIVERY_FAULTS, RESPONSE_FAULTS, FaultQueue
from enclave_simulator.kms.identifiers import Identifiers
from enclave_simulator.kms.keys import Usage
from enclave_simulator.kms.messages import KmsError, Request, Response
from enclave_simulator.kms.operations.aliases import AliasOperations
from enclave_simulator.kms.operations.encryption import EncryptionOperations
from enclave_simulator.kms.operations.grants import GrantOperations
from enclave_simulator.kms.operations.imports import ImportOperations
from enclave_simulator.kms.operations.key_stores import KeyStoreOperations, KeyStoreState
from enclave_simulator.kms.operations.keys import KeyOperations
from enclave_simulator.kms.operations.policies import PolicyOperations
from enclave_simulator.kms.operations.regions import RegionOperations
from enclave_simulator.kms.operations.rotation import RotationOperations
from enclave_simulator.kms.operations.signing import SigningOperations
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.recipient import MAX_DOCUMENT_AGE, Attested, DocumentVerifier
from enclave_simulator.kms.regions import Template, UnknownRegionError
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Caller, Credentials, authenticate
from enclave_simulator.kms.specs import SYMMETRIC
from enclave_simulator.kms.spoiled import spoiled
from enclave_simulator.kms.state import dump_state, load_state
from enclave_simulator.kms.store import KeyStore
from enclave_simulator.kms.validation import parse_parameters, service_model
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from enclave_simulator.kms.call import Operation
    from enclave_simulator.kms.cms import ContentForm

__all__ = ["CONTROL_PATH", "KeyStoreState", "KmsService"]

CONTROL_PATH = "/simulator/faults"
"""Where another process controls the faults: GET lists, POST ``{"fault": "NAME:COUNT"}`` adds,
DELETE clears. The real KMS has no path but ``/``.
"""

_SERVICE = "TrentService"  # KMS's name in x-amz-target
_CONTENT_TYPE = "application/x-amz-json-1.1"

_CRYPTOGRAPHIC = {
    # KeyLastUsageTrackingOperation of the model.
    "Decapsulate", "Decrypt", "DeriveSharedSecret", "Encapsulate", "Encrypt", "GenerateDataKey",
    "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext", "GenerateMac", "ReEncrypt", "Sign", "Verify", "VerifyMac",
}  # fmt: skip


class KmsService:
    """One simulated KMS.

    Attributes:
        faults: the faults to come.
        requests: how often each operation was called by a known caller, faults and errors
            included.
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
        grant_delay: timedelta = timedelta(0),
        content_forms: tuple[ContentForm, ...] = ("constructed", "primitive"),
        seed: int | None = None,
        state: bytes | None = None,
        on_change: Callable[[bytes], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_refusal: Callable[[str, tuple[str, ...]], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Start without faults.

        Args:
            nitro_root: PEM of the root certificate that attestation documents must chain to.
            credentials: the known callers'; the first one's account has the keys.
            key_stores: custom key stores by their id.
            region: the only Region of this KMS; None serves every Region. Each has its own keys.
            caller_policy: JSON of the callers' IAM policy, without principals; None allows them
                all that key policies leave to IAM.
            max_document_age: how old a document may be.
            grant_delay: how long a new grant is effective only for who names its token; KMS's
                are, for up to five minutes.
            content_forms: how the CMS content is encoded, in turn.
            seed: for the same identifiers in each run; None for random ones.
            state: what `on_change` was given in an earlier run.
            on_change: called with the state after each change, before the response. It may raise
                OSError; the response is then KMSInternalException.
            on_event: called with each call's CloudTrail event.
            on_refusal: called with KMS's message and the reasons for each AccessDeniedException.
            now: the clock for signatures and documents.
            random: source of random bytes.

        Raises:
            KmsError: MalformedPolicyDocumentException.
            ValueError: the root or the state is malformed.
        """
        self.faults = FaultQueue()
        self.requests: Counter[str] = Counter()
        self._credentials = {c.access_key_id: c for c in credentials}
        self._region = region
        self._verifier = DocumentVerifier(nitro_root, max_age=max_document_age)
        self._content_forms = content_forms
        self._envelopes = 0
        self._on_change, self._on_event, self._on_refusal = on_change, on_event, on_refusal
        self._now = now
        self._identifiers = Identifiers(seed)
        self._store = KeyStore(
            next(iter(self._credentials.values()), SIMULATED_CREDENTIALS).principal,
            caller_policy=(
                None if caller_policy is None else parse_policy(caller_policy, of_key=False)
            ),
            identifiers=self._identifiers,
            grant_delay=grant_delay,
        )
        if state is not None:
            load_state(self._store, state)
        self._kept = self._store.revision
        started = now()
        stores = KeyStoreOperations(self._store, key_stores or {}, started)
        groups = (
            AliasOperations(self._store),
            EncryptionOperations(self._store, stores, random),
            GrantOperations(self._store),
            ImportOperations(self._store),
            KeyOperations(self._store, started),
            stores,
            PolicyOperations(self._store),
            RegionOperations(self._store),
            RotationOperations(self._store),
            SigningOperations(self._store),
        )
        self._operations: dict[str, Operation] = {
            name: operation
            for group in groups
            for name, operation in group.by_name().items()
            if name in service_model().operation_names  # an older botocore has fewer
        }

    def add_key(
        self,
        alias: str,
        *,
        spec: str = SYMMETRIC,
        usage: str | None = None,
        policy: str | None = None,
    ) -> str:
        """Have a key in every Region, without asking policies, and return its id.

        It is created with a Region's first request, and is another key in each.

        Args:
            alias: begins with ``alias/``.
            spec: KeySpec, for example ``ECC_NIST_P256``.
            usage: KeyUsage; None takes what attested calls need.
            policy: JSON of the key policy; None leaves all to IAM, as KMS's default does.

        Raises:
            KmsError: those of CreateKey and CreateAlias.
        """
        template = Template(
            alias,
            self._identifiers.uuid(),
            spec,
            usage,
            None if policy is None else parse_policy(policy),
        )
        self._store.add_template(template, self._now())
        return template.key_id

    def handle(self, request: Request) -> Response:
        """Respond to one request, whatever it contains."""
        if request.target == CONTROL_PATH:
            return self._control(request)
        request_id = self._identifiers.uuid()
        if request.method != "POST" or not request.headers.get("content-type", "").startswith(
            _CONTENT_TYPE
        ):
            # The front end cannot tell the protocol, and responds in none.
            return Response(404, b"<UnknownOperationException/>\n", "application/xml", request_id)
        now = self._now()
        try:
            name, document, caller = self._admit(request, now)
        except KmsError as e:
            return _json(e.status, e.document(), request_id)
        self.requests[name] += 1
        fault = self.faults.take_for_request()
        if fault in RESPONSE_FAULTS:
            return spoiled(fault, name, caller, request_id)
        delivery = fault if fault in DELIVERY_FAULTS else ""
        noted = self._on_event is not None or name in _CRYPTOGRAPHIC
        call = Call(
            name, caller, {}, None, self._content_forms[0], fault, now, request_id,
            self._identifiers.uuid() if noted else "", request.peer,
        )  # fmt: skip
        response: dict[str, Any] | None = None
        error: KmsError | None = None
        try:
            call = self._prepare(call, document)
            response = self._perform(call)
            self._keep()
        except KmsError as e:
            response, error = None, e
            if e.type == "AccessDeniedException" and self._on_refusal is not None:
                self._on_refusal(e.message or "", e.reasons)
        if self._on_event is not None:
            self._on_event(event(call, request, response, error))
        if error is not None:
            return _json(error.status, error.document(), request_id, delivery)
        return _json(200, response, request_id, delivery)

    def _admit(self, request: Request, now: datetime) -> tuple[str, Any, Caller]:
        """Return operation, JSON and caller: a request without them is not a call yet."""
        try:
            document = parse_json(request.body)
        except ValueError:
            raise KmsError("SerializationException") from None
        service, _, name = request.headers.get("x-amz-target", "").partition(".")
        if service != _SERVICE or name not in self._operations:
            raise KmsError("UnknownOperationException")
        caller = authenticate(request, self._credentials, self._region, now)
        try:
            self._store.region(caller.region, now)
        except UnknownRegionError as e:
            raise KmsError(
                "InvalidSignatureException",
                f"Credential should be scoped to a valid Region, not '{e}'.",
            ) from e
        return name, document, caller

    def _prepare(self, call: Call, document: Any) -> Call:
        """Return a call with its parameters checked and its recipient verified."""
        parameters = parse_parameters(call.operation, document)
        recipient = self._recipient(parameters.get("Recipient"), call.now)
        if recipient is not None:
            self._envelopes += 1
        form = self._content_forms[self._envelopes % len(self._content_forms)]
        return dataclasses.replace(
            call, parameters=parameters, recipient=recipient, content_form=form
        )

    def _perform(self, call: Call) -> dict[str, Any] | None:
        response = self._operations[call.operation](call)
        call.check_dry_run()
        if call.operation in _CRYPTOGRAPHIC:
            self._note_use(call, response or {})
        elif not is_read_only(call.operation):
            self._store.revision += 1
        if call.fault == "wrong-key-id" and response and "KeyId" in response:
            response["KeyId"] = call.caller.arn(f"key/{self._identifiers.uuid()}")
        return response

    def _note_use(self, call: Call, response: dict[str, Any]) -> None:
        keys = self._store.of(call).keys
        for member in ("KeyId", "SourceKeyId"):
            key = keys.get(response.get(member, "").rpartition("/")[2])
            if key is not None:
                key.last_usage = Usage(call.operation, call.now, call.event_id, call.request_id)

    def _keep(self) -> None:
        """Hand out the state if it has changed.

        Raises:
            KmsError: KMSInternalException: it could not be kept.
        """
        if self._on_change is None or self._kept == self._store.revision:
            return
        try:
            self._on_change(dump_state(self._store))
        except OSError:
            raise KmsError("KMSInternalException", status=500) from None
        self._kept = self._store.revision

    def _recipient(self, recipient: dict[str, Any] | None, now: datetime) -> Attested | None:
        """Return the verified Recipient, or None if the caller sent none."""
        if recipient is None:
            return None
        if len(recipient) < 2:
            raise KmsError(
                "ValidationException",
                "Recipient needs both KeyEncryptionAlgorithm and AttestationDocument.",
            )
        return self._verifier.verify(recipient["AttestationDocument"], now)

    # The control path

    def _control(self, request: Request) -> Response:
        try:
            match request.method:
                case "POST":
                    self.faults.inject(str(parse_json(request.body)["fault"]))
                case "DELETE":
                    self.faults.clear()
        except (ValueError, LookupError, TypeError, ConfigurationError) as e:
            return _json(400, {"error": str(e)}, "")
        return _json(200, {"faults": self.faults.pending(), "requests": dict(self.requests)}, "")


def _json(
    status: int, document: dict[str, Any] | None, request_id: str, delivery: str = ""
) -> Response:
    # Operations without output have an empty body, as KMS's have.
    body = b"" if document is None else json.dumps(document).encode()
    return Response(status, body, _CONTENT_TYPE, request_id, delivery)
