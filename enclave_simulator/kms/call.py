"""One call of an operation: who, with what, for whom, and what shall go wrong with its secret."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.kms.cms import ContentForm, Enveloper
from enclave_simulator.kms.policy import Access

if TYPE_CHECKING:
    from datetime import datetime

    from enclave_simulator.kms.recipient import Attested
    from enclave_simulator.kms.sigv4 import Caller


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        operation: its name.
        caller: who calls.
        parameters: checked against the service model, blobs decoded.
        recipient: the verified Recipient; None where the caller sent none.
        content_form: how an envelope's content shall be written.
        fault: one of `faults.SECRET_FAULTS`, or something else, or empty.
        now: KMS's clock.
    """

    operation: str
    caller: Caller
    parameters: dict[str, Any] = field(repr=False)
    recipient: Attested | None
    content_form: ContentForm
    fault: str
    now: datetime

    def access(self, resource: str) -> Access:
        """Return what the call wants of a resource, in the terms of policies."""
        context = {
            "aws:principalaccount": (self.caller.account,),
            "aws:principalarn": (self.caller.principal,),
            "aws:securetransport": ("true",),
            "kms:calleraccount": (self.caller.account,),
        }
        encryption_context = self.parameters.get("EncryptionContext") or {}
        if encryption_context:
            context["kms:encryptioncontextkeys"] = tuple(encryption_context)
        for name, value in encryption_context.items():
            context[f"kms:encryptioncontext:{name.lower()}"] = (value,)
        if self.recipient is not None:
            for index, value in self.recipient.pcrs.items():
                context[f"kms:recipientattestation:pcr{index}"] = (value.hex(),)
                if index == 0:
                    context["kms:recipientattestation:imagesha384"] = (value.hex(),)
        return Access(self.caller.principal, f"kms:{self.operation}", resource, context)

    def secret(self, field: str, secret: bytes) -> dict[str, Any]:
        """Return the members that carry a secret: in the clear, or for the recipient alone."""
        if self.fault == "wrong-length":
            secret = secret[:-1]
        elif self.fault == "extra-length":
            secret += b"\0"
        if self.recipient is None or self.fault == "plaintext":
            return {field: encode(secret)}
        if self.fault == "no-ciphertext":
            return {}
        enveloper = self.recipient.enveloper
        if self.fault == "wrong-key":
            enveloper = Enveloper(rsa.generate_private_key(65537, 2048).public_key())
        ciphertext = enveloper.encrypt(secret, self.content_form)
        if self.fault == "corrupt-cms":
            # In the encrypted key: OAEP notices for certain, which CBC's padding does not.
            ciphertext = ciphertext[:200] + bytes([ciphertext[200] ^ 1]) + ciphertext[201:]
        # `field` is left out: AWS's C SDK refuses an answer in which it is null.
        return {"CiphertextForRecipient": encode(ciphertext)}


def encode(blob: bytes) -> str:
    """Return a blob as JSON carries it."""
    return base64.b64encode(blob).decode()
