"""Finds out why the instance metadata service (IMDS) gave no credentials.

botocore's chain tells only that there are none. What the service responds tells the cause: status
403 (it is turned off), 404 (the instance has no role), or a role that EC2 may not assume. Asked
once more after the chain has failed, with a short timeout.

Sources: EC2 User Guide, "Troubleshoot issues with accessing instance metadata"; "IAM roles for
Amazon EC2", for ``AssumeRoleUnauthorizedAccess``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import METADATA_BASE_URL, METADATA_BASE_URL_IPv6

from parent.credentials.model import CredentialsError
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    import botocore.session

_TIMEOUT: Final = 2.0
_MAX_RESPONSE: Final = 16_384
_ROLES: Final = "latest/meta-data/iam/security-credentials/"

_NO_RESPONSE_HINT: Final = (
    "is this an EC2 instance? In a container the response of IMDSv2 gets lost unless "
    "HttpPutResponseHopLimit is 2 or more: aws ec2 modify-instance-metadata-options "
    "--instance-id ID --http-put-response-hop-limit 2"
)
_OFF_HINT: Final = (
    "turn it on: aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint "
    "enabled; or does a firewall or proxy respond in its place?"
)
_ROLE_HINT: Final = "attach an instance profile: aws ec2 associate-iam-instance-profile"
_TRUST_HINT: Final = (
    "its trust policy must allow sts:AssumeRole for ec2.amazonaws.com; if the role was deleted and "
    "made again, attach the instance profile again"
)


def diagnose(session: botocore.session.Session) -> CredentialsError | None:
    """Return what is wrong with the instance metadata; None if that cannot be told.

    Args:
        session: for the endpoint that its chain uses.
    """
    base = session.get_config_variable("ec2_metadata_service_endpoint")
    if not base:
        mode = session.get_config_variable("ec2_metadata_service_endpoint_mode")
        base = METADATA_BASE_URL_IPv6 if str(mode).lower() == "ipv6" else METADATA_BASE_URL
    base = base.rstrip("/") + "/"
    http = URLLib3Session(timeout=_TIMEOUT)
    try:
        return _diagnose(http, base)
    except (BotoCoreError, ValueError):
        return CredentialsError(
            "the instance metadata service does not respond",
            kind="no-metadata",
            hint=_NO_RESPONSE_HINT,
        )
    finally:
        http.close()


def _diagnose(http: URLLib3Session, base: str) -> CredentialsError | None:
    lifetime = {"x-aws-ec2-metadata-token-ttl-seconds": "60"}
    status, token = _send(http, "PUT", f"{base}latest/api/token", lifetime)
    if status == 403:
        return CredentialsError(
            "the instance metadata service refuses to give a token (status 403): it is turned off, "
            "or this request is not allowed",
            kind="no-metadata",
            hint=_OFF_HINT,
        )
    if status != 200:
        return CredentialsError(
            f"the instance metadata service gives no token (status {status})",
            kind="no-metadata",
            hint="what responds there may not be the instance metadata service: IMDSv2 gives a "
            "token with status 200",
        )
    headers = {"x-aws-ec2-metadata-token": token}
    status, role = _send(http, "GET", f"{base}{_ROLES}", headers)
    if status == 404:
        return CredentialsError(
            "the instance has no role: its metadata has no credentials (status 404)",
            kind="none",
            hint=f"{_ROLE_HINT}; or set AWS_PROFILE or the variables with credentials",
        )
    if status != 200:
        return _refused("the roles of this instance", status)
    name = role.strip().partition("\n")[0]
    status, text = _send(http, "GET", f"{base}{_ROLES}{quote(name)}", headers)
    if status == 404:
        return CredentialsError(
            f"the metadata of the instance has no credentials of its role {name[:64]!a} "
            "(status 404)",
            kind="none",
            hint="a role that was just attached takes a minute; was it deleted?",
        )
    if status != 200:
        return _refused(f"the credentials of the role {name[:64]!a}", status)
    return _of_document(name, text)


def _of_document(role: str, text: str) -> CredentialsError | None:
    try:
        found: Any = parse_json(text)
    except ValueError:
        return None
    code = found.get("Code") if isinstance(found, dict) else None
    if not isinstance(code, str) or code == "Success":
        return None
    # Its Message is not quoted: what else the document holds may be secret.
    return CredentialsError(
        f"EC2 gives no credentials of the instance's role {role[:64]!a}: {code[:64]!a}",
        kind="refused",
        hint=_TRUST_HINT if code == "AssumeRoleUnauthorizedAccess" else "",
    )


def _refused(what: str, status: int) -> CredentialsError:
    kind = "refused" if status in (401, 403) else "no-response"
    return CredentialsError(
        f"the instance metadata service does not give {what} (status {status})", kind=kind
    )


def _send(http: URLLib3Session, method: str, url: str, headers: dict[str, str]) -> tuple[int, str]:
    response = http.send(AWSRequest(method=method, url=url, headers=headers).prepare())
    return response.status_code, response.content[:_MAX_RESPONSE].decode("ascii", "replace")
