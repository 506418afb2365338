"""The simulated NitroTPM behind ``/dev/tpm0``: others' tools, and TPMs that are no help."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher import Launcher
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from tests.enclave_simulator.launcher.rig import namespaces_refused, output, python

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.authority import Authority

TOOLS = """
set -e
export TPM2TOOLS_TCTI=device:$1
tpm2_startup -c
tpm2_selftest
tpm2_getcap properties-fixed | grep -A2 MANUFACTURER | tail -1
tpm2_getcap pcrs | tail -1
test -n "$(tpm2_getcap commands)" -a -n "$(tpm2_getcap algorithms)"
test -z "$(tpm2_getcap handles-nv-index)"
tpm2_pcrread sha384:12,17 | tail -2 | cut -c-14
tpm2_pcrextend 16:sha384=$(printf %096d 0)
tpm2_pcrread sha384:16 | tail -1 | cut -c-14
tpm2_pcrreset 16
tpm2_pcrread sha384:16 | tail -1 | cut -c-14
if tpm2_pcrreset 4 2>/dev/null; then exit 1; fi
test $(tpm2_getrandom 8 | wc -c) = 8
printf 0123456789abcdef > data
tpm2_nvdefine 0x1500016 -s 16 -a 'authread|authwrite' -p pw >/dev/null
tpm2_nvwrite 0x1500016 -P pw -i data
tpm2_nvread 0x1500016 -P pw -s 16; echo
if tpm2_nvread 0x1500016 -P wrong -s 16 2>/dev/null; then exit 1; fi
tpm2_nvundefine 0x1500016
tpm2_createek -c 0x81010001 -G rsa -u ek.pub
test -n "$(tpm2_readpublic -c 0x81010001)"
tpm2_evictcontrol -C o -c 0x81010001 | tail -1
"""
"""Start-up, capabilities, PCRs; NV memory by HMAC sessions; an endorsement key."""


@pytest.mark.parametrize("namespaces", [True, False], ids=["own-dev", "trapped-paths"])
@pytest.mark.parametrize("device", ["tpm0", "tpmrm0"])
def test_tpm2_tools(
    nitro_authority: Authority, tmp_path: Path, namespaces: bool, device: str
) -> None:
    if shutil.which("tpm2_getcap") is None:
        pytest.skip("there are no tpm2-tools (Debian: apt-get install tpm2-tools)")
    if namespaces and namespaces_refused():
        pytest.skip(namespaces_refused())
    tpm = SimulatedNitroTpm(nitro_authority)
    launcher = Launcher(nsm=None, tpm=tpm, folder=tmp_path, namespaces=namespaces)
    status, out, err = output(launcher, "sh", "-c", TOOLS, "-", f"/dev/{device}", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        '  value: "AMZN"',
        f"  - sha384: [ {', '.join(map(str, range(24)))} ]",
        "    12: 0x0000",
        "    17: 0xFFFF",
        "    16: 0xF57B",  # SHA-384 of 96 zero bytes
        "    16: 0x0000",
        "0123456789abcdef",
        "action: evicted",
    ]
    assert tpm.nv == {}


ATTEST = """
from enclave.attester import find_attester
from enclave.errors import AttesterError
from enclave.nitrotpm import NitroTpm
try:
    found = find_attester("auto", open_tpm=lambda: NitroTpm(timeout={timeout}))
    found.attester.attest(b"key")
except AttesterError as e:
    print(type(e).__name__, bool(e.hint))
"""


class Silent:
    """A TPM that responds with bytes that are none, or with too few."""

    def __init__(self, response: bytes) -> None:
        self.response = response

    def exchange(self, command: bytes) -> bytes:  # noqa: ARG002
        return self.response


@pytest.mark.parametrize(
    ("tpm", "error"),
    [
        ({"nv_space": 0}, "TpmRefusedError"),
        ({"manufacturer": "IBM"}, "NsmUnavailableError"),  # as on a developer's machine
        (b"nonsense nonsense", "TpmResponseError"),
        (struct.pack(">HII", 0xC4, 10, 0), "NsmUnavailableError"),  # a TPM 1.2
        (b"", "TpmResponseError"),
    ],
    ids=["full", "another-maker", "nonsense", "tpm-1.2", "nothing"],
)
def test_a_tpm_that_is_no_help_is_one_named_error(
    nitro_authority: Authority, tmp_path: Path, tpm: dict[str, object] | bytes, error: str
) -> None:
    made = (
        Silent(tpm) if isinstance(tpm, bytes) else SimulatedNitroTpm(nitro_authority, **tpm)  # type: ignore[arg-type]
    )
    launcher = Launcher(nsm=None, tpm=made, folder=tmp_path)
    timeout = 0.5 if tpm == b"" else 30
    assert python(launcher, ATTEST.format(timeout=timeout)) == f"{error} True\n"


def test_a_tpm0_that_another_program_keeps_open(nitro_authority: Authority, tmp_path: Path) -> None:
    tpm = SimulatedNitroTpm(nitro_authority)
    script = """
import os
from enclave.errors import TpmBusyError
from enclave.nitrotpm import DevTpm, NitroTpm
held = os.open("/dev/tpm0", os.O_RDWR)
try:
    NitroTpm(DevTpm(managed=False), timeout=0.3).attest(b"key")
except TpmBusyError as e:
    print("busy", bool(e.hint))
print(len(NitroTpm().attest(b"key")) > 4000)
"""
    launcher = Launcher(nsm=None, tpm=tpm, folder=tmp_path)
    assert python(launcher, script) == "busy True\nTrue\n"


def test_many_processes_at_once_all_get_a_document(
    nitro_authority: Authority, tmp_path: Path
) -> None:
    tpm = SimulatedNitroTpm(nitro_authority)
    script = """
import os
from enclave.nitrotpm import NitroTpm
children = []
for number in range(4):
    child = os.fork()
    if not child:
        for turn in range(3):
            NitroTpm().attest(bytes([number, turn]))
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""
    assert python(Launcher(nsm=None, tpm=tpm, folder=tmp_path), script) == "[0, 0, 0, 0]\n"
    assert tpm.nv == {}
