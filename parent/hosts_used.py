"""Which hosts of an egress listener are shown: those most used. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN: Final = 16
"""Hosts of one listener that are shown; metrics have all."""


def most_used(hosts: Mapping[str, Any], most: int = SHOWN) -> list[tuple[str, Any]]:
    """Return the hosts with the most tunnels and failures, and their counters."""
    ranked = sorted(
        hosts.items(),
        key=lambda item: (-item[1]["relayed"] - sum(item[1]["connect_failures"].values()), item[0]),
    )
    return ranked[:most]
