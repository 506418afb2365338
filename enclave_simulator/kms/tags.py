"""Tags of keys: what KMS accepts. No I/O."""

from __future__ import annotations

from enclave_simulator.kms.messages import KmsError

MAX_TAGS = 50


def merge_tags(present: dict[str, str], given: list[dict[str, str]]) -> dict[str, str]:
    """Return tags with others added or changed.

    Raises:
        KmsError: TagException.
    """
    names = [each["TagKey"] for each in given]
    if any(name.lower().startswith("aws:") for name in names):
        raise KmsError("TagException", "Tags beginning with aws: are reserved")
    if len(set(names)) < len(names):
        raise KmsError("TagException", "Duplicate tag keys")
    merged = present | {each["TagKey"]: each["TagValue"] for each in given}
    if len(merged) > MAX_TAGS:
        raise KmsError("TagException", "Too many tags")
    return merged


def list_tags(tags: dict[str, str]) -> list[dict[str, str]]:
    """Return tags as responses list them."""
    return [{"TagKey": key, "TagValue": tags[key]} for key in sorted(tags)]
