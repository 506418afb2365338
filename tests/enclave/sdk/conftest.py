"""The stand-in of tests/enclave/sdk/stand_in for the C SDK, compiled if there is gcc."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.sdk.bindings.native import Native, load, load_file
from enclave.sdk.build import compile_module
from enclave.sdk.errors import SdkNotBuiltError
from enclave.sdk.search import LIBRARIES, find

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
MODULE = "_stand_in_for_tests"


@pytest.fixture(scope="session")
def built() -> Native:
    """The bindings to aws-nitro-enclaves-sdk-c; never those to the stand-in."""
    try:
        return load()
    except SdkNotBuiltError as e:
        pytest.skip(f"{e}; {e.hint}; see docs/sdk.md")


class StandIn:
    """The compiled stand-in: the bindings to it, and its own counters."""

    def __init__(self, module: Path) -> None:
        self.module = module
        self.native = load_file(module)
        # Through the module: it may use a library of the same name that was loaded before its own.
        self.counters = ctypes.CDLL(str(module))

    def live(self) -> int:
        gc.collect()  # what this test's and others' tracebacks held
        count: int = self.counters.stand_in_live()
        return count


_COMPILE = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result")


def make_stand_in(prefix: Path) -> Path:
    """Compile the stand-in as if it were installed in `prefix`; returns the library.

    As in the SDK's own shared build, the first library needs others that are beside it, and says
    nothing about where they are.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the stand-in for the C SDK: apt-get install gcc")
    shutil.copytree(HERE / "stand_in" / "include", prefix / "include")
    folder = prefix / "lib"
    folder.mkdir()
    for name in LIBRARIES[1:]:
        soname = f"-Wl,-soname,lib{name}.so"
        target = folder / f"lib{name}.so"
        subprocess.run([compiler, *_COMPILE, soname, "-xc", "-o", target, os.devnull], check=True)
    library = folder / f"lib{LIBRARIES[0]}.so"
    source = HERE / "stand_in" / "stand_in.c"
    needed = ("-Wl,--no-as-needed", f"-L{folder}", *(f"-l{name}" for name in LIBRARIES[1:]))
    include = ("-Wno-implicit-fallthrough", f"-I{prefix}/include")
    files = ("-o", str(library), str(source))
    subprocess.run([compiler, *_COMPILE, *include, *files, *needed], check=True)
    return library


def make_genuine(prefix: Path) -> Path:
    """Compile a stand-in that does not say it is one: only the build's own tests need that."""
    library = make_stand_in(prefix)
    header = prefix / "include" / "aws" / "nitro_enclaves" / "stand_in.h"
    text = header.read_text(encoding="utf-8")
    assert text.count("NITRO_ENCLAVE_AGENT_STAND_IN") == 2
    header.write_text(text.replace("NITRO_ENCLAVE_AGENT_STAND_IN", "GUARD"), encoding="utf-8")
    return library


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    prefix = tmp_path_factory.mktemp("stand-in")
    make_stand_in(prefix)
    found = find([str(prefix)], {}, shared=True)
    return StandIn(compile_module(MODULE, found, into=prefix))


@pytest.fixture
def balanced(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in, with a check at the end that every allocation was freed."""
    before = stand_in.live()
    yield stand_in
    assert stand_in.live() == before


@pytest.fixture
def worker_command(stand_in: StandIn) -> tuple[str, ...]:
    """A worker over the stand-in: a program of the tests, as production's takes no argument."""
    return stand_in_worker(stand_in.module)


def stand_in_worker(module: Path) -> tuple[str, ...]:
    return (sys.executable, "-P", str(HERE / "stand_in_worker.py"), str(module))
