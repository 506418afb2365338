"""Credentials from AWS itself, where a program has a network: pods, tasks and instances.

botocore's providers ask, this module translates: the same checks and errors as for every other
source. botocore is imported with the first fetch, by the thread that fetches.

Sources: AWS SDKs and Tools Reference Guide, "Container credential provider", "Assume role with web
identity", "IMDS credential provider"; EKS User Guide, "EKS Pod Identity"; EC2 User Guide, "Use the
Instance Metadata Service".
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from enclave import forking
from enclave.clock import Clock, SystemClock
from enclave.credentials.model import Credentials, whole_credentials
from enclave.credentials.renewed import RenewedCredentials
from enclave.errors import ConfigurationError, CredentialsError
from vsock_proxy.net.dialing import Dialer, SocketDialer
from vsock_proxy.service.files import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CONTAINER, WEB_IDENTITY, INSTANCE = "container", "web-identity", "instance"
SOURCES: Final = (CONTAINER, WEB_IDENTITY, INSTANCE)

_RELATIVE_URI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
_FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
_TOKEN, _TOKEN_FILE = (
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)
_WEB_TOKEN_FILE, _ROLE = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
_SESSION_NAME = "AWS_ROLE_SESSION_NAME"

MAX_TOKEN: Final = 32_768
"""Bytes of a token file: STS takes web identity tokens of 20,000 characters at most."""

_TIMEOUT: Final = 2.0
"""Seconds for one request to a service beside the program. botocore makes up to three."""

_ATTEMPTS: Final = 2

_TITLES: Final = {
    CONTAINER: "the container credentials service",
    WEB_IDENTITY: "STS (web identity)",
    INSTANCE: "the instance metadata service",
}
_HINTS: Final = {
    CONTAINER: "EKS: does the pod's service account have a Pod Identity association? ECS: does the "
    "task have a task role? A confidential one needs a policy that lets credentials in",
    WEB_IDENTITY: "does the role trust the cluster's OIDC provider and this service account?",
    INSTANCE: "attach an instance profile; in a container on the instance, IMDSv2 needs "
    "HttpPutResponseHopLimit of 2 or more",
}
_NO_RESPONSE_HINT: Final = (
    "is this an EC2 instance? In a container on one, the token's response gets lost unless "
    "HttpPutResponseHopLimit is 2 or more (aws ec2 modify-instance-metadata-options)"
)
_OFF_HINT: Final = (
    "turn it on: aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled"
)
_NAMES: Final = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
_MAX_TEXT: Final = 300


def source_in(environ: Mapping[str, str]) -> str | None:
    """Return the source that the variables of a pod or task name; None if they name none."""
    if environ.get(_WEB_TOKEN_FILE):
        return WEB_IDENTITY
    if environ.get(_RELATIVE_URI) or environ.get(_FULL_URI):
        return CONTAINER
    return None


class AwsCredentials(RenewedCredentials):
    """Credentials of a pod, task or instance. Safe for many threads, and over forks.

    Args:
        source: one of `SOURCES`.
        environ: the variables by which the platform says where to ask.
        region: of STS, for web identity.
        ca_bundle: file of CA certificates for STS, and for a service that speaks https.
        dialer: makes the connections to services beside the program; STS has botocore's own.
        clock: time; production code leaves it out.
        uniform: random number between two; production code leaves it out.
        timeout: seconds for one request and its response.
    """

    def __init__(
        self,
        source: str,
        *,
        environ: Mapping[str, str],
        region: str | None = None,
        ca_bundle: str | None = None,
        dialer: Dialer | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        timeout: float = _TIMEOUT,
    ) -> None:
        clock = clock or SystemClock()
        fetch = {CONTAINER: _container, WEB_IDENTITY: _web_identity, INSTANCE: _instance}[source]
        context = _FetchContext(environ, region, ca_bundle, dialer or SocketDialer(), timeout)

        def ask() -> Credentials:
            with _translated(source):
                values = fetch(context)
                for name in _NAMES:
                    if not isinstance(values[name], str):
                        raise KeyError(name)
            return whole_credentials(values, _NAMES, now=clock.now(), hint=_HINTS[source])

        super().__init__(
            ask, _TITLES[source], clock=clock, uniform=uniform, silence_hint=_HINTS[source]
        )


class _FetchContext:
    """What a fetch needs."""

    def __init__(
        self,
        environ: Mapping[str, str],
        region: str | None,
        ca_bundle: str | None,
        dialer: Dialer,
        timeout: float,
    ) -> None:
        self.environ = environ
        self.region = region
        self.ca_bundle = ca_bundle
        self._dialer = dialer
        self._timeout = timeout

    def http(self) -> Any:
        """Return what makes the requests of botocore's fetchers."""
        from enclave.credentials.metadata_http import MetadataHttp  # noqa: PLC0415 (botocore)

        return MetadataHttp(self._dialer, timeout=self._timeout, ca_bundle=self.ca_bundle)


