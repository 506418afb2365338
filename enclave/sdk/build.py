"""``python -m enclave.sdk.build``: compile the bindings against an installed C SDK.

A separate step, because the SDK is on no package index and must be installed first. It calls the C
compiler directly (``$CC``, with ``$CFLAGS`` and ``$LDFLAGS``). The new module takes the place of an
older one only after it has been loaded, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import AgentError, ConfigurationError
from enclave.sdk.bindings.native import MODULE
from enclave.sdk.search import Found, find
from vsock_proxy.service.compiling import BuildError, compile_shared, compiler, run, writing
from vsock_proxy.service.console import complain, keep_exit_status, show
from vsock_proxy.service.extras import install_command

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
static const char AGENT_SDK_PREFIXES[] = {prefixes};
"""

_LOAD_TIMEOUT = 60.0  # seconds


@keep_exit_status
def main(argv: Sequence[str] | None = None, *, into: Path = _HERE) -> int:
    """Run the command; returns the exit code.

    Args:
        argv: the command line, without the program.
        into: where the module goes; tests have folders of their own.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument(
        "--prefix",
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder with the SDK's include and lib; may be repeated (default: "
        "AWS_NITRO_ENCLAVES_SDK_PREFIX, CMAKE_PREFIX_PATH, /usr/local, /usr)",
    )
    parser.add_argument(
        "--shared", action="store_true", help="prefer shared libraries to static ones"
    )
    options = parser.parse_args(argv)
    try:
        found = find(options.prefix, os.environ, shared=options.shared)
        print(f"built, and loads: {replace_module(found, into=into)}")  # noqa: T201 (a command)
    except AgentError as e:
        complain(PROG, e)
        if isinstance(e, BuildError):
            show(e.output)
        return 1
    return 0


def replace_module(found: Found, *, into: Path) -> str:
    """Compile the bindings and load them; only then do they replace those in the folder `into`.

    Returns:
        What the module says it binds to.

    Raises:
        ConfigurationError: it does not compile or does not load; an older module stays.
    """
    # In the same folder: a rename is atomic, and a process that has the old module mapped keeps it.
    with writing(into), tempfile.TemporaryDirectory(prefix="_native.", dir=into) as folder:
        made = compile_module(MODULE, found, into=Path(folder))
        build = _load_elsewhere(made)
        made.replace(into / made.name)
    return build


def compile_module(name: str, found: Found, *, into: Path) -> Path:
    """Compile the bindings as module `name` into the folder `into`; returns the file.

    Raises:
        ConfigurationError: no cffi, no compiler, or the headers are not those of the SDK.
    """
    try:
        import cffi  # noqa: PLC0415 (running the bindings needs only its C backend)
    except ImportError as e:
        raise ConfigurationError("cffi is not installed", hint=install_command("sdk")) from e
    texts = {part: (_HERE / "declarations" / f"{part}.h").read_text() for part in _DECLARATIONS}
    ffi = cffi.FFI()
    for text in texts.values():
        ffi.cdef(text)
    ffi.cdef(
        "#define AGENT_SDK_STAND_IN ...\n"
        "static const char AGENT_SDK_BUILD[];\n"
        "static const char AGENT_SDK_PREFIXES[];"
    )
    prefixes = os.pathsep.join(map(str, found.prefixes))
    ffi.set_source(
        name,
        _SOURCE.format(cms=texts["cms"], build=_literal(str(found)), prefixes=_literal(prefixes)),
    )
    made = into / (name.rpartition(".")[2] + str(sysconfig.get_config_var("EXT_SUFFIX")))
    with tempfile.TemporaryDirectory(dir=into) as folder:
        source = Path(folder, "bindings.c")
        with contextlib.redirect_stdout(None):  # cffi prints what it writes
            ffi.emit_c_code(str(source))
        compile_shared(_command(found, source, made), what="the bindings", hint=_COMPILE_HINT)
    return made


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _load_elsewhere(module: Path) -> str:
    """Load a module in another process, which it may crash; returns what it says it binds to."""
    try:
        command = [sys.executable, "-P", "-m", "enclave.sdk.bindings.check", str(module)]
        done = run(command, timeout=_LOAD_TIMEOUT)
    except subprocess.TimeoutExpired as e:
        raise BuildError(
            f"the bindings compile, but do not load within {_LOAD_TIMEOUT:.0f} s",
            output="", hint=_LOAD_HINT,
        ) from e  # fmt: skip
    if done.returncode == 0:
        return done.stdout.strip()
    fault = "do not load"
    if done.returncode < 0:
        fault = f"the process that loads them ends with {signal.Signals(-done.returncode).name}"
    raise BuildError(
        f"the bindings compile, but {fault}",
        output=done.stderr, hint=_LOAD_HINT,
    )  # fmt: skip


_COMPILE_HINT = (
    "are headers and libraries those of one build of the SDK, and Python's headers installed "
    "(python3-dev)? Tested with version 0.4.4"
)

_LOAD_HINT = (
    "are all libraries of one build of the SDK? Bindings that were built before are still in place"
)


def _command(found: Found, source: Path, module: Path) -> list[str]:
    environ = os.environ
    static = [path for path in found.libraries if path.suffix == ".a"]
    shared = [path for path in found.libraries if path.suffix != ".a"]
    folders = [*dict.fromkeys(path.parent for path in shared)]
    return [
        *compiler(environ), "-Wno-unused-function",
        "-o", str(module), str(source),
        f"-I{sysconfig.get_path('include')}",
        *(f"-I{folder}" for folder in found.include),
        # Python has a libcrypto of its own: neither may use the other's functions.
        "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now",
        *map(str, static),
        # The SDK's shared libraries do not say in which folder those that they need are, and the
        # search path of this module (RUNPATH) is not used for them: so it must need all of them.
        "-Wl,--push-state,--no-as-needed",
        *(f"-L{folder}" for folder in folders),
        *(f"-Wl,-rpath,{folder}" for folder in folders),
        # By file name: libnsm.so has no SONAME, and a path would be what is loaded later.
        *(f"-l:{path.name}" for path in shared),
        "-Wl,--pop-state",
        *shlex.split(environ.get("LDFLAGS", "")),
        "-lpthread", "-ldl", "-lm", "-lc",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
