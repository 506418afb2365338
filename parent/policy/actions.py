"""Actions of KMS: whether a key policy governs them, their condition keys, their Recipient. No I/O.

Sources: AWS Service Authorization Reference, "Actions, resources, and condition keys for AWS Key
Management Service", of 2026-09; which operations take a ``Recipient``, botocore's service model
1.44.8; KMS Developer Guide, "AWS KMS condition keys for attested platforms".
"""

from __future__ import annotations

import difflib
import enum
import fnmatch
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "kms:RecipientAttestation:"
"""Start of the condition keys about the attestation document."""

IMAGE_KEY = f"{PREFIX}ImageSha384"
"""Another name of PCR0."""

PCR_COUNT, TPM_PCR_COUNT = 32, 24


class PolicyError(AgentError):
    """The input is not a policy, not a measurement, or not enough to write a policy from."""


class Platform(enum.Enum):
    """The attested platforms of KMS."""

    ENCLAVE = "enclave"
    SANDBOX = "sandbox"
    """Nitro Sandbox: the same condition keys as an enclave, other PCRs that count."""
    INSTANCE = "instance"
    """An EC2 instance with a NitroTPM."""


def pcr_key(index: int) -> str:
    """Return the condition key of an enclave's or a sandbox's PCR."""
    return f"{PREFIX}PCR{index}"


def tpm_pcr_key(index: int) -> str:
    """Return the condition key of a NitroTPM's PCR."""
    return f"{PREFIX}NitroTPMPCR{index}"


ENCLAVE_KEYS = {
    IMAGE_KEY.lower(): 0,
    **{pcr_key(index).lower(): index for index in range(PCR_COUNT)},
}
"""PCR index by condition key in lower case."""

TPM_KEYS = {tpm_pcr_key(index).lower(): index for index in range(TPM_PCR_COUNT)}
"""PCR index by condition key in lower case."""

ATTESTATION_KEYS = ENCLAVE_KEYS.keys() | TPM_KEYS.keys()


SERVICE_KEYS = frozenset(
    {"kms:viaservice", "aws:calledvia", "aws:calledviafirst", "aws:calledvialast"}
)
"""Condition keys, in lower case, of requests that another AWS service makes for a caller. Such a
service has no attestation document of an enclave: an enclave's own request has none of them."""

VIA_SERVICE = "aws:viaawsservice"
"""Says whether a service made the request: ``false`` in an enclave's own."""


def means_attestation(key: str) -> bool:
    """Return whether a condition key is about the attestation document, or is meant to be."""
    key = key.lower()
    return key.startswith("kms:") and re.search(r"recipient|attest|imagesha|pcr", key) is not None


@dataclass(frozen=True, slots=True)
class Action:
    """One action of KMS.

    Attributes:
        name: for example ``kms:Decrypt``.
        is_on_key: whether it is about one key, so that the key's policy governs it.
        is_on_alias: whether it is about an alias too, which IAM policies govern.
        takes_recipient: whether requests may carry an attestation document.
        keys: condition keys of its requests, in lower case; one that ends in ``:`` is a
            prefix. None: the reference does not list the action yet.
    """

    name: str
    is_on_key: bool
    is_on_alias: bool
    takes_recipient: bool
    keys: frozenset[str] | None

    def knows(self, key: str) -> bool | None:
        """Return whether its requests may carry a condition key; None if that is not known.

        Of KMS's own keys only: keys of other services' prefixes may be in any request.
        """
        key = key.lower()
        if not key.startswith("kms:"):
            return None
        if means_attestation(key):
            return self.takes_recipient and key in ATTESTATION_KEYS
        if self.keys is None or not is_condition_key(key):
            return None  # It may be newer than the reference as it was read.
        return _is_in(key, self.keys)


_OF_KEYS = (
    "CustomerMasterKeySpec", "CustomerMasterKeyUsage", "KeyOrigin", "KeySpec", "KeyUsage",
    "MultiRegion", "MultiRegionKeyType", "ResourceAliases",
)  # fmt: skip
"""About the key; the first two are former names."""

