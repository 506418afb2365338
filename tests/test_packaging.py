"""Commands without the extras they need. What a wheel installs: test_installed.py."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.extras import install_command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_without(library: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an installed command as if a library were not there."""
    module, function = PROJECT["project"]["scripts"][script].split(":")
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"from {module} import {function}\nsys.exit({function}())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [
        (("vsock-proxy", "--help"), "yaml", "parent"),
        (("enclave-parent", "run"), "h11", "parent"),
        (("enclave-parent", "check-config"), "yaml", "parent"),
        (("enclave-parent", "status"), "prometheus_client", "parent"),
        (("enclave-simulator", "run", "--", "true"), "asn1crypto", "simulator"),
        (("enclave-simulator", "boot", "image.eif"), "yaml", "simulator"),
        (("enclave-simulator", "credentials"), "h11", "simulator"),
    ],
    ids=lambda value: value[0] + " " + value[1] if isinstance(value, tuple) else None,
)
def test_a_command_names_the_extra_it_lacks(
    command: tuple[str, ...], library: str, extra: str
) -> None:
    done = run_without(library, *command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"{command[0]}: error: not installed: {library}\n"
        f"{command[0]}: hint: {install_command(extra)}\n"
    )


@pytest.mark.parametrize("library", ["yaml", "h11", "prometheus_client", "asn1crypto"])
def test_the_command_of_the_image_needs_no_extra(library: str) -> None:
    assert run_without(library, "enclave-agent", "generate-random", "--help").returncode == 0


@pytest.mark.parametrize("script", PROJECT["project"]["scripts"])
def test_every_command_tells_its_version(script: str) -> None:
    done = run_without("no_such_library", script, "--version")
    assert done.stdout.startswith(f"{script} ")
    assert done.returncode == 0
