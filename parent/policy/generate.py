"""Key policies and IAM policies that ask for an attestation document. No I/O.

Sources: KMS Developer Guide, "Condition keys for Nitro Enclaves", "Condition keys for NitroTPM",
"Default key policy" and "Permissions for KMS operations"; IAM User Guide, "Condition operators".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from parent.policy.actions import (
    ATTESTED,
    IMAGE_KEY,
    PCR_COUNT,
    TPM_PCR_COUNT,
    Platform,
    PolicyError,
    pcr_key,
    tpm_pcr_key,
)
from parent.policy.findings import Options
from parent.policy.language import parse
from parent.policy.lint import lint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parent.policy.measured import Measured

_ATTESTED_ON_KEY = tuple(action.name for action in ATTESTED if action.is_on_key)

_GUARDED = (*_ATTESTED_ON_KEY, "kms:ReEncryptFrom")
"""What the Deny names. ReEncrypt takes no document: a caller who may use it moves a ciphertext to
a key of their own and decrypts it there."""

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
console's list has: a grant lets others use the key."""

IMAGE = "ImageSha384"

DEFAULT_CONDITIONS = {
    Platform.ENCLAVE: (IMAGE,),
    Platform.SANDBOX: ("PCR17",),
    # Standard boot. PCR4 alone leaves the kernel command line open (GHSA-xrv8-2pf5-f3q7).
    Platform.INSTANCE: ("PCR4", "PCR12"),
}


def condition_key(name: str, platform: Platform = Platform.ENCLAVE) -> str:
    """Return the condition key for ``ImageSha384``, or for a PCR of a platform.

    Args:
        name: ``ImageSha384``, ``PCR0`` and so on; of an instance also ``NitroTPMPCR0``.
        platform: whose PCR.

    Raises:
        PolicyError: the platform has none of that name.
    """
    if platform is Platform.INSTANCE:
        names = {f"PCR{index}": tpm_pcr_key(index) for index in range(TPM_PCR_COUNT)}
        known = f"PCR0 to PCR{TPM_PCR_COUNT - 1}"
        name = name.removeprefix("NitroTPM")
    else:
        names = {f"PCR{index}": pcr_key(index) for index in range(PCR_COUNT)}
        names[IMAGE] = IMAGE_KEY
        known = f"{IMAGE} or PCR0 to PCR{PCR_COUNT - 1}"
    if name not in names:
        raise PolicyError(f"{name!r:.80} is not {known}")
    return names[name]


def key_policy(
    measured: Sequence[Measured],
    *,
    roles: Sequence[str],
    administrators: Sequence[str],
    conditions: Sequence[str] | None = None,
    deny_outside: bool = False,
) -> dict[str, Any]:
    """Return the policy of a key that only these enclaves, sandboxes or instances may use.

    A principal that may change the policy can undo that.

    Args:
        measured: what may use the key; several while a new image is rolled out.
        roles: ARNs of the roles that the parents, or the instances, have.
        administrators: ARNs of those who manage the key, and may not use it.
        conditions: what must be as measured: ``ImageSha384``, ``PCR1`` and so on, all of them;
            None: what the platform needs.
        deny_outside: also deny use without a document to everyone, even if something else allows
            it: a grant, or an IAM policy where a later statement lets the account in.

    Raises:
        PolicyError: an enclave in debug mode, a missing PCR, no role or administrator, or
            conditions that would let other images in.
    """
    if not roles or not administrators:
        raise PolicyError("a key needs a role that uses it and an administrator")
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
                "Action": list(_ATTESTED_ON_KEY),
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": match},
            }
        )
    if deny_outside:
        statements.append(
            {
                "Sid": "NoUseWithoutAttestation",
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": list(_GUARDED),
                "Resource": "*",
                # It need not change with the image: which one is for the statements above.
                "Condition": {"Null": {next(iter(matches[0])): "true"}},
            }
        )
    return _checked({"Version": "2012-10-17", "Statement": statements}, measured[0].platform)


