"""The options of an `Agent`, resolved: where KMS is, and how it is reached. No I/O."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError
from enclave.kms.endpoint import Endpoint, parse_endpoint
from enclave.kms.regions import regional_endpoint
from enclave.kms.retry import MAX_ATTEMPTS
from vsock_proxy.net.addresses import (
    VMADDR_CID_PARENT,
    Address,
    ConnectProxy,
    VsockAddress,
    parse_proxy,
)
from vsock_proxy.net.ports import PROXY_PORT

if TYPE_CHECKING:
    from enclave.aws_settings import AwsSettings

log = logging.getLogger(__name__)

ENGINES = ("python", "sdk", "sdk-client")
"""Whose code makes an attested call; see `Agent`."""

DEFAULT_PROXY = VsockAddress(VMADDR_CID_PARENT, PROXY_PORT)
"""Where AWS's documentation has vsock-proxy listen: port 8000 of the parent."""

AUTO, DIRECT = "auto", "direct"
"""Values of ``proxy`` that are not addresses."""


@dataclass(frozen=True)
class KmsLocation:
    """Where KMS is, and how it is reached.

    Attributes:
        region: the AWS region in the scope of each signature.
        endpoint: the host that TLS must prove.
        proxy: where vsock-proxy listens, or an egress proxy; None: connections go to KMS itself.
        ca_bundle: file of CA certificates in PEM; None for the default ones.
        max_attempts: attempts of one call, the first included.
    """

    region: str
    endpoint: Endpoint
    proxy: Address | ConnectProxy | None
    ca_bundle: str | None
    max_attempts: int


def locate_kms(
    aws: AwsSettings,
    *,
    region: str | None,
    endpoint_url: str | None,
    proxy: Address | ConnectProxy | str,
    ca_bundle: str | None,
    has_network: bool,
) -> KmsLocation:
    """Resolve options against AWS's variables and the profile; an option comes first.

    As in AWS's tools an endpoint URL is final: FIPS and dual-stack choose among the region's own.

    Args:
        aws: the variables and the profile.
        region: as `Agent` takes it.
        endpoint_url: as `Agent` takes it.
        proxy: as `Agent` takes it.
        ca_bundle: as `Agent` takes it.
        has_network: whether ``auto`` means ``direct``.

    Raises:
        ConfigurationError: there is no region, or a value is malformed.
    """
    region = region or aws.region
    if not region:
        raise ConfigurationError(
            "no AWS region", hint="name one with --region, region=, AWS_REGION, or in the profile"
        )
    # An invalid region is rejected even with an endpoint: the requests are signed for it.
    endpoint = regional_endpoint(region, fips=aws.fips, dual_stack=aws.dual_stack)
    endpoint_url = endpoint_url or aws.endpoint_url
    if endpoint_url:
        endpoint = parse_endpoint(endpoint_url)
        if aws.fips:
            log.warning("FIPS endpoints are wanted, but an endpoint URL is given: %s", endpoint_url)
    return KmsLocation(
        region=region,
        endpoint=endpoint,
        proxy=_proxy(proxy, has_network=has_network),
        ca_bundle=ca_bundle or aws.ca_bundle,
        max_attempts=aws.max_attempts or MAX_ATTEMPTS,
    )


def _proxy(
    proxy: Address | ConnectProxy | str, *, has_network: bool
) -> Address | ConnectProxy | None:
    if proxy == AUTO:
        proxy = DIRECT if has_network else DEFAULT_PROXY
    if proxy == DIRECT:
        return None
    if not isinstance(proxy, str):
        return proxy
    try:
        return parse_proxy(proxy)
    except ConfigurationError as e:
        raise ConfigurationError(
            str(e), hint=f"{e.hint}; without a proxy, {DIRECT}; or {AUTO}, the default"
        ) from e


def check_engine(engine: str, *, attester: str, own_device: bool, own_dialer: bool) -> None:
    """Raise ConfigurationError if there is no such engine, or it is not built.

    Args:
        engine: one of `ENGINES`.
        attester: as `Agent` takes it.
        own_device: whether the caller brings an NSM device.
        own_dialer: whether the caller brings a dialer.
    """
    if engine not in ENGINES:
        raise ConfigurationError(
            f"no such engine: {engine!r}", hint="there are " + ", ".join(ENGINES)
        )
    if engine == "python":
        return
    if attester == "nitrotpm":
        raise ConfigurationError(
            "the C SDK knows no NitroTPM", hint="use --engine python, which is the default"
        )
    from enclave.sdk.bindings.native import check_built  # noqa: PLC0415 (loads the C library)

    check_built()
    if own_device or (engine == "sdk-client" and own_dialer):
        raise ConfigurationError(
            "the C SDK opens the NSM, and its client the connection, by itself",
            hint="leave out device= and dialer=, or use --engine python",
        )
