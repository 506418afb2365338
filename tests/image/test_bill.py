"""The bill of materials of an image, from a root file system made by hand."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from parent.eif.root import source
from parent.eif.root.notes import Notes
from tests.parent.eif import archives
from tests.programs import image_bill

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 2.41-12
Description: GNU C Library: Shared libraries
 Contains the standard libraries.

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a-0+deb13u1
"""

SITE = "opt/nitro-enclave-agent/lib/python3.13/site-packages"


def metadata(name: str, version: str) -> bytes:
    return f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nReadme\n".encode()


@pytest.fixture(scope="module")
def locked() -> list[Any]:
    return image_bill.lock()


@pytest.fixture
def image(tmp_path: Path, locked: list[Any]) -> Path:
    """A tar of a root file system."""
    cbor2 = next(each for each in locked if each.name == "cbor2")
    release = b'ID=debian\nVERSION_ID="13"\n'
    header = b'#define PY_MICRO_VERSION 15\n#define PY_VERSION "3.13.15"\n'
    made = archives.tar(
        archives.member("etc/os-release", release),
        archives.member("var/lib/dpkg/status", STATUS.encode()),
        archives.member("var/lib/dpkg/status.d/netbase", b"Package: netbase\nVersion: 6.5\n"
                        b"Architecture: all\n"),
        archives.member("usr/local/include/python3.13/patchlevel.h", header),
        archives.member(f"{SITE}/cbor2-6.dist-info/METADATA", metadata("cbor2", cbor2.version)),
        archives.member(f"{SITE}/mine-1.dist-info/METADATA", metadata("My_Own.Thing", "1.0")),
    )  # fmt: skip
    (tmp_path / "app.tar").write_bytes(made)
    return tmp_path / "app.tar"


def bill(image: Path, locked: list[Any]) -> str:
    with contextlib.ExitStack() as stack:
        tree, _ = source.read(image, os.uname().machine, Notes(), stack)
        return image_bill.bill_of(tree, "app", locked)


def test_it_names_packages_distributions_and_python(image: Path, locked: list[Any]) -> None:
    read = json.loads(bill(image, locked))
    assert (read["bomFormat"], read["specVersion"]) == ("CycloneDX", "1.6")
    assert read["metadata"]["component"]["name"] == "app"
    by_url = {each["purl"]: each for each in read["components"]}
    (cbor2,) = (url for url in by_url if url.startswith("pkg:pypi/cbor2@"))
    assert set(by_url) == {
        cbor2,
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13",
        "pkg:deb/debian/netbase@6.5?arch=all&distro=debian-13",
        "pkg:deb/debian/tzdata@2026a-0%2Bdeb13u1?arch=all&distro=debian-13",
        "pkg:generic/python@3.13.15",
        "pkg:pypi/my-own-thing@1.0",
    }
    assert by_url[cbor2]["externalReferences"][0]["hashes"], "the lock knows them"


def test_the_same_image_gives_the_same_bytes(image: Path, locked: list[Any]) -> None:
    assert bill(image, locked) == bill(image, locked)


def test_the_command_writes_it(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = image.with_name("app.cdx.json")
    assert image_bill.main([str(image), str(file)]) == 0
    assert json.loads(file.read_text())["components"]
    assert image_bill.main([str(image.with_name("none")), str(file)]) == 1
    assert "image-bill: error: cannot read" in capsys.readouterr().err
