"""The ``vsock-proxy`` command as it is installed: it tells what it lacks, then loads the rest."""

from __future__ import annotations

import sys

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import complain, keep_exit_status
from vsock_proxy.service.extras import require


@keep_exit_status
def main() -> int:
    """Run the command; returns its exit status."""
    try:
        require("parent", "yaml")
    except ConfigurationError as e:
        complain("vsock-proxy", e)
        return 1
    from vsock_proxy.proxy import command  # noqa: PLC0415 (it cannot be loaded without them)

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
