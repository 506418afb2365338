"""Build the wheel and its bill of materials: ``make wheel``, or ``python -m ... FOLDER``.

The same tree gives the same bytes, whatever the dates and permissions of its files and whoever
builds it: the build works on a copy with fixed ones, by SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("enclave", "vsock_proxy", "parent", "enclave_simulator")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
LOCK = "requirements/enclave.txt"
DATE = "315532800"
"""1980-01-01, the first moment that a zip file can name; the image's date as well."""

# What building leaves behind is not of the tree: another build, or the C SDK's bindings.
_NOT_OURS = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", "*.c", "*.o")


def build_wheel(tree: Path, folder: Path) -> Path:
    """Build the wheel of a checkout into a folder; return its path.

    Raises:
        subprocess.CalledProcessError: the build failed; pip has said why on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        copy = Path(name)
        for package in PACKAGES:
            shutil.copytree(tree / package, copy / package, ignore=_NOT_OURS)
        for file in FILES:
            shutil.copyfile(tree / file, copy / file)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (int(DATE), int(DATE)))
        made = copy / "dist"
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(made), "."],
            cwd=copy, env=os.environ | {"SOURCE_DATE_EPOCH": DATE}, check=True, umask=0o022,
        )  # fmt: skip
        (wheel,) = made.glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def write_bill(tree: Path, file: Path) -> None:
    """Write the CycloneDX bill of materials of what the enclave image installs, by its lock.

    The wheel asks for ranges of the same libraries; the lock names what was tested, by hash.

    Raises:
        subprocess.CalledProcessError: cyclonedx-py failed, and has said why.
    """
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements",
         "--pyproject", "pyproject.toml", "--output-reproducible", "--output-format", "JSON",
         "--output-file", str(file.resolve()), LOCK],
        cwd=tree, env=os.environ | {"SOURCE_DATE_EPOCH": DATE}, check=True,
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Build both; return the exit status."""
    folder = Path(arguments[0] if arguments else "dist")
    wheel = build_wheel(ROOT, folder)
    bill = wheel.with_suffix(".cdx.json")
    write_bill(ROOT, bill)
    print(f"{wheel}\n{bill}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
