"""Boot duties: what each hands to the kernel, what each reports, and two of them for real."""

from __future__ import annotations

import argparse
import ctypes
import errno
import logging
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.boot import BootOptions, System, add_options, run_boot_duties
from enclave.boot.entropy import add_entropy
from enclave.boot.loopback import SIOCGIFFLAGS, SIOCSIFFLAGS, raise_loopback
from enclave.boot.slew import Timeval, slew_clock
from enclave.drift import clock_drift
from enclave.errors import ConfigurationError, KmsUnreachableError, NsmUnavailableError
from enclave.nsm import Nsm
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    import socket

    from enclave_simulator.nsm import SimulatedNsm
    from tests.enclave.conftest import Enclave

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class Kernel:
    """Takes what the duties do, or refuses it."""

    lo_is_up: bool = False
    refusal: OSError | None = None
    clock: ManualClock = field(default_factory=ManualClock)
    entropy: list[bytes] = field(default_factory=list)
    set_to: list[float] = field(default_factory=list)
    slewed: list[float] = field(default_factory=list)

    def system(self) -> System:
        return System(
            self.add_entropy, self.raise_loopback, self.set_clock, self.slew_clock, self.clock
        )

    def add_entropy(self, data: bytes) -> int:
        self._refuse()
        self.entropy.append(data)
        return len(data)

    def raise_loopback(self) -> bool:
        self._refuse()
        was_up, self.lo_is_up = self.lo_is_up, True
        return not was_up

    def set_clock(self, timestamp: float) -> None:
        self._refuse()
        self.set_to.append(timestamp)

    def slew_clock(self, seconds: float) -> None:
        self._refuse()
        self.slewed.append(seconds)

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def run(kernel: Kernel, nsm: SimulatedNsm, agent: Any = None, **options: Any) -> dict[str, str]:
    """Do the duties; what each says, with an exclamation mark where it was not done."""
    outcomes = run_boot_duties(BootOptions(**options), Nsm(nsm), agent, system=kernel.system())
    return {each.duty: ("" if each.done else "! ") + each.text for each in outcomes}


class Kms:
    def generate_random(self, number_of_bytes: int) -> bytes:
        return b"k" * number_of_bytes


