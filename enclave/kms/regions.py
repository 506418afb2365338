"""KMS's public endpoints: of each region of each partition, plain, FIPS and dual-stack.

The partitions are botocore's data; KMS's endpoint rules (its endpoint-rule-set-1.json) are the
standard ones of AWS, which a test compares with what is here. The rules and botocore's engine for
them take 100 ms of CPU, four times what the one small file of partitions takes.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import botocore

from enclave.errors import ConfigurationError
from enclave.kms.endpoint import Endpoint

log = logging.getLogger(__name__)

_NAME = re.compile("[a-z0-9-]{1,64}")  # narrower than the partitions' patterns, for a host name


@dataclass(frozen=True, slots=True)
class _Partition:
    name: str
    pattern: re.Pattern[str]
    regions: frozenset[str]
    suffix: str
    dual_stack_suffix: str | None
    has_fips: bool


def regional_endpoint(region: str, *, fips: bool = False, dual_stack: bool = False) -> Endpoint:
    """Return KMS's public endpoint in a region.

    Args:
        region: its name. A region that is newer than botocore's data belongs to the partition
            that its name fits.
        fips: use the endpoint whose cryptography is validated to FIPS 140.
        dual_stack: use the endpoint that has IPv4 and IPv6 addresses.

    Raises:
        ConfigurationError: no partition has such a region, or its partition has no such endpoint.
    """
    partition = _partition_of(region)
    if fips and not partition.has_fips:
        raise _missing(partition, "FIPS", "AWS_USE_FIPS_ENDPOINT")
    if dual_stack and not partition.dual_stack_suffix:
        raise _missing(partition, "dual-stack", "AWS_USE_DUALSTACK_ENDPOINT")
    suffix = partition.dual_stack_suffix if dual_stack else partition.suffix
    return Endpoint(f"kms{'-fips' if fips else ''}.{region}.{suffix}", 443, "/")


def _partition_of(region: str) -> _Partition:
    partitions = _partitions()
    for partition in partitions:
        if region in partition.regions:
            return partition
    hint = _hint(region, {name for each in partitions for name in each.regions})
    if _NAME.fullmatch(region):
        for partition in partitions:
            if partition.pattern.fullmatch(region):
                log.warning("the region %s is not in botocore's data; %s", region, hint)
                return partition
    raise ConfigurationError(f"not a region of AWS: {region[:64]!r}", hint=hint)


def _hint(region: str, known: set[str]) -> str:
    for name in known:
        if region in (f"fips-{name}", f"{name}-fips"):
            return f"set AWS_USE_FIPS_ENDPOINT=true, and name the region {name}"
    from difflib import get_close_matches  # noqa: PLC0415 (only for what may be an error)

    nearest = get_close_matches(region[:64].lower(), sorted(known), n=1)
    return f"did you mean {nearest[0]}?" if nearest else "regions are us-east-1, for example"


def _missing(partition: _Partition, kind: str, variable: str) -> ConfigurationError:
    return ConfigurationError(
        f"the partition {partition.name} has no {kind} endpoints",
        hint=f"unset {variable}, or name an endpoint with --endpoint-url",
    )


@functools.cache
def _partitions() -> tuple[_Partition, ...]:
    # `importlib.resources` would load 38 modules for it.
    data = json.loads((Path(botocore.__file__).parent / "data/partitions.json").read_bytes())
    return tuple(
        _Partition(
            partition["id"],
            re.compile(partition["regionRegex"]),
            frozenset(name for name in partition["regions"] if not name.endswith("-global")),
            outputs["dnsSuffix"],
            outputs["dualStackDnsSuffix"] if outputs["supportsDualStack"] else None,
            outputs["supportsFIPS"],
        )
        for partition in data["partitions"]
        for outputs in [partition["outputs"]]
    )
