"""The stand-in of tests/enclave/sdk/stand_in for the C SDK, compiled where there is gcc."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enclave.errors import ConfigurationError
from enclave.sdk.bindings.native import Native, load
from enclave.sdk.build import compile_module
from enclave.sdk.errors import SdkNotBuiltError
from enclave.sdk.search import LIBRARIES, Found, find

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
MODULE = "_stand_in_for_tests"


@pytest.fixture(scope="session")
def installed() -> Found:
    """aws-nitro-enclaves-sdk-c, where the build would find it."""
    try:
        return find([], os.environ)
    except ConfigurationError as e:
        pytest.skip(f"aws-nitro-enclaves-sdk-c is not installed: {e}; see docs/sdk.md")


@pytest.fixture(scope="session")
def built() -> Native:
    """The bindings to aws-nitro-enclaves-sdk-c; never those to the stand-in."""
    try:
        return load()
    except SdkNotBuiltError as e:
        pytest.skip(f"{e}; {e.hint}; see docs/sdk.md")


class StandIn:
    """The compiled stand-in: the bindings over it, and its own counters."""

    def __init__(self, module: Path, library: Path) -> None:
        self.module = module
        self.counters = ctypes.CDLL(str(library))
        self.native = Native(_loaded(module))

    def live(self) -> int:
        count: int = self.counters.stand_in_live()
        return count


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_stand_in(prefix: Path) -> Path:
    """Compile the stand-in as if it were installed in `prefix`; returns the library."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the stand-in for the C SDK: apt-get install gcc")
    shutil.copytree(HERE / "stand_in" / "include", prefix / "include")
    (prefix / "lib").mkdir()
    library = prefix / "lib" / f"lib{LIBRARIES[0]}.so"
    source = HERE / "stand_in" / "stand_in.c"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"]
    subprocess.run(
        [*command, "-Wno-implicit-fallthrough", f"-I{prefix}/include", "-o", library, source],
        check=True,
    )
    empty = prefix / "lib" / "empty.so"
    subprocess.run([*command, "-xc", "-o", empty, os.devnull], check=True)
    for name in LIBRARIES[1:]:  # which only need to be found
        shutil.copy(empty, prefix / "lib" / f"lib{name}.so")
    return library


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    prefix = tmp_path_factory.mktemp("stand-in")
    library = make_stand_in(prefix)
    found = find([str(prefix)], {}, shared=True)
    return StandIn(compile_module(MODULE, found, into=prefix), library)


@pytest.fixture
def balanced(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in, with a look at the end that all it gave out came back."""
    gc.collect()  # what other tests' tracebacks held
    before = stand_in.live()
    yield stand_in
    gc.collect()
    assert stand_in.live() == before


@pytest.fixture
def worker_command(stand_in: StandIn) -> tuple[str, ...]:
    """A worker over the stand-in; a program of the tests, as production's takes no such word."""
    return (sys.executable, "-P", str(HERE / "stand_in_worker.py"), str(stand_in.module))