def test_all_duties_in_their_order(
    kernel: Kernel, simulated_nsm: SimulatedNsm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = run(kernel, simulated_nsm, Kms())
    assert list(said.items()) == [
        ("entropy from the NSM", "256 bytes mixed in, 256 bits credited"),
        ("loopback", "lo was down and is up now"),
        ("clock", "within 10 s of the NSM's"),
        ("entropy from KMS", "256 bytes mixed in, 256 bits credited"),
    ]
    assert kernel.entropy[1] == b"k" * 256
    assert len(kernel.entropy[0]) == 256
    assert not kernel.set_to
    assert [record.getMessage() for record in caplog.records] == [
        f"boot, {duty}: {text}" for duty, text in said.items()
    ]
    assert kernel.entropy[0].hex() not in caplog.text


def test_the_c_sdk_may_seed_from_the_nsm(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    asked: list[int] = []
    system = replace(kernel.system(), seed_from_nsm=asked.append)
    first, *_ = run_boot_duties(BootOptions(), Nsm(simulated_nsm), system=system)
    assert first.text == "256 bytes mixed in by AWS's C SDK, 2048 bits credited"
    assert asked == [256]
    assert not kernel.entropy
    assert not simulated_nsm.calls["GetRandom"]

    def refuse(_: int) -> None:
        raise NsmUnavailableError("no", hint="why")

    system = replace(system, seed_from_nsm=refuse)
    first, *others = run_boot_duties(BootOptions(), Nsm(simulated_nsm), system=system)
    assert (first.done, first.text) == (False, "no (why)")
    assert all(other.done for other in others)


def test_what_is_switched_off_is_not_done(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    off = dict.fromkeys(("seed_from_nsm", "seed_from_kms", "raise_loopback", "check_clock"), False)
    assert run(kernel, simulated_nsm, Kms(), **off) == {}
    assert kernel == Kernel(clock=kernel.clock)
    assert not simulated_nsm.calls


def test_lo_may_be_up_already(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    kernel.lo_is_up = True
    assert run(kernel, simulated_nsm)["loopback"] == "lo is up"


def test_a_kernel_that_refuses_is_warned_of_and_lived_with(
    kernel: Kernel, simulated_nsm: SimulatedNsm, caplog: pytest.LogCaptureFixture
) -> None:
    """Only entropy that an unprivileged process may not credit is no warning."""
    caplog.set_level(logging.INFO)
    kernel.refusal = PermissionError(errno.EPERM, "x")
    kernel.clock.elapsed = 3600.0
    said = run(kernel, simulated_nsm, Kms(), correct_clock=True)
    assert len(said) == 4
    for text, capability in zip(
        said.values(), ("SYS_ADMIN", "NET_ADMIN", "SYS_TIME", "SYS_ADMIN"), strict=True
    ):
        assert text.startswith("! the kernel refuses: Operation not permitted")
        assert f"CAP_{capability}" in text
    levels = {record.getMessage().split(": ")[0]: record.levelname for record in caplog.records}
    assert levels == {
        "boot, entropy from the NSM": "INFO",
        "boot, loopback": "WARNING",
        "boot, clock": "WARNING",
        "boot, entropy from KMS": "INFO",
    }


def test_a_kernel_without_the_device_is_warned_of(
    kernel: Kernel, simulated_nsm: SimulatedNsm, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.refusal = FileNotFoundError(errno.ENOENT, "x")
    run(kernel, simulated_nsm, Kms())
    warned = [r.getMessage() for r in caplog.records if "entropy" in r.getMessage()]
    assert len(warned) == 2


def test_an_nsm_that_fails_is_warned_of(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    simulated_nsm.fail_with("InternalError")
    said = run(kernel, simulated_nsm)
    assert said["entropy from the NSM"].startswith("! the NSM refused GetRandom: InternalError")
    assert said["clock"].startswith("! the NSM refused Attestation: InternalError")
    assert said["loopback"] == "lo was down and is up now"


def test_a_kms_that_is_not_there_is_warned_of(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    class Gone:
        def generate_random(self, number_of_bytes: int) -> bytes:
            raise KmsUnreachableError(f"no {number_of_bytes} bytes", hint="look there")

    said = run(kernel, simulated_nsm, Gone())
    assert said["entropy from KMS"] == "! no 256 bytes (look there)"


def test_an_agent_is_a_source(kernel: Kernel, enclave: Enclave) -> None:
    run(kernel, enclave.nsm, enclave.agent())
    assert [len(data) for data in kernel.entropy] == [256, 256]


# The clock.


@pytest.mark.parametrize(("off", "which"), [(3600.0, "ahead of"), (-11.0, "behind")])
def test_drift_is_reported(
    kernel: Kernel, simulated_nsm: SimulatedNsm, off: float, which: str
) -> None:
    kernel.clock.elapsed = off
    text = run(kernel, simulated_nsm)["clock"]
    assert text.startswith("! ")
    assert f"s {which} the NSM's" in text
    assert "--correct-clock" in text
    assert not kernel.set_to


@pytest.mark.parametrize("off", [3600.0, -86_400.0 * 365 * 30])
def test_drift_is_corrected_where_that_is_asked_for(
    kernel: Kernel, simulated_nsm: SimulatedNsm, off: float
) -> None:
    kernel.clock.elapsed = off
    text = run(kernel, simulated_nsm, correct_clock=True)["clock"]
    assert text.endswith("and is set")
    (set_to,) = kernel.set_to
    # The NSM's clock is this machine's, and the test is not an hour old.
    assert abs(set_to - datetime.now(UTC).timestamp()) < 3600


def test_a_small_drift_is_slewed_if_correction_is_asked_for(
    kernel: Kernel, simulated_nsm: SimulatedNsm
) -> None:
    kernel.clock.elapsed = 3.0
    assert run(kernel, simulated_nsm, correct_clock=True)["clock"] == "within 10 s of the NSM's"
    (slewed,) = kernel.slewed
    assert -4.0 < slewed < -2.0
    assert not kernel.set_to


@given(st.floats(-1e5, 1e5))
def test_slewing_hands_the_kernel_a_struct_timeval(seconds: float) -> None:
    seen: list[tuple[int, int]] = []

    def adjtime(delta: Any, old: None) -> int:
        timeval = ctypes.cast(delta, ctypes.POINTER(Timeval)).contents
        seen.append((timeval.tv_sec, timeval.tv_usec))
        return 0

    slew_clock(seconds, _adjtime=adjtime)
    ((whole, micro),) = seen
    assert 0 <= micro < 1_000_000
    assert abs(whole + micro / 1e6 - seconds) < 1e-5


def test_a_kernel_that_refuses_to_slew() -> None:
    def adjtime(*_: object) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    with pytest.raises(PermissionError):
        slew_clock(1.0, _adjtime=adjtime)


def test_within_its_bounds_drift_is_let_be(kernel: Kernel, simulated_nsm: SimulatedNsm) -> None:
    kernel.clock.elapsed = 3600.0
    text = run(kernel, simulated_nsm, max_drift=7200.0)["clock"]
    assert text == "within 7200 s of the NSM's"
    assert not kernel.set_to
    assert not kernel.slewed


@given(
    st.floats(0, 1e6).map(lambda s: timedelta(seconds=s)),
    st.floats(-1e8, 1e8).map(lambda s: timedelta(seconds=s)),
)
def test_what_is_corrected_by_the_drift_is_off_no_more(took: timedelta, off: timedelta) -> None:
    signed = NOW + took / 2 - off
    drift = timedelta(seconds=clock_drift(NOW, signed, NOW + took))
    corrected = clock_drift(NOW - drift, signed, NOW + took - drift)
    assert abs(corrected) < 1e-5
    assert abs(drift) <= abs(off) + took


# Options.


def parsed(*arguments: str) -> BootOptions:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return BootOptions.from_args(parser.parse_args(arguments))


def test_options_have_the_defaults_of_the_arguments() -> None:
    assert parsed() == BootOptions()


def test_every_duty_has_a_switch() -> None:
    assert parsed(
        "--no-seed-from-nsm", "--no-seed-from-kms", "--no-raise-loopback", "--no-check-clock",
        "--correct-clock", "--max-drift", "2.5",
    ) == BootOptions(
        seed_from_nsm=False, seed_from_kms=False, raise_loopback=False, check_clock=False,
        correct_clock=True, max_drift=2.5,
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_drift_that_makes_no_sense(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="drift"):
        BootOptions(max_drift=seconds)


# What the kernel is handed.


def dev_null(path: str, flags: int) -> int:
    assert path == "/dev/random"
    return os.open(os.devnull, flags)


def test_entropy_is_handed_over_in_the_kernels_form_and_wiped() -> None:
    seen: list[tuple[bytes, bytearray]] = []

    def ioctl(_fd: int, request: int, buffer: bytearray, mutate: bool) -> int:
        assert (request, mutate) == (0x40085203, True)
        seen.append((bytes(buffer), buffer))
        return 0

    assert add_entropy(b"\xaa" * 256, _open=dev_null, _ioctl=ioctl) == 1024
    copied, buffer = seen[0]
    assert copied[:8] == struct.pack("=ii", 1024, 256)
    assert copied[8:264] == b"\xaa" * 256
    assert len(copied) > 1024, "else fcntl makes a copy of its own, which nobody wipes"
    assert not any(buffer)


def test_entropy_is_wiped_where_the_kernel_refuses() -> None:
    kept: list[bytearray] = []

    def ioctl(_fd: int, _request: int, buffer: bytearray, _mutate: bool) -> int:
        kept.append(buffer)
        raise PermissionError(errno.EPERM, "x")

    with pytest.raises(PermissionError):
        add_entropy(b"\xaa" * 16, _open=dev_null, _ioctl=ioctl)
    assert not any(kept[0])


@pytest.mark.parametrize("size", [0, 1025])
def test_no_entropy_and_too_much(size: int) -> None:
    with pytest.raises(ConfigurationError, match=r"not 1\.\.1024"):
        add_entropy(bytes(size))


@pytest.mark.parametrize(("before", "raised"), [(0x8, True), (0x9, False), (0x49, False)])
def test_only_the_flag_is_set(before: int, raised: bool) -> None:
    asked: list[tuple[int, int]] = []

    def ioctl(_socket: socket.socket, request: int, ifreq: bytes) -> bytes:
        name, flags = struct.unpack("=16sh22x", ifreq)
        assert name.rstrip(b"\0") == b"lo"
        asked.append((request, flags))
        return struct.pack("=16sh22x", name, before)

    assert raise_loopback(_ioctl=ioctl) is raised
    assert asked == [(SIOCGIFFLAGS, 0), (SIOCSIFFLAGS, before | 1)][: 1 + raised]


# For real.


@pytest.mark.skipif(os.geteuid() != 0, reason="crediting entropy takes CAP_SYS_ADMIN: run as root")
def test_the_kernel_takes_the_entropy() -> None:
    # Of this machine's own generator, so that the credit is no lie.
    try:
        assert add_entropy(os.urandom(256)) == 1024
    except PermissionError:
        pytest.skip("root without CAP_SYS_ADMIN, as in a container: --cap-add SYS_ADMIN")


_IN_A_NAMESPACE = """\
import socket
from enclave.boot.loopback import raise_loopback
print(raise_loopback(), raise_loopback())
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 10).close()
print("connected")
"""


def in_a_namespace(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=TEST_TIMEOUT,
    )


def test_a_loopback_that_is_down_comes_up_and_carries() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: install util-linux")
    if in_a_namespace("true").returncode:
        pytest.skip("no user and network namespaces: see user.max_user_namespaces, or seccomp")
    done = in_a_namespace(sys.executable, "-c", _IN_A_NAMESPACE)
    assert (done.stdout, done.stderr) == ("True False\nconnected\n", "")
