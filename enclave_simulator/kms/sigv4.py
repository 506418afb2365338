"""Verify Signature Version 4 of a request, as the front end of AWS's JSON services does. No I/O.

Written from AWS's description, not with botocore's signer: the clients under test sign with
botocore, and a mistake made twice would not show. KMS requests are POSTs to ``/`` without a
query, so the canonical form is little more than the headers.

Order and texts of the errors are the services', as collected by mhart's dynalite and kinesalite;
KMS's status for all of them is 400.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave_simulator.kms.messages import Request

MAX_SKEW = timedelta(minutes=5)
"""Largest difference between x-amz-date and KMS's clock."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_INVALID_TOKEN = "The security token included in the request is invalid."  # noqa: S105 (a text)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials that KMS knows, and their principal.

    Attributes:
        access_key_id: public part.
        secret_access_key: kept out of the repr.
        session_token: of temporary credentials, which are rejected without it.
        principal: ARN that errors and key policies name.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    principal: str = "arn:aws:sts::000000000000:assumed-role/simulated/i-0123456789abcdef0"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, and the Region whose KMS is called."""

    credentials: Credentials
    region: str

    @property
    def principal(self) -> str:
        """Return the caller's ARN."""
        return self.credentials.principal

    @property
    def account(self) -> str:
        """Return the caller's account number."""
        return self.principal.split(":")[4]

    def arn(self, resource: str) -> str:
        """Return the ARN of a resource of the caller's account, for example of ``key/ID``."""
        partition = self.principal.split(":")[1]
        return f"arn:{partition}:kms:{self.region}:{self.account}:{resource}"


SIMULATED_CREDENTIALS = Credentials(
    "ASIASIMULATED0000000",
    "simulated/secret/access/key/0000000000000",
    "simulated/session/token==",
)
"""The credentials known by default: a role's, as a parent instance has them.

No other service accepts them.
"""


def authenticate(
    request: Request, known: Mapping[str, Credentials], region: str | None, now: datetime
) -> Caller:
    """Return the caller of a request.

    Args:
        request: a POST to ``/``.
        known: credentials by access key id.
        region: the only Region that credentials may be scoped to; None accepts any.
        now: KMS's clock.

    Raises:
        KmsError: it is not signed, or its signature is not valid.
    """
    header = request.headers.get("authorization", "")
    if not header.startswith("AWS4-"):
        raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    algorithm, _, rest = header.partition(" ")
    parts = _parameters(rest, header)
    date = request.headers.get("x-amz-date", "")
    missing = [
        f"Authorization header requires '{name}' parameter. "
        for name in ("Credential", "Signature", "SignedHeaders")
        if not parts.get(name)
    ]
    if not date:
        missing.append(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
        )
    if missing:
        raise _incomplete("".join(missing) + f"Authorization={header}")
    if algorithm != _ALGORITHM:
        raise _incomplete(f"Unsupported AWS 'algorithm': '{algorithm}'.")
    _check_date(date, now)
    signed = parts["SignedHeaders"].split(";")
    if "host" not in signed:
        raise _invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    scope = _scope(parts["Credential"], date, region)
    credentials = known.get(parts["Credential"].partition("/")[0])
    if credentials is None:
        raise KmsError("UnrecognizedClientException", _INVALID_TOKEN)
    expected = _signature(request, credentials.secret_access_key, signed, date, scope)
    if not hmac.compare_digest(expected.encode(), parts["Signature"].encode()):
        raise _invalid(
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method. "
            "Consult the service documentation for details."
        )
    token = request.headers.get("x-amz-security-token", "")
    if not hmac.compare_digest(token.encode(), (credentials.session_token or "").encode()):
        raise KmsError("UnrecognizedClientException", _INVALID_TOKEN)
    return Caller(credentials, scope[1])


def _parameters(text: str, header: str) -> dict[str, str]:
    parts = {}
    for part in text.replace(",", " ").split():
        name, equals, value = part.partition("=")
        if not equals:
            raise _incomplete(
                f"'{part}' not a valid key=value pair (missing equal-sign) in Authorization "
                f"header: '{header}'."
            )
        parts[name] = value
    return parts


def _check_date(date: str, now: datetime) -> None:
    try:
        signed = datetime.strptime(date, _TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete(
            f"Date must be in ISO-8601 'basic format'. Got '{date}'. "
            "See http://en.wikipedia.org/wiki/ISO_8601"
        ) from None
    clock = now.astimezone(UTC)
    earliest, latest = clock - MAX_SKEW, clock + MAX_SKEW
    if signed < earliest.replace(microsecond=0):
        raise _invalid(
            f"Signature expired: {date} is now earlier than {earliest:{_TIMESTAMP}} "
            f"({clock:{_TIMESTAMP}} - 5 min.)"
        )
    if signed > latest:
        raise _invalid(
            f"Signature not yet current: {date} is still later than {latest:{_TIMESTAMP}} "
            f"({clock:{_TIMESTAMP}} + 5 min.)"
        )


def _scope(credential: str, date: str, region: str | None) -> list[str]:
    """Return day, Region, service and terminator, from which the signing key is derived."""
    scope = credential.split("/")[1:]
    if len(scope) != 4:
        raise _incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. "
            f"keyid/date/region/service/term, got '{credential}'"
        )
    wrong = []
    if region is not None and scope[1] != region:
        wrong.append(f"Credential should be scoped to a valid Region, not '{scope[1]}'. ")
    if scope[2] != "kms":
        wrong.append("Credential should be scoped to correct service: 'kms'. ")
    if scope[3] != "aws4_request":
        wrong.append(
            f"Credential should be scoped with a valid terminator: 'aws4_request', "
            f"not '{scope[3]}'. "
        )
    if scope[0] != date[:8]:
        wrong.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date "
            f"from HTTP: '{scope[0]}' != '{date[:8]}', from '{date}'. "
        )
    if wrong:
        raise _invalid("".join(wrong).rstrip())
    return scope


def _signature(
    request: Request, secret: str, signed: list[str], date: str, scope: list[str]
) -> str:
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed
    )
    canonical = "\n".join(
        (
            request.method,
            "/",
            "",
            headers,
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    to_sign = "\n".join(
        (_ALGORITHM, date, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _incomplete(message: str) -> KmsError:
    return KmsError("IncompleteSignatureException", message)


def _invalid(message: str) -> KmsError:
    return KmsError("InvalidSignatureException", message)