def decrypt_statement(
    measured: Sequence[Measured], *, roles: Sequence[str], context: Mapping[str, str]
) -> dict[str, Any]:
    """Return a statement for a key policy: these enclaves may decrypt, with this context.

    Args:
        measured: what may decrypt; all of one platform.
        roles: ARNs of the roles that the parents have.
        context: the encryption context that a request must have.

    Raises:
        PolicyError: as for `key_policy`.
    """
    (match,) = _matches(measured, None)
    condition: dict[str, Any] = {"StringEqualsIgnoreCase": match}
    if context:
        condition["StringEquals"] = {
            f"kms:EncryptionContext:{name}": value for name, value in context.items()
        }
    return {
        "Sid": "AttestedDecrypt",
        "Effect": "Allow",
        "Principal": {"AWS": list(roles)},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": condition,
    }


def iam_policy(
    measured: Sequence[Measured], *, conditions: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return a policy for the parent's role: GenerateRandom, from these enclaves only.

    Args:
        measured: what may have random bytes.
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
    return _checked({"Version": "2012-10-17", "Statement": statements}, measured[0].platform)


def _checked(policy: dict[str, Any], platform: Platform) -> dict[str, Any]:
    """Return a policy that lint has nothing against.

    Raises:
        PolicyError: it has.
    """
    for finding in lint(parse(json.dumps(policy)), Options(platform)):
        if finding.is_error:
            raise PolicyError(
                f"the policy would be rejected by lint: {finding.message}", hint=finding.change
            )
    return policy


def _matches(
    measured: Sequence[Measured], conditions: Sequence[str] | None
) -> list[dict[str, list[str] | str]]:
    """Return what to compare, per statement.

    Several values of one key are alternatives, which several keys would mix: PCR0 of one image
    and PCR1 of another. So several keys need a statement for each image.
    """
    if not measured or conditions == []:
        raise PolicyError("a policy needs measurements, and something of them to compare")
    platform = measured[0].platform
    if any(item.platform is not platform for item in measured):
        raise PolicyError("enclaves, sandboxes and instances need a policy each")
    names = DEFAULT_CONDITIONS[platform] if conditions is None else conditions
    keys = [condition_key(name, platform) for name in names]
    rows = [
        tuple(_value(item, name, key) for name, key in zip(names, keys, strict=True))
        for item in measured
    ]
    distinct = list(dict.fromkeys(rows))
    if len(keys) == 1:
        values = [row[0] for row in distinct]
        return [{keys[0]: values if len(values) > 1 else values[0]}]
    return [dict(zip(keys, row, strict=True)) for row in distinct]


def _value(measured: Measured, name: str, key: str) -> str:
    value = measured.value(key)
    if not value:
        raise PolicyError(f"no {name} in {measured.origin}", hint=_where_from(name, measured))
    if measured.is_debug:
        raise PolicyError(
            f"{measured.origin}: in debug mode, in which PCR0 to PCR2 are zero for every image",
            hint="take the measurements of the image",
        )
    # Without a kernel command line, a NitroTPM's PCR12 is zero, and so it shall stay.
    if not int(value[0], 16) and (measured.platform, name[-2:]) != (Platform.INSTANCE, "12"):
        raise PolicyError(
            f"{name} is zero in {measured.origin}: nothing was measured into it",
            hint=_where_from(name, measured),
        )
    return value[0]


def _where_from(name: str, measured: Measured) -> str:
    if measured.platform is Platform.INSTANCE:
        return "nitro-tpm-pcr-compute 1.1 and later print PCR4, PCR7 and PCR12"
    return {
        "PCR3": "PCR3 comes with --parent-role",
        "PCR4": "PCR4 comes with --parent-instance",
        "PCR8": "signed images only have PCR8: enclave-parent sign-eif",
        "PCR17": "give the predicted value as PCR17=HEX, with --platform sandbox",
    }.get(name, "")
