"""The ``vsock-proxy`` command as it is installed: it tells what it lacks, then loads the rest."""

from __future__ import annotations

import sys

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.extras import require


def main() -> int:
    """Run the command; returns its exit status."""
    try:
        require("parent", "yaml")
    except ConfigurationError as e:
        sys.stderr.write(f"vsock-proxy: error: {e}\nvsock-proxy: hint: {e.hint}\n")
        return 1
    from vsock_proxy.proxy import command  # noqa: PLC0415 (it cannot be loaded without them)

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
