"""Two AWS accounts in simulated KMSs, the secrets in them, and what a program is given."""

from __future__ import annotations

import base64
import json
import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from enclave_simulator.attack.model import SECRET_FIELDS, Attack, Exchange, Recorded
from enclave_simulator.attack.verdict import Secrets
from enclave_simulator.kms.messages import KmsError, Request, Response
from enclave_simulator.kms.recipient import DocumentVerifier
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

REGION: Final = "us-east-1"
ALIAS: Final = "alias/attack"
CONTEXT: Final[Mapping[str, str]] = {"purpose": "attack"}
"""The encryption context that the program names."""

ATTACKER: Final = Credentials(
    "ASIAATTACKER00000000",
    "attacker/secret/access/key/00000000000000",
    "attacker/session/token==",
    "arn:aws:sts::999999999999:assumed-role/attacker/i-00000000000000000",
)

_SWAPPED = {"purpose": "other"}
_CALLS = 3
_SECRET_BYTES = 32
_MOST_ISSUED = 4096


@dataclass(frozen=True, slots=True)
class Input:
    """What a program is given.

    Attributes:
        key_id: ARN of its key; a program has it from its image.
        ciphertexts: what it is to decrypt, from the parent.
        context: the encryption context that it names; a program has it from its image.
        stored_context: the encryption context stored beside the ciphertexts, from the parent.
        credentials: from the parent.
    """

    key_id: str
    ciphertexts: tuple[bytes, ...]
    context: Mapping[str, str]
    stored_context: Mapping[str, str]
    credentials: Credentials = field(repr=False)

    def variables(self) -> dict[str, str]:
        """Return the variables that tell it to the program."""
        encoded = [base64.b64encode(each).decode() for each in self.ciphertexts]
        return {
            "ATTACK_KEY_ID": self.key_id,
            "ATTACK_KEY_ALIAS": ALIAS,
            "ATTACK_CONTEXT": json.dumps(self.context),
            "ATTACK_STORED_CONTEXT": json.dumps(self.stored_context),
            "ATTACK_CIPHERTEXT": encoded[0],
            "ATTACK_CIPHERTEXTS": " ".join(encoded),
        }


