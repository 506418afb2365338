"""Find aws-nitro-enclaves-sdk-c and the libraries it needs. It reads files and runs nothing."""

from __future__ import annotations

import os
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLES = ("AWS_NITRO_ENCLAVES_SDK_PREFIX", "CMAKE_PREFIX_PATH")
"""Folders, separated by colons. CMake's variable is one of them because CMake builds the SDK, which
installs no pkg-config file."""

STANDARD = ("/usr/local", "/usr")

HEADER = "aws/nitro_enclaves/kms.h"

LIBRARIES = (
    "aws-nitro-enclaves-sdk-c",
    "aws-c-auth",
    "aws-c-http",
    "aws-c-compression",
    "aws-c-io",
    "aws-c-cal",
    "aws-c-sdkutils",
    "aws-c-common",
    "s2n",
    "crypto",
    "json-c",
    "nsm",
)
"""In link order: each before those it needs."""

_VERSION = re.compile(rb"aws-nitro_enclaves-sdk-c/([\w.+-]{1,64})\0")
"""The SDK states its version only in its HTTP user agent."""

_RELEASES = {
    "e86d2cf4988a831e8d2144b1acb5f06f059b6089": "0.4.4",
    "43cf4ad9b39b30eda352567d6151a5f79c60044e": "0.4.3",
    "74a35c70b7b0b855cbb9773178a5c8c5ec405363": "0.4.2",
    "550f7313bf792bf03200c7c6e1ac3fd7d2dc382f": "0.4.1",
}
"""The user agent holds the output of ``git describe``, which ignores the lightweight tags of these
releases: 0.4.4 calls itself v0.4.0-20-ge86d2cf. The commit distinguishes them."""

_DESCRIBED = re.compile(r"-\d+-g([0-9a-f]{7,40})$")
_NO_GIT = "v0.2.1-unknown"
"""What every version calls itself if it was built without its git history (CMakeLists.txt)."""


@dataclass(frozen=True, slots=True)
class Found:
    """One installation.

    Attributes:
        prefixes: the folders that were named, before the standard ones.
        include: folders for the C compiler's -I.
        libraries: paths, in the order of `LIBRARIES`.
        version: what the library calls itself; its release, if that is known.
    """

    prefixes: tuple[Path, ...]
    include: tuple[Path, ...]
    libraries: tuple[Path, ...]
    version: str

    def __str__(self) -> str:
        first = self.libraries[0]
        return f"{first.name} {self.version} in {first.parent}"


def find(prefixes: Iterable[str], environ: Mapping[str, str], *, shared: bool = False) -> Found:
    """Look in `prefixes`, then in the variables' folders, then in the standard ones.

    Args:
        prefixes: folders that hold ``include`` and ``lib`` or ``lib64``.
        environ: see `VARIABLES`.
        shared: prefer shared libraries to static ones.

    Raises:
        ConfigurationError: a header or library was not found; says which, and lists the folders.
    """
    named = [*prefixes]
    for variable in VARIABLES:
        named += [folder for folder in environ.get(variable, "").split(os.pathsep) if folder]
    named_places = [Path(folder).absolute() for folder in dict.fromkeys(named)]
    places = [*dict.fromkeys([*named_places, *map(Path, STANDARD)])]
    include = [place / "include" for place in places]
    if not any((folder / HEADER).is_file() for folder in include):
        raise _missing(f"the header {HEADER}", include)
    names = dict.fromkeys(["lib64", "lib", str(Path("lib", _multiarch()))])
    folders = [place / name for place in places for name in names]
    libraries = tuple(_library(name, folders, shared=shared) for name in LIBRARIES)
    return Found(
        tuple(named_places),
        tuple(folder for folder in include if folder.is_dir()),
        libraries,
        version_of(libraries[0].read_bytes()),
    )


def version_of(library: bytes) -> str:
    """Return what a library calls itself; its release and that, if the release is known."""
    found = _VERSION.search(library)
    name = found[1].decode() if found else ""
    if not name or name == _NO_GIT:
        return "of an unknown version"
    described = _DESCRIBED.search(name)
    for commit, release in _RELEASES.items():
        if described and commit.startswith(described[1]):
            return f"{release} ({name})"
    return name


def _library(name: str, folders: Iterable[Path], *, shared: bool) -> Path:
    endings = (".so", ".a") if shared else (".a", ".so")
    for folder in folders:
        for ending in endings:
            path = folder / f"lib{name}{ending}"
            if path.is_file():
                return path
    raise _missing(f"the library lib{name}.a or .so", folders)


def _missing(what: str, folders: Iterable[Path]) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is in none of: " + ", ".join(map(str, folders)),
        hint="name the folders where aws-nitro-enclaves-sdk-c and its libraries are installed with "
        "--prefix",
    )


def _multiarch() -> str:
    return str(sysconfig.get_config_var("MULTIARCH") or "")
