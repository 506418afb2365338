"""Certificates are for KMS's host names: those that botocore itself makes, and VPC endpoints."""

from __future__ import annotations

import botocore.session
import pytest
from botocore.endpoint_provider import EndpointProvider

from enclave_simulator.kms.names import DEFAULT_NAME, is_kms_name

SESSION = botocore.session.Session()
REGIONS = [
    region
    for partition in SESSION.get_available_partitions()
    for region in SESSION.get_available_regions("kms", partition)
]


def hosts(region: str) -> set[str]:
    """The hosts of a Region's endpoints: FIPS, dual-stack, both, neither."""
    loader = SESSION.get_component("data_loader")
    rules = loader.load_service_model("kms", "endpoint-rule-set-1")
    provider = EndpointProvider(rules, loader.load_data("partitions"))
    return {
        provider.resolve_endpoint(
            Region=region, UseFIPS=fips, UseDualStack=dual_stack
        ).url.removeprefix("https://")
        for fips in (False, True)
        for dual_stack in (False, True)
    }


def test_every_host_of_every_region_is_kms_s() -> None:
    assert {region[:3] for region in REGIONS} > {"us-", "cn-", "eus"}
    for region in REGIONS:
        for host in hosts(region):
            assert is_kms_name(host), host


@pytest.mark.parametrize(
    "host",
    [
        DEFAULT_NAME,
        "vpce-0123456789abcdef0-a1b2c3d4.kms.us-east-1.vpce.amazonaws.com",
        "vpce-0123456789abcdef0-a1b2c3d4-us-east-1a.kms.us-east-1.vpce.amazonaws.com",
        "vpce-0123456789abcdef0-a1b2c3d4.kms-fips.us-gov-west-1.vpce.amazonaws.com",
        "vpce-0123456789abcdef0-a1b2c3d4.kms.cn-north-1.vpce.amazonaws.com.cn",
    ],
)
def test_names_of_vpc_endpoints(host: str) -> None:
    assert is_kms_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "", "kms", "kms.amazonaws.com", "kms.us-east-1.amazonaws.com.evil.example",
        "evil.kms.us-east-1.amazonaws.com", "kms.us-east-1.amazonaws.com.",
        "s3.us-east-1.amazonaws.com",
        "kms.us-east-1.amazonaws.com.cn", "kms.us-east_x-1.amazonaws.com",
        "KMS.US-EAST-1.AMAZONAWS.COM",
        "vpce-x.kms.us-east-1.vpce.amazonaws.com", "kms.us-east-1\n.amazonaws.com",
        "vpce-0-" + "a" * 250 + ".kms.us-east-1.vpce.amazonaws.com",
    ],
)  # fmt: skip
def test_other_names(host: str) -> None:
    assert not is_kms_name(host)