def _container(context: _FetchContext) -> dict[str, str]:
    with forking.importing:
        from botocore.exceptions import MetadataRetrievalError  # noqa: PLC0415 (90 ms of CPU)
        from botocore.utils import ContainerMetadataFetcher  # noqa: PLC0415

    environ = context.environ
    http = context.http()
    fetcher = ContainerMetadataFetcher(session=http, sleep=lambda _: None)
    if environ.get(_RELATIVE_URI):
        url = fetcher.full_url(environ[_RELATIVE_URI])
    elif environ.get(_FULL_URI):
        url = environ[_FULL_URI]
    else:
        raise CredentialsError(
            "no AWS credentials: the environment names no container credentials service",
            hint=f"EKS and ECS set {_FULL_URI} or {_RELATIVE_URI} for a pod or task with a role",
        )
    token = environ.get(_TOKEN)
    if path := environ.get(_TOKEN_FILE):
        token = _token(path, "Authorization")  # read each time: EKS renews the file
    try:
        found = fetcher.retrieve_full_uri(url, {"Authorization": token} if token else None)
    except MetadataRetrievalError:
        # botocore's text says where, and not what happened.
        if http.last is not None and isinstance(http.last[2], Exception):
            raise CredentialsError(
                f"no AWS credentials from {_TITLES[CONTAINER]} at {urlsplit(url).netloc[:64]!a}: "
                f"{http.last[2]}",
                hint=_HINTS[CONTAINER],
                transient=True,
            ) from None
        raise
    except (ConfigurationError, ValueError) as e:
        # The host is none that credentials may come from, or the token has a line break: the
        # texts hold no value but the host.
        raise CredentialsError(
            f"no AWS credentials: {str(e)[:_MAX_TEXT]!a}",
            hint=f"see {_FULL_URI} and {_TOKEN_FILE}",
        ) from None
    return {name: found[name] for name in _NAMES}


def _instance(context: _FetchContext) -> dict[str, str]:
    with forking.importing:
        from botocore.exceptions import MetadataRetrievalError  # noqa: PLC0415 (as above)
        from botocore.utils import InstanceMetadataFetcher  # noqa: PLC0415

    environ = context.environ
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise CredentialsError(
            "no AWS credentials: AWS_EC2_METADATA_DISABLED turns the instance metadata off",
            hint="unset it, or name another source with --credentials",
        )
    fetcher = InstanceMetadataFetcher(
        num_attempts=_ATTEMPTS,
        env=environ,
        config={
            "ec2_metadata_service_endpoint": environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            "ec2_metadata_service_endpoint_mode": environ.get(
                "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", ""
            ).lower(),
            # IMDSv1 gives credentials to any proxy or server that can be made to fetch a URL.
            "ec2_metadata_v1_disabled": True,
        },
    )
    http = context.http()
    fetcher._session = http  # noqa: SLF001 (it takes none; see metadata_http)
    try:
        found = fetcher.retrieve_iam_role_credentials()
    except MetadataRetrievalError:
        raise _no_metadata(http.last) from None
    if not found:
        raise _no_metadata(http.last)
    return _values(found)


def _no_metadata(last: tuple[str, str, int | Exception] | None) -> CredentialsError:
    """Return what the last response of the instance metadata service says: botocore drops it."""
    what = "no AWS credentials: the instance metadata service"
    match last:
        case None | (_, _, Exception()):
            error = "" if last is None else f" ({last[2]})"
            return CredentialsError(
                f"{what} sent no response{error}", hint=_NO_RESPONSE_HINT, transient=True
            )
        case ("PUT", _, 403):
            return CredentialsError(f"{what} is turned off (status 403)", hint=_OFF_HINT)
        case ("GET", _, 404):
            return CredentialsError(
                f"{what} has no role (status 404)",
                hint="attach an instance profile: aws ec2 associate-iam-instance-profile",
            )
        case ("GET", _, 200):
            return CredentialsError(
                f"{what} has a role, and no credentials of it",
                hint="its trust policy must allow sts:AssumeRole for ec2.amazonaws.com",
            )
        case (method, _, status):
            return CredentialsError(
                f"{what} sent status {status} to {method}",
                hint=_HINTS[INSTANCE],
                transient=status >= 500 or status == 429,
            )


