"""Where aws-nitro-enclaves-sdk-c and the libraries under it are. Looks; runs nothing."""

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
"""Folders, separated by colons; CMake's own variable because that is how the SDK is built. The
SDK installs no pkg-config file."""

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
"""In the order of linking: each before those it needs."""

_VERSION = re.compile(rb"aws-nitro_enclaves-sdk-c/([\w.+-]{1,64})\0")
"""The SDK tells its version nowhere but in its HTTP user agent."""


@dataclass(frozen=True, slots=True)
class Found:
    """One installation.

    Attributes:
        include: folders for the C compiler's -I.
        libraries: paths, in the order of `LIBRARIES`.
        version: what the library calls itself, by ``git describe`` of whoever built it.
    """

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
        shared: take a shared library where both are there, else the static one.

    Raises:
        ConfigurationError: a header or library is nowhere; says which and where it was looked for.
    """
    named = [*prefixes]
    for variable in VARIABLES:
        named += [folder for folder in environ.get(variable, "").split(os.pathsep) if folder]
    places = [Path(folder).absolute() for folder in dict.fromkeys([*named, *STANDARD])]
    include = [place / "include" for place in places]
    if not any((folder / HEADER).is_file() for folder in include):
        raise _missing(f"the header {HEADER}", include)
    names = dict.fromkeys(["lib64", "lib", str(Path("lib", _multiarch()))])
    folders = [place / name for place in places for name in names]
    libraries = tuple(_library(name, folders, shared=shared) for name in LIBRARIES)
    version = _VERSION.search(libraries[0].read_bytes())
    return Found(
        tuple(folder for folder in include if folder.is_dir()),
        libraries,
        version[1].decode() if version else "of an unknown version",
    )


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
        hint="name where aws-nitro-enclaves-sdk-c and its libraries are installed with --prefix",
    )


def _multiarch() -> str:
    return str(sysconfig.get_config_var("MULTIARCH") or "")
