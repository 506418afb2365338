"""``python -m enclave.sdk.bindings.check FILE``: load a compiled module and print what it binds to.

The build runs this in a process of its own before it replaces a module that works: a library that
does not fit may crash the process that loads it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enclave.errors import AgentError
from enclave.sdk.bindings.native import load_file


def main() -> int:
    """Load the module; returns the exit code."""
    try:
        native = load_file(Path(sys.argv[1]))
        native.check_genuine()
    except AgentError as e:
        print(e, file=sys.stderr)  # noqa: T201 (for the build, which prints it)
        return 1
    print(native.build)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
