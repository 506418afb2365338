"""Write the bill of materials of an image: ``make image-bill``, or ``python -m ... IMAGE FILE``.

IMAGE is a folder, a tar, or a container image as `docker save` writes it. The bill (CycloneDX) has
what is in it: the packages that dpkg lists, the Python distributions, each with the hashes of the
lock where it is one of the lock's, and a Python that no package brought. The same image gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import email.parser
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from parent.eif.root import source
from parent.eif.root.notes import Notes
from tests.programs.wheel import ROOT, write_bill
from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from parent.eif.root.tree import Tree

DPKG_STATUS = re.compile(r"var/lib/dpkg/(status|status\.d/[^/]+)")
"""The list of installed packages: in one file, or in one for each as distroless images have it."""

DISTRIBUTION = re.compile(r".*-packages/[^/]+\.dist-info/METADATA")
PYTHON_HEADER = re.compile(r"usr/local/include/python3\.[0-9]+/patchlevel\.h")
_MOST = 64 << 20


def bill_of(tree: Tree, name: str, locked: Iterable[Component]) -> str:
    """Return the bill of a root file system as JSON.

    Args:
        tree: the root file system.
        name: of the image.
        locked: the distributions of the lock, with their hashes.
    """
    files = {
        path: node.read(_MOST).decode("utf-8", "replace")
        for path, node in tree.walk()
        if node.is_file
        and any(each.fullmatch(path) for each in (DPKG_STATUS, DISTRIBUTION, PYTHON_HEADER))
    }
    release = _os_release(tree)
    known = {str(each.purl): each for each in locked}
    bill = Bom()
    bill.metadata.component = Component(type=ComponentType.CONTAINER, name=name, bom_ref="image")
    for path, text in sorted(files.items()):
        if DPKG_STATUS.fullmatch(path):
            for found in _debian_packages(text, release):
                bill.components.add(found)
        elif DISTRIBUTION.fullmatch(path):
            found = _distribution(text)
            bill.components.add(known.get(str(found.purl), found))
        elif version := re.search(r'PY_VERSION\s+"([^"]+)"', text):
            bill.components.add(_component("generic", "python", version[1]))
    bill.register_dependency(bill.metadata.component, bill.components)
    document = json.loads(JsonV1Dot6(bill).output_as_string())
    # Neither is of the image: two bills of one image would differ.
    del document["serialNumber"], document["metadata"]["timestamp"]
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _os_release(tree: Tree) -> dict[str, str]:
    """Return /etc/os-release; empty if there is none."""
    found = tree.find("etc/os-release")
    if found is None or not found[1].is_file:
        return {}
    lines = found[1].read(_MOST).decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip("\"'") for name, _, value in pairs}


def _debian_packages(status: str, release: dict[str, str]) -> Iterator[Component]:
    """Return the packages that are installed (deb-control(5), dpkg(1))."""
    vendor = release.get("ID", "debian")
    for stanza in re.split(r"\n\s*\n", status):
        fields = email.parser.HeaderParser().parsestr(stanza.lstrip("\n"))
        # In status.d, which no dpkg keeps, there is no such field.
        state = fields.get("Status", "install ok installed")
        if not fields["Package"] or state.split()[2:] != ["installed"]:
            continue
        more = {"arch": fields["Architecture"], "distro": f"{vendor}-{release.get('VERSION_ID')}"}
        if "VERSION_ID" not in release:
            del more["distro"]
        yield _component("deb", fields["Package"], fields["Version"], vendor, more)


def _distribution(metadata: str) -> Component:
    fields = email.parser.HeaderParser().parsestr(metadata)
    name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
    return _component("pypi", name, fields["Version"])


def _component(
    type: str,
    name: str,
    version: str,
    namespace: str | None = None,
    qualifiers: dict[str, str] | None = None,
) -> Component:
    url = PackageURL(type, namespace, name, version, qualifiers)
    return Component(name=name, version=version, purl=url, bom_ref=str(url))


def lock() -> list[Component]:
    """Return the distributions of the lock."""
    with tempfile.TemporaryDirectory(prefix="bill-") as folder:
        file = Path(folder) / "lock.cdx.json"
        write_bill(ROOT, file)
        read = Bom.from_json(json.loads(file.read_text(encoding="utf-8")))  # type: ignore[attr-defined] # made by a decorator
    return list(read.components)


def main(arguments: list[str]) -> int:
    """Write the bill of an image; return the exit status."""
    image, file = map(Path, arguments)
    machine = os.uname().machine
    try:
        with contextlib.ExitStack() as stack:
            tree, _ = source.read(image, machine, Notes(), stack)
            text = bill_of(tree, image.stem, lock())
    except AgentError as e:
        print(f"image-bill: error: {e}", file=sys.stderr)
        return 1
    file.write_text(text, encoding="utf-8")
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
