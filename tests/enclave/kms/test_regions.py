"""KMS's endpoints by region, held to botocore's own resolver and its rules for KMS."""

from __future__ import annotations

import logging

import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.loaders import Loader
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError
from enclave.kms.regions import regional_endpoint

LOADER = Loader()
PARTITIONS = LOADER.load_data("partitions")
PROVIDER = EndpointProvider(LOADER.load_service_model("kms", "endpoint-rule-set-1"), PARTITIONS)
REGIONS = [
    region
    for partition in PARTITIONS["partitions"]
    for region in partition["regions"]
    if not region.endswith("-global")
]


@pytest.mark.parametrize("dual_stack", [False, True])
@pytest.mark.parametrize("fips", [False, True])
def test_endpoints_of_all_regions_are_botocores(fips: bool, dual_stack: bool) -> None:
    assert len(REGIONS) > 40
    for region in REGIONS:
        theirs = PROVIDER.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack)
        ours = regional_endpoint(region, fips=fips, dual_stack=dual_stack)
        assert ours.url == f"{theirs.url}/"


def test_a_newer_region_belongs_to_the_partition_that_its_name_fits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert regional_endpoint("eu-new-7").host == "kms.eu-new-7.amazonaws.com"
        assert regional_endpoint("cn-new-1").host == "kms.cn-new-1.amazonaws.com.cn"
    assert "the region eu-new-7 is not in botocore's data" in caplog.text


@pytest.mark.parametrize(
    ("region", "hint"),
    [
        ("us-east1", "did you mean us-east-1?"),
        ("US-EAST-1", "did you mean us-east-1?"),
        ("eu_central_1", "did you mean eu-central-1?"),
        ("us-gov-west1", "did you mean us-gov-west-1?"),
        ("aws-global", ""),
        ("us-east-1-fips", "set AWS_USE_FIPS_ENDPOINT=true, and name the region us-east-1"),
        ("fips-us-gov-west-1", "set AWS_USE_FIPS_ENDPOINT=true, and name the region us-gov-west-1"),
        ("\u0661", "regions are us-east-1, for example"),
        ("a" * 10_000, "regions are us-east-1, for example"),
    ],
)
def test_a_region_that_no_partition_has_is_an_error_with_the_nearest(
    region: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"^not a region of AWS: '.{1,64}'\n") as caught:
        regional_endpoint(region)
    assert hint in caught.value.hint
    assert caught.value.hint


@given(st.text() | st.from_regex(r"^(us|eu|cn)\-\w+\-\d+$"))
def test_any_region_is_a_host_name_or_an_error(region: str) -> None:
    try:
        host = regional_endpoint(region).host
    except ConfigurationError:
        return
    assert host.startswith(f"kms.{region}.")
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