_CALLER, _SERVICE, _ALIAS = "CallerAccount", "ViaService", "RequestAlias"
_CIPHER = ("EncryptionAlgorithm", "EncryptionContext:", "EncryptionContextKeys", _ALIAS)
_PAIR = ("DataKeyPairSpec", *_CIPHER)
_SIGNATURE = ("MessageType", "SigningAlgorithm", _ALIAS)
_MAC = ("MacAlgorithm", _ALIAS)
_MOVE = ("ReEncryptOnSameKey", *_CIPHER)

_ON_KEYS: dict[str, tuple[str, ...]] = {
    # name: condition keys besides those of every action on a key
    "CancelKeyDeletion": (),
    "CreateAlias": (),
    "CreateGrant": (
        "EncryptionContext:", "EncryptionContextKeys", "GrantConstraintSourceArn",
        "GrantConstraintType", "GrantIsForAWSResource", "GrantOperations", "GranteePrincipal",
        "GranteeServicePrincipal", "RetiringPrincipal", "RetiringServicePrincipal",
    ),
    "Decrypt": _CIPHER,
    "DeleteAlias": (),
    "DeleteImportedKeyMaterial": (),
    "DeriveSharedSecret": ("KeyAgreementAlgorithm", _ALIAS),
    "DescribeKey": (_ALIAS,),
    "DisableKey": ("TrailingDaysWithoutKeyUsage",),
    "DisableKeyRotation": (),
    "EnableKey": (),
    "EnableKeyRotation": ("RotationPeriodInDays",),
    "Encrypt": _CIPHER,
    "GenerateDataKey": _CIPHER,
    "GenerateDataKeyPair": _PAIR,
    "GenerateDataKeyPairWithoutPlaintext": _PAIR,
    "GenerateDataKeyWithoutPlaintext": _CIPHER,
    "GenerateMac": _MAC,
    "GetKeyLastUsage": (),
    "GetKeyPolicy": (),
    "GetKeyRotationStatus": (),
    "GetParametersForImport": ("WrappingAlgorithm", "WrappingKeySpec"),
    "GetPublicKey": (_ALIAS,),
    "ImportKeyMaterial": ("ExpirationModel", "ValidTo"),
    "ListGrants": ("GrantIsForAWSResource",),
    "ListKeyPolicies": (),
    "ListKeyRotations": (),
    "ListResourceTags": (),
    "PutKeyPolicy": ("BypassPolicyLockoutSafetyCheck",),
    "ReEncryptFrom": _MOVE,
    "ReEncryptTo": _MOVE,
    "ReplicateKey": ("ReplicaRegion",),
    "RetireGrant": ("EncryptionContext:", "EncryptionContextKeys", "GrantConstraintType"),
    "RevokeGrant": ("GrantIsForAWSResource",),
    "RotateKeyOnDemand": (),
    "ScheduleKeyDeletion": (
        "ScheduleKeyDeletionPendingWindowInDays", "TrailingDaysWithoutKeyUsage",
    ),
    "Sign": _SIGNATURE,
    "SynchronizeMultiRegionKey": (),
    "TagResource": (),
    "UntagResource": (),
    "UpdateAlias": (),
    "UpdateKeyDescription": (),
    "UpdatePrimaryRegion": ("PrimaryRegion",),
    "Verify": _SIGNATURE,
    "VerifyMac": _MAC,
}  # fmt: skip

_WITHOUT_KEY: dict[str, tuple[str, ...]] = {
    "ConnectCustomKeyStore": (_CALLER,),
    "CreateCustomKeyStore": (_CALLER,),
    "CreateKey": (
        "BypassPolicyLockoutSafetyCheck", _CALLER, "KeyOrigin", "KeySpec", "KeyUsage",
        "MultiRegion", "MultiRegionKeyType", _SERVICE,
    ),
    "DeleteCustomKeyStore": (_CALLER,),
    "DescribeCustomKeyStores": (_CALLER,),
    "DisconnectCustomKeyStore": (_CALLER,),
    "GenerateRandom": (),
    "ListAliases": (),
    "ListKeys": (),
    "ListRetirableGrants": (),
    "UpdateCustomKeyStore": (_CALLER,),
}  # fmt: skip

