"""One call of KMS, with whatever credentials the AWS CLI would use: botocore, its errors in words.

For the commands that sign images and seal secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsock_proxy.errors import AgentError

_AS_THE_CLI: Final = "credentials, Region and endpoint are found as by the AWS CLI"
_ENABLED: Final = "the key must be enabled"
_KEYS: Final = "the credentials are not AWS's, or not any more; or they are of another partition"
_HINTS: Final = {
    "AccessDeniedException": "the caller needs kms:{operation} on the key",
    "DisabledException": _ENABLED,
    "ExpiredTokenException": "the credentials have expired",
    "InvalidClientTokenId": _KEYS,
    "InvalidSignatureException": "the secret key is not this one, or the clock is wrong: see "
    "timedatectl",
    "KMSInvalidStateException": _ENABLED,
    "NotFoundException": "look at the key's ARN: Region and account",
    "UnrecognizedClientException": _KEYS,
}


def call_kms(
    client: Callable[[], Any],
    operation: str,
    parameters: Mapping[str, Any],
    *,
    failed: Callable[[str, str], AgentError],
    usage_hint: str = "",
) -> Mapping[str, Any]:
    """Call an operation once; the client retries.

    Args:
        client: makes botocore's.
        operation: ``Sign`` or ``Encrypt``.
        parameters: its own, with a KeyId.
        failed: makes the error of what happened and a hint.
        usage_hint: for a key that is not made for this operation.

    Returns:
        The response, which may lack anything.

    Raises:
        AgentError: KMS refused, or there was no response.
    """
    # Half a second to load, and few commands need it.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from parent.credentials.failures import translated  # noqa: PLC0415

    try:
        response: Mapping[str, Any] = getattr(client(), operation.lower())(**parameters)
    except ClientError as e:
        if e.operation_name != operation:  # STS's, for the role of a profile
            failure = translated(e, "")
            raise failed(f"no credentials: {failure}", failure.hint) from None
        told = e.response.get("Error", {})
        code = str(told.get("Code", "an error"))
        request = e.response.get("ResponseMetadata", {}).get("RequestId", "")
        hints = {**_HINTS, "InvalidKeyUsageException": usage_hint}
        raise failed(
            f"KMS refused {operation} with {parameters['KeyId']}: {code}: "
            f"{told.get('Message', '')}{f' (request {request})' if request else ''}",
            hints.get(code, "").format(operation=operation),
        ) from None
    except BotoCoreError as e:
        failure = translated(e, "")
        hint = _AS_THE_CLI if failure.kind == "malformed" else failure.hint
        raise failed(f"no response from KMS: {e}", hint or _AS_THE_CLI) from None
    except Exception as e:  # noqa: BLE001 (files, JSON, programs of a profile: anything can come)
        failure = translated(e, "")
        raise failed(f"KMS was not asked: {failure}", failure.hint or _AS_THE_CLI) from None
    return response
