"""Run others' NSM clients and verifiers against the simulated NSM and its documents.

``python -m tests.programs.foreign [--cache FOLDER]`` installs them, by name and pinned version,
from PyPI and npm into FOLDER (default: .foreign), and prints one row each. docs/launcher.md has
the same packages and versions.

Exit status: 0 if each behaves as its row says; 1 if not; 77 if none can be installed here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT
from tests.programs.foreign.cases import ACCEPTED, write_cases

HERE = Path(__file__).parent
DOCUMENTED = ROOT / "docs" / "launcher.md"
TIMEOUT = 300
SKIPPED = 77
_ISSUER = "UnknownIssuer"
_NOT_NSM = "not having the NSM as root"


@dataclass(frozen=True)
class Package:
    """A foreign program.

    Attributes:
        registry: PyPI or npm.
        name: the package's name there.
        version: its pinned version.
        entry: a client's module, or a verifier's name in `verifiers`.
        client: whether it asks the NSM. Otherwise it verifies documents.
        pins_root: it trusts AWS's root alone, so it must reject every simulated document, the
            genuine ones for this reason.
    """

    registry: str
    name: str
    version: str
    entry: str
    client: bool = False
    pins_root: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


PACKAGES = (
    Package("PyPI", "aws-nsm-interface", "1.0.0", "aws_nsm_interface", client=True),
    Package("PyPI", "aws-nsm-interface-verifiably", "1.0.1", "aws_nsm_interface_verifiably",
            client=True),
    Package("PyPI", "epsilon-attestation-verifier", "1.1.0", "epsilon"),
    Package("PyPI", "attested-relay", "0.2.0a4", "attested_relay"),
    Package("PyPI", "evervault-attestation-bindings", "0.5.0", "evervault", pins_root=_ISSUER),
    Package("npm", "@0xsequence/tee-verifier", "0.1.2", "sequence"),
    Package("npm", "@evervault/attestation-bindings", "1.0.0", "evervault", pins_root=_NOT_NSM),
    Package("npm", "@evervault/wasm-attestation-bindings", "0.3.1", "evervault_wasm",
            pins_root=_ISSUER),
)  # fmt: skip


class UnavailableError(Exception):
    """A package cannot be installed on this machine."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="foreign", description=__doc__)
    parser.add_argument("--cache", metavar="FOLDER", type=Path, default=ROOT / ".foreign")
    cache: Path = parser.parse_args().cache
    faults: list[str] = []
    ran = 0
    with tempfile.TemporaryDirectory() as folder:
        cases = write_cases(Path(folder))
        for package in PACKAGES:
            try:
                place = install(package, cache)
            except UnavailableError as e:
                print(f"skipped  {package.label} ({package.registry}): {e}", flush=True)
                continue
            ran += 1
            found = run_client(package, place) if package.client else verify(package, place, cases)
            print(
                f"{'FAILED' if found else 'ok':8} {package.label} ({package.registry})", flush=True
            )
            for line in found:
                print(f"         {line}", flush=True)
            faults += found
    for fault in undocumented():
        print(fault)
        faults.append(fault)
    print(f"{ran} run, {len(PACKAGES) - ran} skipped, {len(faults)} faults")
    if not ran:
        return SKIPPED
    return 1 if faults else 0


def install(package: Package, cache: Path) -> Path:
    """Return the Python, or the folder of npm's, that has a package; install it first if needed.

    Each in a folder of its own, with its version in the name: they need different libraries.

    Raises:
        UnavailableError: it cannot be installed.
    """
    name = re.sub(
        r"[^a-z0-9.]+", "-", f"{package.registry}-{package.name}-{package.version}".lower()
    )
    place = cache.absolute() / name
    done = place / ".done"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if package.registry == "npm":
            if shutil.which("npm") is None:
                raise UnavailableError("no npm")
            run_step([
                "npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts",
                "--prefix", str(place), f"{package.name}@{package.version}",
            ])  # fmt: skip
        else:
            run_step([sys.executable, "-m", "venv", str(place)])
            python = str(place / "bin" / "python")
            run_step([
                python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                f"{package.name}=={package.version}",
            ])  # fmt: skip
        done.touch()
    return place if package.registry == "npm" else place / "bin" / "python"


def run_step(command: list[str]) -> None:
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise UnavailableError(str(e)) from e
    if ran.returncode:
        last = (ran.stderr.strip() or ran.stdout.strip() or "no output").splitlines()[-1]
        raise UnavailableError(f"{command[0]}: {last}")


def run_client(package: Package, python: Path) -> list[str]:
    """Run a client of the NSM in a simulated enclave, by each of the launcher's ways."""
    faults = []
    for options in ([], ["--no-namespaces"]):
        out = output([
            sys.executable, "-c", "from enclave_simulator.cli import main; main()",
            "run", "--no-services", *options, "--",
            str(python), str(HERE / "nsm_client.py"), package.entry,
        ])  # fmt: skip
        if not out.startswith("works"):
            faults.append(" ".join((*options, out)))
    return faults


def verify(package: Package, place: Path, cases: dict[str, Path]) -> list[str]:
    """Have a verifier judge each case, and return the judgements that are wrong."""
    faults = []
    for name, path in cases.items():
        if package.registry == "npm":
            command = ["node", str(HERE / "verifiers.mjs"), package.entry, str(path)]
            out = output(command, cwd=place)
        else:
            out = output([str(place), str(HERE / "verifiers.py"), package.entry, str(path)])
        expected = "accepted" if name in ACCEPTED and not package.pins_root else "rejected"
        reason = package.pins_root if name in ACCEPTED else ""
        if out.split(":")[0] != expected or reason not in out:
            faults.append(f"{name}: {out}, not {expected} {reason}".rstrip())
    return faults


def output(command: list[str], cwd: Path | None = None) -> str:
    """Run a program and return its last lines of output and of errors; of errors if it failed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    try:
        ran = subprocess.run(
            command, cwd=cwd or ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", check=False, timeout=TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    texts = (ran.stderr,) if ran.returncode else (ran.stdout, ran.stderr)
    lines = [text.strip().splitlines()[-1] for text in texts if text.strip()]
    return " ".join(lines) or f"exit status {ran.returncode}"


def undocumented() -> list[str]:
    """Return a fault for each package and version that the document does not have."""
    text = DOCUMENTED.read_text()
    return [
        f"docs/launcher.md has no row for {package.label}"
        for package in PACKAGES
        if f"| `{package.name}` | {package.version} |" not in text
    ]


if __name__ == "__main__":
    sys.exit(main())
