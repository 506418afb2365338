"""The responses of `faults.RESPONSE_FAULTS`, in place of true ones. No I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enclave_simulator.kms.messages import KmsError, Response

if TYPE_CHECKING:
    from enclave_simulator.kms.sigv4 import Caller


def spoiled(fault: str, operation: str, caller: Caller, request_id: str) -> Response:
    """Return the response of a fault.

    Args:
        fault: one of `faults.RESPONSE_FAULTS`.
        operation: of the call.
        caller: of the call.
        request_id: of the response.
    """
    match fault:
        case "unavailable":
            body = b"<html><body><h1>503 Service Unavailable</h1></body></html>\n"
            return Response(503, body, "text/html")
        case "garbage":
            return Response(200, b"\x00\xff{garbage", request_id=request_id)
        case "refuse":
            error = KmsError(
                "AccessDeniedException",
                f"User: {caller.principal} is not authorized to perform: "
                f"kms:{operation} on resource: * because no identity-based policy allows the "
                f"kms:{operation} action",
            )
        case "expired-token":
            error = KmsError(
                "ExpiredTokenException", "The security token included in the request is expired"
            )
        case "throttle":
            error = KmsError(
                "ThrottlingException",
                "You have exceeded the rate at which you may call KMS. "
                "Reduce the frequency of your calls.",
            )
        case "dependency-timeout":
            error = KmsError(
                "DependencyTimeoutException",
                "The system timed out while trying to fulfill the request.",
                status=500,
            )
        case _:
            error = KmsError("KMSInternalException", status=500)
    return Response(error.status, json.dumps(error.document()).encode(), request_id=request_id)
