"""Each check of ``enclave-parent doctor``, with each verdict that it can have."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parent.credentials.model import Credentials, CredentialsError
from parent.daemon.configuration import Configuration, load_configuration
from parent.doctor import checks
from parent.doctor.checks import Doctor
from parent.doctor.command import report
from parent.doctor.machine import ThisMachine, integer, pool_size, run_command
from parent.eif.errors import EifError
from tests.parent.eif import eifs
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import DialError
from vsock_proxy.service.checkup import Check, Finding, Verdict, examine, failed, passed

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECRET = "the/secret/key"
YAML = """\
credentials: {cids: [16]}
enclaves:
- {name: worker, eif: /opt/worker.eif, memory_mib: 1024, cpus: 2, cid: 16}
operations: {listen: "unix:/run/enclave-parent/operations"}
"""
HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    path = tmp_path / "parent.yaml"
    path.write_text(YAML)
    return load_configuration(path)


def no_such_file() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "No such file or directory")


@dataclass
class FakeMachine:
    """All is well, but for what a test changes."""

    found: Any
    devices: dict[str, bool] = field(
        default_factory=lambda: {checks.DEVICE: True, checks.VSOCK: True}
    )
    files: dict[str, str] = field(
        default_factory=lambda: {
            f"{HUGE}/nr_hugepages": "600\n",
            f"{HUGE}/free_hugepages": "88\n",
            checks.CPU_POOL: "1,5\n",
        }
    )
    commands: dict[str, tuple[int, str] | None] = field(
        default_factory=lambda: {
            "nitro-cli": (0, "Nitro CLI 1.3.1\nmore"),
            "systemctl": (0, "active"),
        }
    )
    no_vsock: OSError | None = None
    image: int | OSError = 1 << 20
    given: Any = field(
        default_factory=lambda: Credentials(
            "ASIA", SECRET, "token", NOW + timedelta(hours=1), "iam-role"
        )
    )
    state: Any = field(default_factory=lambda: {"status": "ok"})
    no_folder: bool = False

    def configuration(self) -> Any:
        return raised_or(self.found)

    def now(self) -> datetime:
        return NOW

    def read(self, path: str) -> str:
        if path not in self.files:
            raise no_such_file()
        return self.files[path]

    def names(self, path: str) -> list[str]:
        if self.no_folder:
            raise no_such_file()
        assert path == checks.HUGE_PAGES
        return ["hugepages-2048kB", "other"]

    def image_size(self, path: Path) -> Any:
        assert path == Path("/opt/worker.eif")
        return raised_or(self.image)

    def may_use(self, path: str) -> bool:
        if path not in self.devices:
            raise no_such_file()
        return self.devices[path]

    def vsock(self) -> None:
        if self.no_vsock:
            raise self.no_vsock

    def command(self, *words: str) -> tuple[int, str] | None:
        return self.commands[words[0]]

    def credentials(self, profile: str | None) -> Any:
        assert profile is None
        return raised_or(self.given)

    def daemon(self, address: Any) -> Any:
        assert str(address) == "unix:/run/enclave-parent/operations"
        return raised_or(self.state)


def raised_or(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def look(machine: FakeMachine) -> dict[str, Finding]:
    return {
        each.name: each.finding for each in examine(Doctor(machine).checks(), timeout=TEST_TIMEOUT)
    }


def test_all_is_well(configuration: Configuration) -> None:
    found = look(FakeMachine(configuration))
    assert {name for name, each in found.items() if each.verdict is not Verdict.PASS} == set()
    assert "hop limit is enough" in found["credentials"].text
    assert "1200 MiB reserved, 176 MiB of them free; the enclaves need 1024" in (
        found["huge pages"].text
    )
    text = repr(found)
    for secret in (SECRET, "token", "ASIA"):
        assert secret not in text


def put(**values: Any) -> Callable[[FakeMachine], None]:
    def change(machine: FakeMachine) -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return change


def files(path: str, text: str | None) -> Callable[[FakeMachine], None]:
    def change(machine: FakeMachine) -> None:
        machine.files.pop(path)
        if text is not None:
            machine.files[path] = text

    return change


def said_by(program: str, done: tuple[int, str] | None) -> Callable[[FakeMachine], None]:
    return lambda machine: machine.commands.update({program: done})


def expiring(seconds: float | None) -> Callable[[FakeMachine], None]:
    at = None if seconds is None else NOW + timedelta(seconds=seconds)
    return put(given=Credentials("ASIA", SECRET, "token", at, "env"))


NO_METADATA = CredentialsError("no response", kind="no-metadata", hint="hop limit")
NO_DAEMON = DialError("unix:/run/x", "No such file or directory")


@pytest.mark.parametrize(
    ("name", "verdict", "said", "change"),
    [
        (checks.DEVICE, "fail", "there is no", put(devices={checks.VSOCK: True})),
        (checks.DEVICE, "fail", "may not use", put(devices={checks.DEVICE: False})),
        ("vsock", "fail", "no AF_VSOCK", put(no_vsock=OSError(errno.EAFNOSUPPORT, "no"))),
        ("vsock", "fail", "not permitted", put(no_vsock=OSError(errno.EPERM, "not permitted"))),
        ("vsock", "warn", "no /dev/vsock", put(devices={checks.DEVICE: True})),
        (
            "vsock",
            "warn",
            "this user may not use",
            put(devices={checks.DEVICE: True, checks.VSOCK: False}),
        ),
        ("nitro-cli", "fail", "not in PATH", said_by("nitro-cli", None)),
        ("nitro-cli", "fail", "exit code 1: oh", said_by("nitro-cli", (1, "oh"))),
        ("allocator", "fail", "is failed", said_by("systemctl", (3, "failed"))),
        ("allocator", "fail", "is inactive", said_by("systemctl", (3, "inactive"))),
        ("allocator", "fail", "there is no", said_by("systemctl", (4, "inactive"))),
        ("allocator", "skip", "no systemctl", said_by("systemctl", None)),
        ("allocator", "skip", "does not tell", said_by("systemctl", (1, "System has not"))),
        ("huge pages", "fail", "need 1024 MiB", files(f"{HUGE}/nr_hugepages", "500")),
        ("huge pages", "skip", "cannot be read", put(no_folder=True)),
        ("CPU pool", "fail", "1 CPUs", files(checks.CPU_POOL, "3\n")),
        ("CPU pool", "fail", "there is no", files(checks.CPU_POOL, None)),
        ("CPU pool", "skip", "not a list", files(checks.CPU_POOL, "many")),
        ("images", "fail", "cannot read", put(image=PermissionError(13, "Permission denied"))),
        ("images", "fail", "too few", put(image=1 << 30)),
        (
            "images",
            "fail",
            "/opt/worker.eif: not a valid enclave image: no magic",
            put(image=EifError("no magic", offset=0)),
        ),
        ("credentials", "fail", "no response", put(given=NO_METADATA)),
        ("credentials", "warn", "1 min left", expiring(61)),
        ("credentials", "pass", "not known", expiring(None)),
        ("daemon", "warn", "does not run", put(state=NO_DAEMON)),
        ("daemon", "fail", "degraded", put(state={"status": "degraded"})),
    ],
)
def test_findings(
    name: str,
    verdict: str,
    said: str,
    change: Callable[[FakeMachine], None],
    configuration: Configuration,
) -> None:
    machine = FakeMachine(configuration)
    change(machine)
    found = look(machine)[name]
    assert found.verdict.value == verdict, found
    assert said in found.text
    assert found.hint or verdict in ("pass", "skip") or "cannot read" in said or "oh" in said


@pytest.mark.parametrize(
    ("name", "verdict", "said", "change"),
    [
        ("nitro-cli", "warn", "not in PATH", said_by("nitro-cli", None)),
        ("huge pages", "warn", "none is reserved", files(f"{HUGE}/nr_hugepages", "0")),
        ("CPU pool", "warn", "no CPU", files(checks.CPU_POOL, "\n")),
        ("images", "skip", "no enclaves", put()),
        ("credentials", "skip", "no section", put()),
        ("daemon", "skip", "no section", put()),
    ],
)
def test_what_a_configuration_does_not_need(
    name: str, verdict: str, said: str, change: Callable[[FakeMachine], None]
) -> None:
    machine = FakeMachine(Configuration())
    change(machine)
    found = look(machine)[name]
    assert (found.verdict.value, said in found.text) == (verdict, True), found


def test_every_image_and_every_cpu_is_told(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(
        "enclaves:\n"
        f"- {{name: a, eif: {tmp_path}/root.tar, memory_mib: 64, cpus: [1, 5, 7], cid: 16}}\n"
        f"- {{name: b, eif: {tmp_path}/none, memory_mib: 64, cpus: [2], cid: 17}}\n"
    )
    (tmp_path / "root.tar").write_bytes(b"no image" * 200)
    machine = FakeMachine(None, files={checks.CPU_POOL: "0-1,3,6-9"})
    this = ThisMachine(tmp_path / "parent.yaml")
    machine.configuration = this.configuration  # type: ignore[method-assign]
    machine.image_size = this.image_size  # type: ignore[method-assign]
    found = look(machine)
    assert "root.tar: not a valid enclave image: it does not start with '.eif'" in (
        found["images"].text
    )
    assert f"enclave b: cannot read {tmp_path}/none: No such file" in found["images"].text
    assert "not among them: 2 (of b), 5 (of a)" in found["CPU pool"].text


def test_an_image_is_measured_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.eif").write_bytes(eifs.eif())
    size = ThisMachine(tmp_path / "parent.yaml").image_size(tmp_path / "a.eif")
    assert size == len(eifs.eif())


def test_an_error_of_the_system_names_its_file() -> None:
    def look() -> Finding:
        Path("/no/such/file").read_text()
        return passed("")

    (found,) = examine([Check("it", look)], timeout=TEST_TIMEOUT)
    assert found.finding == failed("/no/such/file: No such file or directory")


def test_every_mistake_of_the_configuration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "parent.yaml"
    path.write_text("enclaves:\n- {name: a, eif: /a, memory_mib: x, cpus: 2, cid: 1}\n")
    machine = FakeMachine(None)
    machine.configuration = ThisMachine(path).configuration  # type: ignore[method-assign]
    found = look(machine)
    assert found["configuration"].verdict is Verdict.FAIL
    assert "memory_mib" in found["configuration"].text
    assert "cid" in found["configuration"].text
    assert found["images"] == Finding(Verdict.SKIP, "needs: configuration")


def test_the_command(configuration: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(FakeMachine(configuration), as_json=False) == 0
    table = capsys.readouterr().out
    assert table.startswith("CHECK ")
    assert "nitro-cli            pass  Nitro CLI 1.3.1\n" in table

    machine = FakeMachine(configuration, devices={})
    assert report(machine, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "fail"


def test_commands_are_bounded() -> None:
    assert run_command(["no-such-program-anywhere"]) is None
    assert run_command(["sh", "-c", "echo told; exit 3"]) == (3, "told")
    with pytest.raises(OSError, match="had not ended"):
        run_command(["sleep", "1000"], timeout=0.1)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("3", 1), ("1,5", 2), ("2-5,7\n", 5)])
def test_lists_of_cpus(text: str, count: int) -> None:
    assert pool_size(text) == count


def test_numbers_of_the_kernels_files() -> None:
    assert (integer("12\n"), integer("")) == (12, 0)
