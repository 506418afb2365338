"""``python -m enclave.sdk.build``: a build that fails leaves the module that works."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from enclave.sdk import build
from enclave.sdk.bindings import native as native_module
from enclave.sdk.bindings.native import load_file
from enclave.sdk.errors import SdkNotBuiltError
from enclave.sdk.search import LIBRARIES
from tests.enclave.sdk.conftest import make_genuine, make_stand_in
from tests.enclave.sdk.test_search import install

if TYPE_CHECKING:
    from pathlib import Path

FILE = "_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))
OLD = b"the module that works"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a module that was built before."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / FILE).write_bytes(OLD)
    return folder


def failed(
    package: Path, prefix: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[str, str]:
    """Build against `prefix`; returns the lines of the error and its hint."""
    assert build.main(["--prefix", str(prefix), *options], into=package) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [path.name for path in package.iterdir()] == [FILE]
    assert (package / FILE).read_bytes() == OLD
    error, hint, *_ = printed.err.splitlines()
    assert error.startswith("enclave.sdk.build: error: ")
    assert hint.startswith("enclave.sdk.build: hint: ")
    return error, printed.err


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
def test_headers_that_are_not_the_sdks(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = failed(package, install(tmp_path / "sdk"), capsys)
    assert "the bindings do not compile" in error


def test_no_compiler(
    tmp_path: Path,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc -x")
    error, _ = failed(package, install(tmp_path / "sdk"), capsys)
    assert "cannot run the C compiler '/nonexistent/cc'" in error


def test_a_library_that_is_gone_when_the_module_is_loaded(
    tmp_path: Path,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefix = tmp_path / "sdk"
    make_genuine(prefix)
    compiler = tmp_path / "cc"
    compiler.write_text(
        f'#!/bin/sh\ngcc "$@"; code=$?; rm {prefix}/lib/lib{LIBRARIES[3]}.so; exit $code\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    error, printed = failed(package, prefix, capsys, "--shared")
    assert "compile, but do not load" in error
    assert f"lib{LIBRARIES[3]}.so: cannot open shared object file" in printed


def test_a_library_that_crashes(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "sdk"
    library = make_genuine(prefix)
    source = tmp_path / "crash.c"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) void f(void){abort();}\n")
    target = library.with_name(f"lib{LIBRARIES[-1]}.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source], check=True)
    error, _ = failed(package, prefix, capsys, "--shared")
    assert "the process that loads them ends with SIGABRT" in error


def test_the_stand_in_never_takes_the_place_of_the_sdk(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stand_in(tmp_path / "sdk")
    _, printed = failed(package, tmp_path / "sdk", capsys, "--shared")
    assert "stand-in for tests" in printed


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_genuine(tmp_path / "sdk")
    options = ["--prefix", str(tmp_path / "sdk"), "--shared"]
    assert build.main(options, into=tmp_path / "none") == 1
    assert "cannot write in" in capsys.readouterr().err


@pytest.mark.parametrize("linker", ["--as-needed", "--no-as-needed"])
def test_shared_libraries_load_whatever_the_linker_leaves_out(
    tmp_path: Path,
    package: Path,
    linker: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Distributions differ in whether their compilers link as needed."""
    prefix = tmp_path / "sdk"
    make_genuine(prefix)
    monkeypatch.setenv("CC", f"gcc -Wl,{linker}")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert build.main(["--prefix", str(prefix), "--shared"], into=package) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("built, and loads: libaws-nitro-enclaves-sdk-c.so STAND-IN")
    assert [path.name for path in package.iterdir()] == [FILE]
    native = load_file(package / FILE)
    assert native.prefixes == (str(prefix),)
    assert native.build in printed.out


@pytest.mark.parametrize("loaded", [False, True])
def test_a_module_that_is_checked_is_not_listed_as_the_installed_one(
    tmp_path: Path, package: Path, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cffi lists each module that it loads, and its `lib`, under the name in the module itself."""
    make_genuine(tmp_path / "sdk")
    assert build.main(["--prefix", str(tmp_path / "sdk"), "--shared"], into=package) == 0
    names = (native_module.MODULE, native_module.MODULE + ".lib")
    installed = {name: ModuleType(name) for name in names if loaded}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in installed.items():
        monkeypatch.setitem(sys.modules, name, module)
    load_file(package / FILE)
    assert {name: sys.modules[name] for name in names if name in sys.modules} == installed


def test_a_file_that_is_no_module(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(OLD)
    for name in (FILE, "none.so"):
        with pytest.raises(SdkNotBuiltError, match="do not load"):
            load_file(tmp_path / name)
