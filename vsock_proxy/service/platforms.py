"""Names what works on Linux alone: vsock, the NSM, and the daemons beside them."""

from __future__ import annotations

import sys

from vsock_proxy.errors import ConfigurationError

ELSEWHERE = "verify, fetch, key-policy, describe-eif, diff-eif and pcr work everywhere"


def require_linux(what: str) -> None:
    """Check that this is Linux.

    Raises:
        ConfigurationError: it is not; `what` is named as that which needs it.
    """
    if sys.platform != "linux":
        import platform  # noqa: PLC0415 (on Linux it is time lost)

        raise ConfigurationError(
            f"{what} needs Linux; this is {platform.system() or sys.platform}",
            hint=f"run it in a Linux virtual machine or container; {ELSEWHERE}",
        )