class World:
    """All that is honest but the parent: KMS with two accounts, and the clock that it goes by.

    Thread-safe: a hostile server has a thread for each connection.

    Attributes:
        input: what the program is given.
        recorded: an envelope of this run that a later one may be attacked with; None until the
            program has called.
        has_jumped: the clock has been moved in the middle of the run.
    """

    def __init__(
        self,
        root_pem: bytes,
        attack: Attack,
        recorded: Recorded | None = None,
        context: Mapping[str, str] = CONTEXT,
    ) -> None:
        """Make the keys and ciphertexts of one run.

        Args:
            root_pem: the root that attestation documents must chain to.
            attack: decides what the program is given.
            recorded: of an earlier run.
            context: the encryption context that the program names. Where it names none, the
                ciphertexts that are swapped for its own have none either.
        """
        self._lock = threading.Lock()
        self._serving = threading.Lock()
        self._shift = timedelta(0)
        self._jump = attack.jump
        self.has_jumped = False
        self._issued: list[bytes] = []
        self._replayed = recorded
        self.recorded: Recorded | None = None
        self._verifier = DocumentVerifier(root_pem)
        self._services = {
            credentials.access_key_id: KmsService(
                root_pem, credentials=[credentials], now=self.now, random=self._random
            )
            for credentials in (SIMULATED_CREDENTIALS, ATTACKER)
        }
        self._planted = os.urandom(_SECRET_BYTES)
        mine = self._new_key(SIMULATED_CREDENTIALS)
        self._other = self._new_key(SIMULATED_CREDENTIALS)
        theirs = self._new_key(ATTACKER)
        self._call(SIMULATED_CREDENTIALS, "CreateAlias", AliasName=ALIAS, TargetKeyId=mine)
        self._call(ATTACKER, "CreateAlias", AliasName=ALIAS, TargetKeyId=theirs)
        self._right = tuple(os.urandom(_SECRET_BYTES) for _ in range(_CALLS))
        self._swapped = tuple(os.urandom(_SECRET_BYTES) for _ in range(_CALLS))
        credentials, key, secrets = SIMULATED_CREDENTIALS, mine, self._swapped
        own = context
        match attack.input:
            case "right":
                secrets = self._right
            case "swapped":
                context = _SWAPPED if own else {}
            case "other-key":
                key = self._other
            case "moved-alias":
                key = self._other
                self._call(SIMULATED_CREDENTIALS, "UpdateAlias", AliasName=ALIAS, TargetKeyId=key)
            case "foreign":
                credentials, key = ATTACKER, theirs
        self._of_ciphertext = {
            self._encrypt(credentials, key, secret, context): secret for secret in secrets
        }
        self.input = Input(mine, tuple(self._of_ciphertext), dict(own), dict(context), credentials)
        with self._lock:
            self._issued.clear()
        self._shift = attack.shift

    def now(self) -> datetime:
        """Return the time of the NSM and of KMS, which the program's clock may be off from."""
        return datetime.now(UTC) + self._shift

    def secrets(self) -> Secrets:
        """Return what the program may print, and what it must not."""
        planted = [self._planted, self._planted[:8], *self._swapped]
        if self._replayed is not None:
            planted.append(self._replayed.secret)
        with self._lock:
            return Secrets(self._right, tuple(self._issued), tuple(planted))

    def respond(self, request: Request) -> tuple[Response, Exchange | None]:
        """Return KMS's honest response; and the exchange, if it is attested and KMS accepts it."""
        with self._serving:
            response = self._handle(request)
        operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if operation not in SECRET_FIELDS or response.status != 200:
            return response, None
        parameters = json.loads(request.body)
        if "Recipient" not in parameters:
            return response, None
        exchange = self._exchange(operation, parameters, response)
        self._record(operation, parameters, response)
        if exchange is not None:
            self._jump_once()
        return response, exchange

    def _jump_once(self) -> None:
        with self._lock:
            if self._jump and not self.has_jumped:
                self._shift += self._jump
                self.has_jumped = True

    def _exchange(
        self, operation: str, parameters: dict[str, Any], response: Response
    ) -> Exchange | None:
        document = base64.b64decode(parameters["Recipient"]["AttestationDocument"])
        try:
            attested = self._verifier.verify(document, self.now())
        except KmsError:
            return None
        return Exchange(
            operation, response, attested.enveloper, self._planted, self._other, self._replayed
        )

    def _record(self, operation: str, parameters: dict[str, Any], response: Response) -> None:
        """Keep the first envelope of which the secret is known."""
        if self.recorded is not None or operation != "Decrypt":
            return
        secret = self._of_ciphertext.get(base64.b64decode(parameters["CiphertextBlob"]))
        if secret is not None:
            content = json.loads(response.body)
            self.recorded = Recorded(content["CiphertextForRecipient"], secret)

    # KMS

    def _handle(self, request: Request) -> Response:
        known = request.headers.get("authorization", "")
        of = ATTACKER if f"={ATTACKER.access_key_id}/" in known else SIMULATED_CREDENTIALS
        return self._services[of.access_key_id].handle(request)

    def _random(self, count: int) -> bytes:
        data = os.urandom(count)
        with self._lock:
            if len(self._issued) < _MOST_ISSUED:
                self._issued.append(data)
        return data

    def _new_key(self, credentials: Credentials) -> str:
        return str(self._call(credentials, "CreateKey")["KeyMetadata"]["Arn"])

    def _encrypt(
        self, credentials: Credentials, key: str, secret: bytes, context: Mapping[str, str]
    ) -> bytes:
        response = self._call(
            credentials,
            "Encrypt",
            KeyId=key,
            Plaintext=base64.b64encode(secret).decode(),
            EncryptionContext=dict(context),
        )
        return base64.b64decode(response["CiphertextBlob"])

    def _call(self, credentials: Credentials, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make a call of KMS that no program sees."""
        request = AWSRequest(
            "POST",
            f"https://kms.{REGION}.amazonaws.com/",
            {
                "Content-Type": "application/x-amz-json-1.1",
                "X-Amz-Target": f"TrentService.{operation}",
            },
            json.dumps(parameters).encode(),
        )
        signer = BotoCredentials(
            credentials.access_key_id, credentials.secret_access_key, credentials.session_token
        )
        SigV4Auth(signer, "kms", REGION).add_auth(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers["host"] = f"kms.{REGION}.amazonaws.com"
        service = self._services[credentials.access_key_id]
        response = service.handle(Request("POST", "/", headers, request.body))
        content: dict[str, Any] = json.loads(response.body or b"{}")
        if response.status != 200:
            raise RuntimeError(f"{operation}: {content}")
        return content
