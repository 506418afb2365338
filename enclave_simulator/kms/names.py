"""The host names of KMS: in every partition, FIPS, dual-stack, VPC endpoints. No I/O.

Partitions, their Regions and their domains are botocore's.
"""

from __future__ import annotations

import functools
import re

import botocore.loaders

DEFAULT_NAME = "kms.us-east-1.amazonaws.com"

_LONGEST = 253  # RFC 1035, section 2.3.4
_VPC_ENDPOINT = r"(?:vpce-[0-9a-f]+-[0-9a-z]+(?:-[a-z0-9-]+)?\.)"


def is_kms_name(name: str) -> bool:
    """Return whether a host name is one of KMS's."""
    return len(name) <= _LONGEST and _pattern().fullmatch(name) is not None


@functools.cache
def _pattern() -> re.Pattern[str]:
    partitions = botocore.loaders.create_loader().load_data("partitions")["partitions"]
    forms = []
    for partition in partitions:
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
