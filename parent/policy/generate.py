"""Key policies and IAM policies that ask for an attestation document. Pure.

Sources: KMS Developer Guide, "Condition keys for Nitro Enclaves", "Default key policy" and
"Permissions for KMS operations"; IAM User Guide, "Condition operators".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parent.policy.language import IMAGE_KEY, PolicyError, pcr_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.policy.measured import Measured

ATTESTED_OPERATIONS = ("Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair")
"""Use a key and take ``Recipient``. GenerateRandom takes it too, but has no key to have a
policy: IAM policies alone govern it."""

GUARDED_ACTIONS = (*(f"kms:{name}" for name in ATTESTED_OPERATIONS), "kms:ReEncryptFrom")
"""What yields a secret of the key's. ReEncrypt takes no document: whoever may use it moves a
ciphertext to a key of his own, and decrypts it there."""

ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
)
"""What an administrator needs, and nothing that uses the key. No CreateGrant either, which the
console's list has: a grant lets somebody use the key."""

IMAGE = "ImageSha384"


def condition_key(name: str) -> str:
    """Return the condition key for ``ImageSha384`` or ``PCR0`` to ``PCR31``.

    Raises:
        PolicyError: there is none of that name.
    """
    if name == IMAGE:
        return IMAGE_KEY
    keys = {f"PCR{index}": pcr_key(index) for index in range(32)}
    if name not in keys:
        raise PolicyError(f"{name!r} is neither {IMAGE} nor PCR0 to PCR31")
    return keys[name]


def key_policy(
    measured: Sequence[Measured],
    *,
    roles: Sequence[str],
    administrators: Sequence[str],
    conditions: Sequence[str] = (IMAGE,),
    deny_outside: bool = False,
) -> dict[str, Any]:
    """Return the policy of a key that only these enclaves may use.

    Whoever may change the policy can lift that, of course.

    Args:
        measured: the enclaves; several while a new image is rolled out.
        roles: ARNs of the roles that the parents of the enclaves have.
        administrators: ARNs of those who manage the key, and may not use it.
        conditions: what must be as measured: ``ImageSha384``, ``PCR1`` and so on, all of them.
        deny_outside: also deny use without a document to everybody, whatever else allows it: a
            grant, or an IAM policy where a later statement lets the account in.

    Raises:
        PolicyError: an enclave in debug mode, one without a PCR that is asked for, or nobody to
            use or manage the key.
    """
    if not roles or not administrators:
        raise PolicyError("a key needs a role that uses it and somebody who manages it")
    statements: list[dict[str, Any]] = [
        {
            "Sid": "Administration",
            "Effect": "Allow",
            "Principal": {"AWS": list(administrators)},
            "Action": list(ADMINISTRATION),
            "Resource": "*",
        }
    ]
    matches = _matches(measured, conditions)
    for number, match in enumerate(matches, start=1):
        statements.append(
            {
                "Sid": "AttestedUse" + (str(number) if len(matches) > 1 else ""),
                "Effect": "Allow",
                "Principal": {"AWS": list(roles)},
                "Action": [f"kms:{name}" for name in ATTESTED_OPERATIONS],
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": match},
            }
        )
    if deny_outside:
        statements.append(
            {
                "Sid": "NoUseOutsideEnclaves",
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": list(GUARDED_ACTIONS),
                "Resource": "*",
                # It need not change with the image: which enclave is for the statements above.
                "Condition": {"Null": {IMAGE_KEY: "true"}},
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def iam_policy(
    measured: Sequence[Measured], *, conditions: Sequence[str] = (IMAGE,)
) -> dict[str, Any]:
    """Return a policy for the parent's role: GenerateRandom, from these enclaves only.

    Args:
        measured: the enclaves.
        conditions: as for `key_policy`.

    Raises:
        PolicyError: as for `key_policy`.
    """
    matches = _matches(measured, conditions)
    statements = [
        {
            "Sid": "AttestedRandom" + (str(number) if len(matches) > 1 else ""),
            "Effect": "Allow",
            "Action": "kms:GenerateRandom",
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": match},
        }
        for number, match in enumerate(matches, start=1)
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def _matches(
    measured: Sequence[Measured], conditions: Sequence[str]
) -> list[dict[str, list[str] | str]]:
    """Return what to compare, per statement.

    Several values of one key are alternatives, which several keys would mix: PCR0 of one image
    and PCR1 of another. So several keys need a statement for each enclave.
    """
    if not measured or not conditions:
        raise PolicyError("a policy needs an enclave, and something of it to compare")
    rows = [[_value(enclave, name) for name in conditions] for enclave in measured]
    distinct = list(dict.fromkeys(map(tuple, rows)))
    keys = [condition_key(name) for name in conditions]
    if len(keys) == 1:
        values = [row[0] for row in distinct]
        return [{keys[0]: values if len(values) > 1 else values[0]}]
    return [dict(zip(keys, row, strict=True)) for row in distinct]


def _value(enclave: Measured, name: str) -> str:
    value = enclave.context().get(condition_key(name).lower())
    if value is None:
        raise PolicyError(
            f"no {name} in {enclave.origin}",
            hint="PCR8 is there in signed images only; PCR3 and PCR4 come with --parent-role and "
            "--parent-instance",
        )
    if enclave.is_debug:
        raise PolicyError(
            f"{enclave.origin} is of an enclave in debug mode, whose PCR0-2 are zero in any image",
            hint="take the measurements of the image",
        )
    if not int(value, 16):
        raise PolicyError(f"{name} is zero in {enclave.origin}: nothing was measured into it")
    return value