def _web_identity(context: _FetchContext) -> dict[str, str]:
    environ = context.environ
    path, role = environ.get(_WEB_TOKEN_FILE), environ.get(_ROLE)
    if not path or not role:
        missing = _ROLE if path else _WEB_TOKEN_FILE
        raise CredentialsError(
            f"half of a web identity: {missing} is not set",
            hint="EKS sets both for a pod whose service account has an eks.amazonaws.com/role-arn",
        )
    token = _token(path, "web identity")
    with forking.importing:
        import botocore.session  # noqa: PLC0415 (as above)
        from botocore.config import Config  # noqa: PLC0415
        from botocore.credentials import (  # noqa: PLC0415
            AssumeRoleWithWebIdentityCredentialFetcher,
        )

    settings = Config(
        connect_timeout=3,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 1},  # this class renews again itself
        proxies={},  # nothing leaves by a proxy variable
    )
    session = botocore.session.Session()

    def client(service: str, *, config: Any) -> Any:
        return session.create_client(
            service,
            region_name=context.region,
            config=config.merge(settings),
            verify=context.ca_bundle or True,
        )

    fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
        client,
        web_identity_token_loader=lambda: token,
        role_arn=role,
        extra_args={"RoleSessionName": environ.get(_SESSION_NAME) or "enclave-agent"},
        cache={},
    )
    found = fetcher.fetch_credentials()
    return _values(found)


def _token(path: str, what: str) -> str:
    """Return the content of a token file.

    Raises:
        CredentialsError: it cannot be read, or does not hold a token.
    """
    hint = "the platform writes this file, and renews it: is it mounted, and readable?"
    try:
        with opened(Path(path)) as stream:
            content = stream.read(MAX_TOKEN + 1)
    except (ConfigurationError, OSError, ValueError) as e:
        raise CredentialsError(f"no {what} token: {e}", hint=hint, transient=True) from None
    if not content or len(content) > MAX_TOKEN or not content.isascii():
        raise CredentialsError(
            f"{path} is no {what} token: empty, not ASCII, or over {MAX_TOKEN} bytes", hint=hint
        )
    return content.decode("ascii").removesuffix("\n")


def _values(found: Mapping[str, str]) -> dict[str, str]:
    """Return what a fetcher found under AWS's own names."""
    return {
        "AccessKeyId": found["access_key"],
        "SecretAccessKey": found["secret_key"],
        "Token": found["token"],
        # STS's come with an offset, which the check takes too.
        "Expiration": str(found["expiry_time"]),
    }


@contextlib.contextmanager
def _translated(source: str) -> Iterator[None]:
    """Replace every error of botocore's, and of the files it reads, by one of this project's."""
    try:
        yield
    except CredentialsError:
        raise
    except Exception as e:  # noqa: BLE001 (files, HTTP, JSON: anything can come)
        raise _translation(source, e) from None


def _translation(source: str, error: Exception) -> CredentialsError:
    from botocore import exceptions  # noqa: PLC0415 (loaded by now, or missing altogether)

    what, hint = f"no AWS credentials from {_TITLES[source]}", _HINTS[source]
    text = str(error)[:_MAX_TEXT]
    match error:
        case exceptions.ClientError():
            refused: dict[str, Any] = error.response.get("Error", {})
            code = str(refused.get("Code"))[:64]
            return CredentialsError(
                f"{what}: refused: {code!a}: {str(refused.get('Message'))[:_MAX_TEXT]!a}", hint=hint
            )
        case exceptions.MetadataRetrievalError() if "Unable to parse" in text:
            return CredentialsError(f"{what}: a response that is not JSON", hint=hint)
        case (
            exceptions.HTTPClientError()
            | exceptions.ConnectionError()
            | exceptions.MetadataRetrievalError()
        ):
            return CredentialsError(f"{what}: {text!a}", hint=hint, transient=True)
        case exceptions.UnknownServiceError() | exceptions.DataNotFoundError():
            return CredentialsError(
                f"{what}: botocore has no description of STS here",
                hint="build the image with BOTOCORE_SERVICES='kms sts'",
            )
        case exceptions.NoRegionError():
            return CredentialsError(f"{what}: no AWS region", hint="set AWS_REGION")
        case KeyError():
            return CredentialsError(f"{what}: a response without {text}", hint=hint)
    # Its text may hold what was read, and so a secret.
    return CredentialsError(f"{what}: internal error: {type(error).__name__}", hint=hint)
