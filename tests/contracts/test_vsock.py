"""Every vsock socket gives each call's result as the kernel does, in each state.

The same calls run in a simulated enclave, in both its ways, and (`make test-vsock`) on a kernel's
own AF_VSOCK: neither the table nor the simulation can be wrong without a failure here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher import Launcher
from tests.contracts.vsock_calls import CASES
from tests.enclave_simulator.launcher.rig import namespaces_refused, output
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from tests.contracts.vsock_calls import Case

PROGRAM = (sys.executable, "-m", "tests.contracts.vsock_calls")
KERNEL = "a kernel's"
WAYS = [KERNEL] if os.environ.get("TEST_OVER_VSOCK") else ["simulated", "simulated, paths trapped"]


@pytest.fixture(scope="module", params=WAYS)
def seen(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the outcomes by the cases' names."""
    way = request.param
    if way == KERNEL:
        done = subprocess.run(
            PROGRAM, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TEST_TIMEOUT
        )
        return {"": way, **json.loads(done.stdout)}
    namespaces = way == "simulated"
    if namespaces and namespaces_refused():
        pytest.skip("the kernel gives this user no user and mount namespace (user_namespaces(7))")
    launcher = Launcher(nsm=None, namespaces=namespaces)
    status, out, err = output(launcher, *PROGRAM, cwd=ROOT)
    assert (status, err) == (0, "")
    return {"": way, **json.loads(out)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_call(seen: dict[str, str], case: Case) -> None:
    since = case.since if seen[""] == KERNEL else case.launcher_since
    if kernel_release() < since:
        pytest.skip("this kernel is older than Linux {}.{}".format(*since))
    expected = case.launcher if case.launcher and seen[""] != KERNEL else case.kernel
    assert seen[case.name] == expected, case.why


def kernel_release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def test_what_differs_says_why() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert bool(case.launcher) == bool(case.why)
        assert case.launcher != case.kernel
