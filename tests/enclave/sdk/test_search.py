"""Where the build looks for the C SDK, and what it says when something is missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.sdk import build
from enclave.sdk.search import HEADER, LIBRARIES, VARIABLES, find

if TYPE_CHECKING:
    from pathlib import Path


def install(prefix: Path, *, lib: str = "lib", endings: tuple[str, ...] = (".a",)) -> Path:
    header = prefix / "include" / HEADER
    header.parent.mkdir(parents=True)
    header.touch()
    (prefix / lib).mkdir()
    for name in LIBRARIES:
        for ending in endings:
            (prefix / lib / f"lib{name}{ending}").write_bytes(b"\0aws-nitro_enclaves-sdk-c/v1.2\0")
    return prefix


@pytest.mark.parametrize("lib", ["lib", "lib64"])
def test_a_prefix(tmp_path: Path, lib: str) -> None:
    found = find([str(install(tmp_path / "sdk", lib=lib))], {})
    assert found.include[0] == tmp_path / "sdk" / "include"
    assert [path.name for path in found.libraries] == [f"lib{name}.a" for name in LIBRARIES]
    assert str(found) == f"libaws-nitro-enclaves-sdk-c.a v1.2 in {tmp_path}/sdk/{lib}"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable(tmp_path: Path, variable: str) -> None:
    install(tmp_path / "sdk")
    found = find([], {variable: f"/nonexistent:{tmp_path}/sdk"})
    assert found.libraries[0].parent == tmp_path / "sdk" / "lib"


def test_static_before_shared_unless_asked(tmp_path: Path) -> None:
    install(tmp_path / "sdk", endings=(".a", ".so"))
    for shared, ending in ((False, ".a"), (True, ".so")):
        found = find([str(tmp_path / "sdk")], {}, shared=shared)
        assert {path.suffix for path in found.libraries} == {ending}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    prefix = install(tmp_path / "sdk")
    (prefix / "lib" / "libaws-c-cal.a").rename(prefix / "elsewhere.a")
    with pytest.raises(ConfigurationError, match=r"libaws-c-cal\.a") as caught:
        find([str(prefix)], {})
    assert str(prefix / "lib") in str(caught.value)
    (prefix / "include" / HEADER).unlink()
    with pytest.raises(ConfigurationError, match=r"kms\.h"):
        find([str(prefix)], {})


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
def test_headers_that_are_not_the_sdks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--prefix", str(install(tmp_path / "sdk"))]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("enclave.sdk.build: error: the bindings do not compile")
    assert "hint" in said.err


def test_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc -x")
    assert build.main(["--prefix", str(install(tmp_path / "sdk"))]) == 1
    assert "cannot run the C compiler '/nonexistent/cc'" in capsys.readouterr().err
