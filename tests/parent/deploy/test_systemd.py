"""The systemd units: correct, and hardened to a level that cannot slip."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from enclave.cli import _parse
from enclave.nitrotpm.device import DIRECT, MANAGED
from parent.enclaves.settings import MAX_ENCLAVES
from parent.logs.settings import LogSettings
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UNITS = sorted((ROOT / "parent/deploy/systemd").glob("*.service"))

EXPOSURE = {"enclave-agent": 20, "enclave-parent": 25, "enclave-vsock-proxy": 20}
"""At most, in tenths, by ``systemd-analyze security``; 9.6 is a unit without any hardening."""

analyzing = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd"
)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose programs are all there."""
    source: Path = request.param
    text = source.read_text()
    for program in ("enclave-agent", "enclave-parent", "vsock-proxy"):
        text = text.replace(f"=/usr/local/bin/{program} ", "=/bin/true ")
    assert "=/bin/true" in text
    copy = tmp_path / source.name
    copy.write_text(text)
    return copy


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


@analyzing
def test_systemd_verifies_the_units(unit: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


@analyzing
def test_verifying_finds_faults(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=rather"))
    assert "rather" in analyze("verify", "--man=no", unit).stderr


@analyzing
def test_a_unit_stays_hardened(unit: Path) -> None:
    threshold = EXPOSURE[unit.stem]
    done = analyze("security", "--offline=true", f"--threshold={threshold}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout + done.stderr
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze("security", "--offline=true", f"--threshold={threshold}", unit).returncode


def service(path: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser["Service"]


def test_units_give_what_the_programs_need() -> None:
    assert {path.stem for path in UNITS} == set(EXPOSURE)
    for path in UNITS:
        found = service(path)
        assert found["Type"] == "notify"
        if path.stem == "enclave-agent":
            continue  # on an instance: no vsock, no relay
        assert found["WatchdogSec"] == "30s"
        assert found["Restart"] == "always"  # After the watchdog, too.
        assert "AF_VSOCK" in found["RestrictAddressFamilies"].split()
        assert "AF_UNIX" in found["RestrictAddressFamilies"].split()
        assert int(found["LimitNOFILE"]) >= 2 * 10_000
    agent = (UNITS[0].with_name("enclave-agent.service")).read_text()
    for device in (MANAGED, DIRECT):
        assert f"DeviceAllow={device} rw" in agent
    options = _parse(agent.split("enclave-agent ", 1)[1].splitlines()[0].split())
    assert (options.attester, options.proxy) == ("nitrotpm", "direct")
    parent = service(UNITS[0].with_name("enclave-parent.service"))
    assert parent["DeviceAllow"] == "/dev/nitro_enclaves rw"
    assert parent["SupplementaryGroups"] == "ne"
    assert "/run/nitro_enclaves" in parent["ReadWritePaths"]
    assert "PrivateDevices" not in parent  # It would take the device away.
    assert parent["KillMode"] == "mixed"


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers: apt-get install systemd"
)
def test_the_user_is_made_and_in_group_ne(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [
            "systemd-sysusers",
            f"--root={tmp_path}",
            str(UNITS[0].with_name("enclave-parent.sysusers.conf")),
        ],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    groups = (tmp_path / "etc/group").read_text().splitlines()
    assert [line for line in groups if line.startswith("ne:") and line.endswith(":enclave-parent")]
    users = (tmp_path / "etc/passwd").read_text().splitlines()
    (user,) = [line for line in users if line.startswith("enclave-parent:")]
    assert user.endswith(":/usr/sbin/nologin")


def test_the_journal_takes_what_the_log_sink_takes() -> None:
    """journald's own limit of a unit is not under that of all enclaves together."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string((ROOT / "parent/deploy/systemd/enclave-parent.service").read_text())
    service = parser["Service"]
    interval = int(service["LogRateLimitIntervalSec"].removesuffix("s"))
    rate = LogSettings(cids=None).lines_per_second
    burst = 5  # seconds' worth at once: `budget.Budget`
    assert int(service["LogRateLimitBurst"]) >= MAX_ENCLAVES * rate * (interval + burst)
