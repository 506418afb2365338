"""``python -m vsock_proxy.relay.build``: compile the relay's innermost part, which is optional.

It needs a C compiler (``$CC``, with ``$CFLAGS``) and the C library's headers. The library takes the
place of an older one only after it has been loaded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError
from vsock_proxy.relay.native import LIBRARY, SOURCE, Pump, sources
from vsock_proxy.service.compiling import BuildError, compile_shared, compiler, writing
from vsock_proxy.service.console import complain, keep_exit_status, show

if TYPE_CHECKING:
    from collections.abc import Sequence

PROG = "vsock_proxy.relay.build"


@keep_exit_status
def main(argv: Sequence[str] | None = None, *, library: Path = LIBRARY) -> int:
    """Run the command; returns the exit code.

    Args:
        argv: the command line, without the program.
        library: where the library goes; tests have folders of their own.
    """
    argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__).parse_args(argv)
    try:
        replace_library(library)
    except AgentError as e:
        complain(PROG, e)
        if isinstance(e, BuildError):
            show(e.output)
        return 1
    print(f"built, and loads: {library}")  # noqa: T201 (a command)
    return 0


def replace_library(library: Path) -> None:
    """Compile the library and load it; only then does it replace the file `library`.

    Raises:
        ConfigurationError: it does not compile or does not load; an older library stays.
    """
    into = library.parent
    # In the same folder: a rename is atomic, and a process that has the old one mapped keeps it.
    with writing(into), tempfile.TemporaryDirectory(prefix="_pump.", dir=into) as folder:
        made = Path(folder, library.name)
        compile_shared(
            [*compiler(), "-Wextra", f'-DPUMP_BUILD="{sources()}"', "-o", str(made), str(SOURCE)],
            what="the relay's C sources",
            hint="are the C library's headers installed (libc6-dev)?",
        )
        try:
            Pump(made)
        except (OSError, ImportError) as e:
            raise BuildError(
                f"the relay's library compiles, but does not load: {e}",
                output="",
                hint="is it compiled for this machine, and is cffi installed?",
            ) from e
        made.replace(library)


if __name__ == "__main__":
    sys.exit(main())
