"""Empties what functions of the project have cached.

mutmut forks each mutant from a process in which all tests have run. What was cached there was
computed without the mutant, and hides it.
"""

from __future__ import annotations

import sys

_PACKAGES = {"enclave", "parent", "vsock_proxy"}


def empty_caches() -> None:
    """Empty the caches of the functions in all modules that are loaded."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES:
            for value in list(vars(module).values()):
                if empty := getattr(value, "cache_clear", None):
                    empty()
