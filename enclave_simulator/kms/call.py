"""One call of an operation: the caller, its parameters, its recipient, and its fault. No I/O."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.kms.cms import ContentForm, Enveloper
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import Access
from enclave_simulator.kms.specs import SYMMETRIC

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.recipient import Attested
    from enclave_simulator.kms.sigv4 import Caller

    Operation = Callable[["Call"], dict[str, Any] | None]
    """One operation of KMS: a call in, the response's JSON out; None is an empty body."""

_REQUEST_KEYS = {
    # parameter: condition key. KMS Developer Guide, "AWS KMS condition keys".
    "CustomerMasterKeySpec": "kms:keyspec",
    "DataKeyPairSpec": "kms:datakeypairspec",
    "EncryptionAlgorithm": "kms:encryptionalgorithm",
    "ExpirationModel": "kms:expirationmodel",
    "GranteePrincipal": "kms:granteeprincipal",
    "KeyAgreementAlgorithm": "kms:keyagreementalgorithm",
    "KeyPairSpec": "kms:datakeypairspec",
    "KeySpec": "kms:keyspec",
    "KeyUsage": "kms:keyusage",
    "MacAlgorithm": "kms:macalgorithm",
    "MessageType": "kms:messagetype",
    "Origin": "kms:keyorigin",
    "PendingWindowInDays": "kms:schedulekeydeletionpendingwindowindays",
    "PrimaryRegion": "kms:primaryregion",
    "ReplicaRegion": "kms:replicaregion",
    "RetiringPrincipal": "kms:retiringprincipal",
    "RotationPeriodInDays": "kms:rotationperiodindays",
    "SigningAlgorithm": "kms:signingalgorithm",
    "WrappingAlgorithm": "kms:wrappingalgorithm",
    "WrappingKeySpec": "kms:wrappingkeyspec",
}
_DEFAULT_ALGORITHM = {
    "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom", "ReEncryptTo",
}  # fmt: skip
"""Where EncryptionAlgorithm is SYMMETRIC_DEFAULT unless the caller sends another."""

