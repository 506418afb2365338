"""The hint for a request that KMS denies: what the key's policy saw of this enclave. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from enclave.attestation import parse
from enclave.errors import DecodingError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARN = re.compile(r"arn:[A-Za-z0-9:/_-]{1,2000}")


def access_denied_hint(operation: str, parameters: Mapping[str, Any], document: bytes) -> str:
    """Return a hint with this enclave's PCR0 and the command that explains a policy's decision.

    Args:
        operation: as the KMS API names it.
        parameters: of the request.
        document: the attestation document that was sent.

    Returns:
        The hint; empty if the document has no PCR0, as that of a NitroTPM.
    """
    try:
        pcr0 = parse(document).pcrs.get(0)
    except DecodingError:
        return ""
    if not pcr0:
        return ""
    if not any(pcr0):
        seen = (
            "this enclave runs in debug mode: its PCR0 to PCR2 are zeros, which no policy for an "
            "image's PCRs matches"
        )
    else:
        seen = f"this enclave's PCR0 is {pcr0.hex()}"
    key = parameters.get("KeyId")
    named = f" --key {key}" if isinstance(key, str) and _ARN.fullmatch(key) else ""
    return (
        f"{seen}; which condition fails, or that the role lacks the permission, tells: "
        f"enclave-parent key-policy explain POLICY.json --action kms:{operation}{named} "
        f"--document PCR0={pcr0.hex()}"
    )
