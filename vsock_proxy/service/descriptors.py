"""Raises the limit of open file descriptors of this process."""

from __future__ import annotations

import resource


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit (RLIMIT_NOFILE) to `wanted`, or as far as the hard limit allows.

    Systems start processes with 1024 descriptors for programs that use select(2); the hard limit
    is the one that matters. The soft limit is never lowered.

    Returns:
        The descriptors this process may have: `wanted`, or fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
