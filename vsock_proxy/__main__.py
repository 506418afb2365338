"""Entry point of ``vsock-proxy``: checks its dependencies, then loads the command."""

from __future__ import annotations

import sys

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import complain, keep_exit_status
from vsock_proxy.service.extras import require
from vsock_proxy.service.platforms import require_linux


@keep_exit_status
def main() -> int:
    """Run the command; return its exit status."""
    try:
        require_linux("vsock-proxy")
        require("parent", "yaml")
    except ConfigurationError as e:
        complain("vsock-proxy", e)
        return 1
    from vsock_proxy.proxy import command  # noqa: PLC0415 (it cannot be loaded without them)

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
