"""Where the build looks for the C SDK, and its errors if something is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.sdk.search import HEADER, LIBRARIES, VARIABLES, find, version_of

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
def test_a_prefix_is_searched(tmp_path: Path, lib: str) -> None:
    found = find([str(install(tmp_path / "sdk", lib=lib))], {})
    assert found.include[0] == tmp_path / "sdk" / "include"
    assert [path.name for path in found.libraries] == [f"lib{name}.a" for name in LIBRARIES]
    assert str(found) == f"libaws-nitro-enclaves-sdk-c.a v1.2 in {tmp_path}/sdk/{lib}"
    assert found.prefixes == (tmp_path / "sdk",)


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_is_searched(tmp_path: Path, variable: str) -> None:
    install(tmp_path / "sdk")
    found = find([], {variable: f"/nonexistent:{tmp_path}/sdk"})
    assert found.libraries[0].parent == tmp_path / "sdk" / "lib"


def test_static_libraries_are_preferred_without_shared(tmp_path: Path) -> None:
    install(tmp_path / "sdk", endings=(".a", ".so"))
    for shared, ending in ((False, ".a"), (True, ".so")):
        found = find([str(tmp_path / "sdk")], {}, shared=shared)
        assert {path.suffix for path in found.libraries} == {ending}


def test_a_missing_library_or_header_is_named(tmp_path: Path) -> None:
    prefix = install(tmp_path / "sdk")
    (prefix / "lib" / "libaws-c-cal.a").rename(prefix / "elsewhere.a")
    with pytest.raises(ConfigurationError, match=r"libaws-c-cal\.a") as caught:
        find([str(prefix)], {})
    assert str(prefix / "lib") in str(caught.value)
    (prefix / "include" / HEADER).unlink()
    with pytest.raises(ConfigurationError, match=r"kms\.h"):
        find([str(prefix)], {})


@pytest.mark.parametrize(
    ("name", "version"),
    [
        # What `git describe` makes of the tags of aws-nitro-enclaves-sdk-c.
        ("v0.4.0-20-ge86d2cf", "0.4.4 (v0.4.0-20-ge86d2cf)"),
        ("v0.4.0-20-ge86d2cf4988a", "0.4.4 (v0.4.0-20-ge86d2cf4988a)"),
        ("v0.4.0-15-g43cf4ad", "0.4.3 (v0.4.0-15-g43cf4ad)"),
        ("v0.4.0-14-g74a35c7", "0.4.2 (v0.4.0-14-g74a35c7)"),
        ("v0.4.0-1-g550f731", "0.4.1 (v0.4.0-1-g550f731)"),
        ("v0.4.0", "v0.4.0"),
        ("v0.4.0-21-g0123abc", "v0.4.0-21-g0123abc"),
        ("v0.4.0-20-ge86d2c", "v0.4.0-20-ge86d2c"),  # too short to tell
        ("v0.2.1-unknown", "of an unknown version"),  # built from an archive: any version's
    ],
)
def test_a_release_is_told_by_its_commit(name: str, version: str) -> None:
    assert version_of(b"\0text\0aws-nitro_enclaves-sdk-c/" + name.encode() + b"\0") == version


def test_a_library_that_states_no_version() -> None:
    assert version_of(b"\0aws-nitro_enclaves-sdk-c/\0") == "of an unknown version"
