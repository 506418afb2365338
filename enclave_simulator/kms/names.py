"""The host names of KMS: in every partition, FIPS, dual-stack, VPC endpoints. No I/O.

Partitions, their Regions and their domains are botocore's.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import botocore.loaders

DEFAULT_NAME = "kms.us-east-1.amazonaws.com"

_LONGEST = 253  # RFC 1035, section 2.3.4
_VPC_ENDPOINT = r"(?:vpce-[0-9a-f]+-[0-9a-z]+(?:-[a-z0-9-]+)?\.)"


def is_kms_name(name: str) -> bool:
    """Return whether a host name is one of KMS's."""
    return len(name) <= _LONGEST and _pattern().fullmatch(name) is not None


def regional_names() -> list[str]:
    """Return KMS's names in every Region: FIPS and dual-stack ones too, of no VPC endpoint."""
    names = []
    for partition in _partitions():
        outputs = partition["outputs"]
        domains = {outputs["dnsSuffix"], outputs["dualStackDnsSuffix"]}
        for region in partition["regions"]:
            names += [f"{kms}.{region}.{each}" for kms in ("kms", "kms-fips") for each in domains]
    return sorted(names)


@functools.cache
def partition_of(region: str) -> str | None:
    """Return the partition that a Region is in, or would be in by its name; None if in none."""
    return next(
        (each["id"] for each in _partitions() if re.fullmatch(each["regionRegex"], region)), None
    )


def _partitions() -> list[dict[str, Any]]:
    partitions: list[dict[str, Any]]
    partitions = botocore.loaders.create_loader().load_data("partitions")["partitions"]
    return partitions


@functools.cache
def _pattern() -> re.Pattern[str]:
    forms = []
    for partition in _partitions():
        region = partition["regionRegex"].removeprefix("^").removesuffix("$")
        # A host name has no underscores and no digits of other scripts.
        region = region.replace(r"\w+", "[a-z]+").replace(r"\d+", "[0-9]{1,2}")
        outputs = partition["outputs"]
        domains = {outputs["dnsSuffix"], outputs["dualStackDnsSuffix"]}
        regional = "|".join(re.escape(domain) for domain in sorted(domains))
        # A VPC endpoint (AWS PrivateLink User Guide): all zones, or one zone, of one endpoint.
        private = re.escape(f"vpce.{outputs['dnsSuffix']}")
        forms.append(
            rf"(?:kms(?:-fips)?\.(?:{region})\.(?:{regional})"
            rf"|{_VPC_ENDPOINT}kms(?:-fips)?\.(?:{region})\.{private})"
        )
    return re.compile("|".join(forms))