_NOT_LISTED = ("Decapsulate", "Encapsulate")
"""Newer than the reference as it was read: operations on a key, without Recipient."""

_RECIPIENT = (
    "Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair", "GenerateRandom",
)  # fmt: skip


def _is_in(key: str, keys: frozenset[str]) -> bool:
    if key.endswith(":"):
        return False
    return key in keys or any(key.startswith(prefix) for prefix in keys if prefix.endswith(":"))


def _table() -> Iterator[Action]:
    def keys(*names: str) -> frozenset[str]:
        return frozenset(f"kms:{name}".lower() for name in names)

    for name, own in _ON_KEYS.items():
        common = () if name == "SynchronizeMultiRegionKey" else (_CALLER, _SERVICE)
        yield Action(
            f"kms:{name}",
            is_on_key=True,
            is_on_alias=name in ("CreateAlias", "DeleteAlias", "UpdateAlias"),
            takes_recipient=name in _RECIPIENT,
            keys=keys(*own, *common, *_OF_KEYS),
        )
    for name, own in _WITHOUT_KEY.items():
        yield Action(
            f"kms:{name}",
            is_on_key=False,
            is_on_alias=False,
            takes_recipient=name in _RECIPIENT,
            keys=keys(*own),
        )
    for name in _NOT_LISTED:
        yield Action(
            f"kms:{name}", is_on_key=True, is_on_alias=False, takes_recipient=False, keys=None
        )


ACTIONS = {action.name.lower(): action for action in sorted(_table(), key=lambda a: a.name)}
"""All actions, by name in lower case."""

ATTESTED = tuple(action for action in ACTIONS.values() if action.takes_recipient)
"""The actions whose requests may carry an attestation document."""

GUARDED = tuple(
    ACTIONS[f"kms:{name}".lower()]
    for name in (
        "Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair",
        "ReEncryptFrom",
    )
)  # fmt: skip
"""The actions that yield a secret of a key. ReEncrypt takes no document: a caller who may
re-encrypt moves a ciphertext to a key of their own and decrypts it there."""

DATA_KEYS = frozenset(ACTIONS[f"kms:{n}"] for n in ("generatedatakey", "generatedatakeypair"))
"""Yield new secrets, which the caller then knows; none that others have encrypted."""

DECAPSULATE = ACTIONS["kms:decapsulate"]
"""Yields a secret, too, and takes no document, but only with a key that has no other use."""

_ALL_KEYS = frozenset(key for action in ACTIONS.values() for key in action.keys or ())


def is_condition_key(key: str) -> bool:
    """Return whether the reference lists a condition key; of other prefixes, True."""
    key = key.lower()
    if not key.startswith("kms:"):
        return True
    return key in ATTESTATION_KEYS or _is_in(key, _ALL_KEYS)


def find(name: str) -> Action:
    """Return an action by its name, with or without ``kms:``.

    Raises:
        PolicyError: KMS has no such action.
    """
    full = name if ":" in name else f"kms:{name}"
    if action := ACTIONS.get(full.lower()):
        return action
    if full.lower() == "kms:reencrypt":
        raise PolicyError(
            "no permission is called kms:ReEncrypt",
            hint="the operation needs kms:ReEncryptFrom on one key, kms:ReEncryptTo on the other",
        )
    raise PolicyError(f"KMS has no action {name!r:.80}", hint=suggestion(full))


def suggestion(name: str) -> str:
    """Return a hint that names the action most like a name, or an empty text."""
    close = difflib.get_close_matches(name.lower(), ACTIONS, n=1, cutoff=0.7)
    return f"did you mean {ACTIONS[close[0]].name}?" if close else ""


@functools.lru_cache(maxsize=1024)
def matching(pattern: str) -> tuple[Action, ...]:
    """Return the actions that a pattern of a policy names, such as ``kms:GenerateDataKey*``."""
    return tuple(a for name, a in ACTIONS.items() if like(name, pattern.lower()))


def like(value: str, pattern: str) -> bool:
    """Match as ``StringLike`` does: ``*`` and ``?`` are wildcards, brackets are themselves."""
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))
