"""CloudTrail-shaped events, one for each call. No I/O.

Source: KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.messages import KmsError, Request

_READ_ONLY = (
    "Decapsulate", "Decrypt", "Derive", "Describe", "Encapsulate", "Encrypt", "Generate", "Get",
    "List", "ReEncrypt", "Sign", "Verify",
)  # fmt: skip
_NOT_LOGGED = {
    # Secrets, blobs, and what CloudTrail shows elsewhere.
    "CiphertextBlob", "EncryptedKeyMaterial", "GrantToken", "GrantTokens", "ImportToken",
    "KeyStorePassword", "Mac", "Message", "Plaintext", "Policy", "PublicKey", "Recipient",
    "SharedSecretCiphertextBlob", "Signature", "XksProxyAuthenticationCredential",
}  # fmt: skip
_RESPONSE_MEMBERS = (
    "DeletionDate", "GrantId", "KeyId", "KeyMetadata", "KeyState", "PendingWindowInDays",
    "ReplicaKeyMetadata",
)  # fmt: skip


def is_read_only(operation: str) -> bool:
    """Return whether an operation leaves keys as they are."""
    return operation.startswith(_READ_ONLY)


def event(
    call: Call, request: Request, response: dict[str, Any] | None, error: KmsError | None
) -> dict[str, Any]:
    """Return the event of one call.

    Args:
        call: the call.
        request: the HTTP request.
        response: its JSON.
        error: why it was refused, or None.
    """
    caller = call.caller
    record: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": _identity(call),
        "eventTime": f"{call.now:%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": "kms.amazonaws.com",
        "eventName": call.operation,
        "awsRegion": caller.region,
        "sourceIPAddress": request.peer or "127.0.0.1",
        "userAgent": request.headers.get("user-agent", ""),
    }
    if error is not None:
        denied = error.type == "AccessDeniedException"
        record["errorCode"] = "AccessDenied" if denied else error.type
        record["errorMessage"] = error.message or ""
    parameters = {
        _lower(name): value for name, value in call.parameters.items() if name not in _NOT_LOGGED
    }
    record["requestParameters"] = parameters or None
    record["responseElements"] = None
    if response and not is_read_only(call.operation):
        kept = {_lower(k): _lowered(v) for k, v in response.items() if k in _RESPONSE_MEMBERS}
        record["responseElements"] = kept or None
    additional: dict[str, Any] = {}
    # Denied calls are reported to have no recipient in their events.
    if call.recipient is not None and error is None:
        additional["recipient"] = call.recipient.trail()
    if response and "KeyMaterialId" in response:
        additional["keyMaterialId"] = response["KeyMaterialId"]
    if additional:
        record["additionalEventData"] = additional
    arn = _key_arn(response)
    return {
        **record,
        "requestID": call.request_id,
        "eventID": call.event_id,
        "readOnly": is_read_only(call.operation),
        "resources": [{"accountId": arn.split(":")[4], "type": "AWS::KMS::Key", "ARN": arn}]
        if arn
        else [],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": caller.account,
        "eventCategory": "Management",
        "tlsDetails": {"clientProvidedHostHeader": request.headers.get("host", "")},
    }


def _identity(call: Call) -> dict[str, Any]:
    arn = call.caller.principal
    kind = {"sts": "AssumedRole", "iam": "IAMUser"}.get(arn.split(":")[2], "IAMUser")
    return {
        "type": kind,
        "principalId": "SIMULATED",
        "arn": arn,
        "accountId": call.caller.account,
        "accessKeyId": call.caller.credentials.access_key_id,
    }


def _key_arn(response: dict[str, Any] | None) -> str:
    """Return the key of a response; empty if it names none."""
    response = response or {}
    found = response.get("KeyId", "")
    for member in ("KeyMetadata", "ReplicaKeyMetadata"):
        found = response.get(member, {}).get("Arn", found)
    return found if str(found).startswith("arn:") else ""


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {_lower(name): _lowered(item) for name, item in value.items()}
    return value
