"""``python -m enclave.sdk.build``: compile the bindings against an installed C SDK.

A step of its own, as the SDK is on no package index and must be there first. The C compiler is
called directly (``$CC``, with ``$CFLAGS`` and ``$LDFLAGS``): no build system to configure, and the
command it runs can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import AgentError, ConfigurationError
from enclave.sdk.bindings.native import MODULE, load
from enclave.sdk.search import Found, find
from vsock_proxy.service.console import complain, keep_exit_status, show

if TYPE_CHECKING:
    from collections.abc import Sequence

PROG = "enclave.sdk.build"

_HERE = Path(__file__).parent
_DECLARATIONS = ("common", "nitro_enclaves", "attestation", "cms", "kms")

_SOURCE = """
#include <aws/common/byte_buf.h>
#include <aws/common/error.h>
#include <aws/common/string.h>
#include <aws/auth/credentials.h>
#include <aws/io/socket.h>
#include <aws/nitro_enclaves/attestation.h>
#include <aws/nitro_enclaves/kms.h>
#include <aws/nitro_enclaves/nitro_enclaves.h>
{cms}
/* Defined by the headers of the library that this project's tests compile, and by no other. */
#ifdef NITRO_ENCLAVE_AGENT_STAND_IN
#define AGENT_SDK_STAND_IN 1
#else
#define AGENT_SDK_STAND_IN 0
#endif
static const char AGENT_SDK_BUILD[] = {build};
"""

_COMPLAINT_LIMIT = 4000  # characters of the compiler's complaint that are shown


class _CompilerError(ConfigurationError):
    """The compiler failed; `output` is what it printed."""

    def __init__(self, message: str, *, output: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.output = output


@keep_exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument(
        "--prefix",
        action="append",
        default=[],
        metavar="FOLDER",
        help="holds the SDK's include and lib; may repeat; else AWS_NITRO_ENCLAVES_SDK_PREFIX, "
        "CMAKE_PREFIX_PATH, /usr/local, /usr",
    )
    parser.add_argument(
        "--shared", action="store_true", help="link shared libraries where both are installed"
    )
    options = parser.parse_args(argv)
    try:
        found = find(options.prefix, os.environ, shared=options.shared)
        compile_module(MODULE, found, into=_HERE)
        print(f"built with {found}")  # noqa: T201 (a command prints)
        print(f"loads: {load().build}")  # noqa: T201
    except AgentError as e:
        complain(PROG, e)
        if isinstance(e, _CompilerError):
            show(e.output)
        return 1
    return 0


def compile_module(name: str, found: Found, *, into: Path) -> Path:
    """Compile the bindings as module `name` into the folder `into`; returns the file.

    Raises:
        ConfigurationError: no cffi, no compiler, or the headers are not those of the SDK.
    """
    try:
        import cffi  # noqa: PLC0415 (its C backend is all that running the bindings needs)
    except ImportError as e:
        raise ConfigurationError(
            "cffi is not installed", hint="pip install 'nitro-enclave-agent[sdk]'"
        ) from e
    texts = {part: (_HERE / "declarations" / f"{part}.h").read_text() for part in _DECLARATIONS}
    ffi = cffi.FFI()
    for text in texts.values():
        ffi.cdef(text)
    ffi.cdef("#define AGENT_SDK_STAND_IN ...\nstatic const char AGENT_SDK_BUILD[];")
    build = '"' + str(found).replace("\\", "\\\\").replace('"', '\\"') + '"'
    ffi.set_source(name, _SOURCE.format(cms=texts["cms"], build=build))
    made = into / (name.rpartition(".")[2] + str(sysconfig.get_config_var("EXT_SUFFIX")))
    with tempfile.TemporaryDirectory() as folder:
        source, module = Path(folder, "bindings.c"), Path(folder, "bindings.so")
        with contextlib.redirect_stdout(None):  # cffi tells what it writes
            ffi.emit_c_code(str(source))
        _run(_command(found, source, module))
        # Another name first: a process may have the old one mapped.
        try:
            fresh = made.with_suffix(".new")
            fresh.write_bytes(module.read_bytes())
            fresh.chmod(0o755)
            fresh.replace(made)
        except OSError as e:
            raise ConfigurationError(f"cannot write {made}: {e.strerror}") from e
    return made


def _command(found: Found, source: Path, module: Path) -> list[str]:
    environ = os.environ
    libraries = []
    for path in found.libraries:
        if path.suffix == ".a":
            libraries.append(str(path))
        else:
            # By its file name: libnsm.so has no SONAME, and a path would be what is loaded later.
            libraries += [f"-L{path.parent}", f"-l:{path.name}", f"-Wl,-rpath,{path.parent}"]
    return [
        *shlex.split(environ.get("CC", "cc")),
        "-shared", "-fPIC", "-O2", "-Wall", "-Wno-unused-function",
        *shlex.split(environ.get("CFLAGS", "")),
        "-o", str(module), str(source),
        f"-I{sysconfig.get_path('include')}",
        *(f"-I{folder}" for folder in found.include),
        # Python carries a libcrypto of its own: neither may take the other's functions.
        "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now",
        *libraries,
        *shlex.split(environ.get("LDFLAGS", "")),
        "-lpthread", "-ldl", "-lm", "-lc",
    ]  # fmt: skip


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 (the compiler of whoever builds)
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as e:
        raise ConfigurationError(
            f"cannot run the C compiler {command[0]!r}: {e.strerror}",
            hint="on Debian, apt-get install gcc python3-dev",
        ) from e
    if done.returncode != 0:
        raise _CompilerError(
            "the bindings do not compile",
            output=done.stderr[-_COMPLAINT_LIMIT:],
            hint="are headers and libraries those of one build of the SDK, and Python's headers "
            "installed (python3-dev)? Tested with version 0.4.4",
        )


if __name__ == "__main__":
    sys.exit(main())