_OF_POLICIES = {"GetKeyPolicy", "PutKeyPolicy"}
_OF_GRANTS = {"CreateGrant", "ListGrants", "RevokeGrant"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        operation: its name.
        caller: who calls.
        parameters: checked against the service model, blobs decoded.
        recipient: the verified Recipient; None if the caller sent none.
        content_form: how the content of an envelope is encoded.
        fault: one of `faults.SECRET_FAULTS`, another fault, or empty.
        now: KMS's clock.
        request_id: of the response.
        event_id: of the CloudTrail event.
        source_ip: of the client; empty if unknown.
        other_key: ARN of the other key of a ReEncrypt; empty if there is none.
    """

    operation: str
    caller: Caller
    parameters: dict[str, Any] = field(repr=False)
    recipient: Attested | None
    content_form: ContentForm
    fault: str
    now: datetime
    request_id: str = ""
    event_id: str = ""
    source_ip: str = ""
    other_key: str = ""

    @property
    def encryption_context(self) -> dict[str, str]:
        """Return EncryptionContext, empty if the caller sent none."""
        context: dict[str, str] = self.parameters.get("EncryptionContext") or {}
        return context

    def check_dry_run(self) -> None:
        """Raise, if the caller sent DryRun: what would be done next is to be left undone.

        Raises:
            KmsError: DryRunOperationException.
        """
        if self.parameters.get("DryRun"):
            raise KmsError(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
            )

    def access(
        self,
        key: Key | None,
        action: str = "",
        aliases: tuple[str, ...] = (),
        resource: str = "",
    ) -> Access:
        """Return the access that policies decide on.

        Args:
            key: None if no key is involved.
            action: without ``kms:``; empty for the operation's own.
            aliases: the key's.
            resource: ARN of what is involved, if it is no key.
        """
        context = {
            "aws:currenttime": (self.now.isoformat(),),
            "aws:epochtime": (str(self.now.timestamp()),),
            "aws:requestedregion": (self.caller.region,),
            "aws:securetransport": ("true",),
            "kms:calleraccount": (self.caller.account,),
            **_of_principal(self.caller.principal),
            **self._of_request(),
            **(_of_key(key) if key else {}),
        }
        encryption_context = self.encryption_context
        if encryption_context:
            context["kms:encryptioncontextkeys"] = tuple(encryption_context)
        for name, value in encryption_context.items():
            context[f"kms:encryptioncontext:{name.lower()}"] = (value,)
        if self.recipient is not None:
            context |= self.recipient.condition_keys()
        if aliases:
            context["kms:resourcealiases"] = aliases
        if (action or self.operation) in _OF_POLICIES:
            context["kms:policyname"] = (self.parameters.get("PolicyName", "default"),)
        if self.other_key and key is not None:
            context["kms:reencryptonsamekey"] = (str(key.arn == self.other_key).lower(),)
        if self.source_ip:
            context["aws:sourceip"] = (self.source_ip,)
        resource = resource or (key.arn if key else "*")
        return Access(self.caller.principal, f"kms:{action or self.operation}", resource, context)

    def _of_request(self) -> dict[str, tuple[str, ...]]:
        given = self.parameters
        context: dict[str, tuple[str, ...]] = {
            _REQUEST_KEYS[name]: (str(value),)
            for name, value in given.items()
            if name in _REQUEST_KEYS
        }
        if self.operation in _DEFAULT_ALGORITHM:
            context.setdefault("kms:encryptionalgorithm", (SYMMETRIC,))
        if "Operations" in given:
            context["kms:grantoperations"] = tuple(given["Operations"])
        if self.operation in _OF_GRANTS:
            context["kms:grantisforawsresource"] = ("false",)  # no AWS service calls the simulator
        if given.get("Constraints"):
            context["kms:grantconstrainttype"] = tuple(given["Constraints"])
        if self.operation == "CreateKey":
            multi_region = bool(given.get("MultiRegion"))
            context["kms:multiregion"] = (str(multi_region).lower(),)
            if multi_region:
                context["kms:multiregionkeytype"] = ("PRIMARY",)
        if "ValidTo" in given:
            context["kms:validto"] = (str(given["ValidTo"]),)
        if "BypassPolicyLockoutSafetyCheck" in given:
            value = str(given["BypassPolicyLockoutSafetyCheck"]).lower()
            context["kms:bypasspolicylockoutsafetycheck"] = (value,)
        named = given.get("KeyId", "")
        if "alias/" in named:
            context["kms:requestalias"] = (named[named.index("alias/") :],)
        tags = {each["TagKey"]: each["TagValue"] for each in given.get("Tags", ())}
        names = (*tags, *given.get("TagKeys", ()))
        if names:
            context["aws:tagkeys"] = names
        for name, value in tags.items():
            context[f"aws:requesttag/{name.lower()}"] = (value,)
        return context

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
            # In the encrypted key: OAEP detects it for certain, CBC's padding may not.
            ciphertext = ciphertext[:200] + bytes([ciphertext[200] ^ 1]) + ciphertext[201:]
        # `field` is absent, not null: AWS's C SDK rejects a response in which it is null.
        return {"CiphertextForRecipient": encode(ciphertext)}


def _of_principal(arn: str) -> dict[str, tuple[str, ...]]:
    """Return the condition keys that tell who calls.

    Source: IAM User Guide, "AWS global condition context keys".
    """
    prefix, _, resource = arn.rpartition(":")
    _, partition, service, _, account = prefix.split(":")
    kind, _, name = resource.partition("/")
    context: dict[str, tuple[str, ...]] = {
        "aws:principalaccount": (account,),
        "aws:principalarn": (arn,),
        "aws:principalisawsservice": ("false",),
        "aws:principaltype": ("Account" if kind == "root" else "User",),
        "aws:viaawsservice": ("false",),
    }
    if kind == "assumed-role":
        # The role's, not the session's; the path of a role is not in its sessions' ARNs.
        role = f"arn:{partition}:iam::{account}:role/{name.partition('/')[0]}"
        context |= {"aws:principalarn": (role,), "aws:principaltype": ("AssumedRole",)}
    elif kind == "federated-user":
        context["aws:principaltype"] = ("FederatedUser",)
    elif service == "iam" and kind == "user":
        context["aws:username"] = (name.rpartition("/")[2],)
    if service == "sts":
        # Temporary credentials tell of MFA, others do not; the simulator knows none.
        context["aws:multifactorauthpresent"] = ("false",)
    return context


def _of_key(key: Key) -> dict[str, tuple[str, ...]]:
    """Return the condition keys that tell of the key itself."""
    context: dict[str, tuple[str, ...]] = {
        "aws:resourceaccount": (key.arn.split(":")[4],),
        "kms:customermasterkeyspec": (key.spec,),
        "kms:customermasterkeyusage": (key.usage,),
        "kms:keyorigin": (key.origin,),
        "kms:keyspec": (key.spec,),
        "kms:keyusage": (key.usage,),
        "kms:multiregion": (str(key.family is not None).lower(),),
    }
    if key.family is not None:
        context["kms:multiregionkeytype"] = ("PRIMARY" if key.is_primary else "REPLICA",)
    for name, value in key.tags.items():
        context[f"aws:resourcetag/{name.lower()}"] = (value,)
    return context


def encode(blob: bytes) -> str:
    """Return a blob in JSON's encoding: base64."""
    return base64.b64encode(blob).decode()
