"""nitro-cli's language, its settings, and running it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.enclaves import nitro_cli
from parent.enclaves.nitro_cli import Enclave, NitroCliError
from parent.enclaves.runner import MAX_OUTPUT, Subprocess, passed_environment
from parent.enclaves.settings import EnclaveSettings, Restart, check_memory, read_enclaves_section
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.net.addresses import VsockAddress
from vsock_proxy.service.settings import parse_settings

WHOLE = """\
- name: worker
  eif: /opt/worker.eif
  memory_mib: 512
  cpus: 2
  cid: 16
  debug: true
  poll: 2 s
  restart: {policy: never, first: 2 s, longest: 1 min, reset_after: 1 h, give_up_after: 5}
- name: other
  eif: /opt/other.eif
  memory_mib: 256
  cpus: [1, 3]
  cid: 17
  agent: vsock://17:8010
  stop_timeout: 20 s
"""

DESCRIBED = {
    "EnclaveName": "worker",
    "EnclaveID": "i-05f6ed443aEXAMPLE-enc173dfe3eEXAMPLE".replace("EXAMPLE", "abcdef0"),
    "ProcessID": 7077,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "CPUIDs": [1, 3],
    "MemoryMiB": 512,
    "State": "RUNNING",
    "Flags": "DEBUG_MODE",
    "Measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": "ab" * 48},
}


def read(text: str) -> tuple[EnclaveSettings, ...]:
    return read_enclaves_section(parse_settings(text.encode(), source="parent.yaml"))


def test_the_section_is_read() -> None:
    worker, other = read(WHOLE)
    assert worker == EnclaveSettings(
        name="worker",
        eif=Path("/opt/worker.eif"),
        memory_mib=512,
        cid=16,
        cpu_count=2,
        debug=True,
        poll=2,
        restart=Restart(always=False, first=2, longest=60, reset_after=3600, give_up_after=5),
    )
    assert other.cpu_ids == (1, 3)
    assert other.restart == Restart()
    assert (other.agent, other.stop_timeout) == (VsockAddress(17, 8010), 20)
    assert worker.agent is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  cid: 17", "  cid: 16", "9: worker and other have the same CID 16"),
        ("vsock://17:8010", "vsock://16:8010", "14: agent: not a vsock address of this enclave"),
        ("vsock://17:8010", "vsock://any:8010", "14: agent: not a vsock address of this enclave"),
        ("vsock://17:8010", "tcp://127.0.0.1:1", "14: agent: not a vsock address"),
        ("agent: vsock://17:8010", "", "15: stop_timeout: without `agent`"),
        ("stop_timeout: 20 s", "stop_timeout: 1 h", "15: stop_timeout: "),
        ("cid: 17", "cid: 3", "13: cid: 3 cannot be"),
        ("cid: 17", "cid: 4294967295", "13: cid: 4294967295 cannot be"),
        ("cid: 17", "", "9: key 'cid' is missing"),
        ("name: other", "name: worker", "9: two enclaves with the name worker"),
        ("name: other", "name: -o", "9: name: '-o' is not a valid name"),
        ("eif: /opt/other", "eif: other", "10: eif: not an absolute path"),
        ("cpus: [1, 3]", "cpus: [1, 1]", "12: cpus: one CPU twice"),
        ("cpus: [1, 3]", "cpus: [0, 3]", "12: cpus: '0' is not an integer"),
        ("cpus: [1, 3]", "cpus: []", "12: cpus: no CPU"),
        ("cpus: 2", "cpus: [3]", "9: worker and other share CPU 3"),
        ("first: 2 s", "first: 2 min", "8: longest: shorter than the first"),
        ("policy: never", "policy: sometimes", "8: policy: 'sometimes' is not one of:"),
    ],
)
def test_invalid_settings_are_rejected_with_their_line(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigurationError) as e:
        read(WHOLE.replace(old, new))
    assert str(e.value).startswith(f"parent.yaml:{said}")


def test_memory_is_four_times_the_image() -> None:
    worker, _ = read(WHOLE)
    check_memory(worker, 128 << 20)
    with pytest.raises(ConfigurationError) as e:
        check_memory(worker, (128 << 20) + 1)
    assert "memory_mib to 516 or more" in e.value.hint


def test_arguments_are_nitro_clis() -> None:
    worker, other = read(WHOLE)
    assert nitro_cli.run_arguments(worker) == [
        "run-enclave",
        "--enclave-name",
        "worker",
        "--eif-path",
        "/opt/worker.eif",
        "--memory",
        "512",
        "--cpu-count",
        "2",
        "--enclave-cid",
        "16",
        "--debug-mode",
    ]
    assert nitro_cli.run_arguments(other) == [
        "run-enclave",
        "--enclave-name",
        "other",
        "--eif-path",
        "/opt/other.eif",
        "--memory",
        "256",
        "--cpu-ids",
        "1",
        "3",
        "--enclave-cid",
        "17",
    ]
    assert nitro_cli.run_timeout(worker, 100 << 20) == 240
    assert nitro_cli.run_timeout(worker, 7 << 30) == 360


def test_output_is_parsed() -> None:
    (found,) = nitro_cli.parse_describe(json.dumps([DESCRIBED]).encode())
    assert found == Enclave(
        str(DESCRIBED["EnclaveID"]), "worker", 16, (1, 3), 512, "RUNNING", debug=True,
        pcr0="ab" * 48,
    )  # fmt: skip
    assert nitro_cli.parse_describe(b"[]\n") == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"EnclaveID": "--all"},
        {"EnclaveID": 7},
        {"EnclaveCID": "16"},
        {"EnclaveCID": True},
        {"EnclaveCID": -1},
        {"CPUIDs": 3},
        {"CPUIDs": [None]},
        {"MemoryMiB": 0.5},
        {"Measurements": []},
        {"State": None},
        {"EnclaveName": "x" * 300},
    ],
)
def test_unexpected_output_is_rejected(changes: dict[str, object]) -> None:
    with pytest.raises(NitroCliError, match="unexpected"):
        nitro_cli.parse_run(json.dumps({**DESCRIBED, **changes}).encode())


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(sorted(DESCRIBED)), inner, max_size=9),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_output_raises_nitro_cli_error_alone(data: bytes) -> None:
    for parse in (nitro_cli.parse_run, nitro_cli.parse_describe):
        with contextlib.suppress(NitroCliError):
            parse(data)


def test_the_cause_is_reported_not_its_consequence() -> None:
    stderr = (
        b"Start allocating memory...\n[ E27 ] Insufficient memory available. User provided `memory`"
        b" is 5000 MB\x1b[31m, which\nYou can ...\n\nFor more details, please visit https://docs\n"
        b"Failed connections: 1\n[ E39 ] Enclave process connection failure.\n"
    )
    e = nitro_cli.failure("run-enclave", 39, stderr)
    assert e.code == "E27"
    assert str(e) == (
        "nitro-cli run-enclave: E27: Insufficient memory available. User provided `memory` is"
        " 5000 MB?[31m, which"
    )
    assert "memory_mib" in e.hint
    assert nitro_cli.failure("x", 39, b"[ E39 ] Enclave process connection failure.").code == "E39"
    assert nitro_cli.failure("x", 7, b"").code == "E07"
    assert nitro_cli.failure("x", 2, b"error: bad argument\n\nUsage: nitro-cli").code == ""
    assert nitro_cli.failure("x", -9, b"").code == ""
    assert set(nitro_cli.HINTS) <= {f"E{n:02}" for n in range(61)}


STDERR = """\
Start allocating memory...
[ {code} ] {text}

For more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html

If you open a support ticket, please provide the error log found at "/var/log/nitro_enclaves/a.log"
Failed connections: 1
[ E39 ] Enclave process connection failure. Such error appears when the enclave manager fails to \
connect to at least one enclave process for retrieving the description information.

If you open a support ticket, please provide the error log found at "/var/log/nitro_enclaves/b.log"
"""


@pytest.mark.parametrize(
    ("code", "text", "told", "hints"),
    [
        (
            "E19",
            (
                "File operation failure. Such error appears when the system fails to perform the "
                "requested file operations, such as opening the EIF file.\n"
                "File: '/opt/w.eif', failing operation: 'Open'."
            ),
            "File operation failure. File: '/opt/w.eif', failing operation: 'Open'.",
            ["/dev/nitro_enclaves", "a.log"],
        ),
        (
            "E35",
            "EIF file parsing error. Such errors appear when attempting to fill a memory region.",
            "EIF file parsing error.",
            ["huge pages", "memory_mib", "describe-eif", "a.log"],
        ),
        (
            "E27",
            (
                "Insufficient memory available. User provided `memory` is 4096 MB, which is more "
                "than the available hugepage memory.\nYou can increase the memory by editing"
            ),
            (
                "Insufficient memory available. User provided `memory` is 4096 MB, which is more "
                "than the available hugepage memory."
            ),
            ["huge pages", "allocator.yaml"],
        ),
        (
            "E29",
            "Ioctl failure. Such error is used as a general ioctl error and appears whenever",
            "Ioctl failure.",
            ["see /var/log/nitro_enclaves/a.log for the ioctl"],
        ),
        ("E16", "Thread join failure. Such error appears", "Thread join failure.", ["a.log"]),
    ],
)
def test_the_useful_line_is_kept(code: str, text: str, told: str, hints: list[str]) -> None:
    """What nitro-cli tells of this case, not what it tells of the code in general."""
    e = nitro_cli.failure("run-enclave", 39, STDERR.format(code=code, text=text).encode())
    assert str(e) == f"nitro-cli run-enclave: {code}: {told}"
    for hint in hints:
        assert hint in e.hint
    assert "b.log" not in e.hint


def test_the_last_link_alone_names_memory_and_huge_pages() -> None:
    stderr = STDERR.format(code="E00", text="").encode()
    e = nitro_cli.failure("describe-enclaves", 39, stderr[stderr.index(b"[ E39 ]") :])
    assert str(e).endswith("E39: Enclave process connection failure.")
    assert "memory" in e.hint
    assert "huge pages" in e.hint
    assert "/var/log/nitro_enclaves/b.log" in e.hint


@given(st.binary(max_size=300) | st.lists(st.sampled_from(
    [b"[ E19 ] ", b"[ E39 ]", b"\n", b"\n\n", b"x", b'"/a.log"', b"\x1b[31m", b" Such error "]
)).map(b"".join))  # fmt: skip
def test_whatever_nitro_cli_prints_makes_one_printable_line(stderr: bytes) -> None:
    e = nitro_cli.failure("run-enclave", 39, stderr)
    assert f"{e}{e.hint}".isprintable()
    assert len(str(e)) < 500


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "nitro-cli"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_output_and_status_come_back(tmp_path: Path) -> None:
    program = script(
        tmp_path, "print(sys.argv[1:], sys.stdin.read()); print('e', file=sys.stderr); sys.exit(7)"
    )
    done = Subprocess(program).run(["a b", "$(id)"], 30)
    assert (done.status, done.stdout, done.stderr) == (7, b"['a b', '$(id)'] \n", b"e\n")


def test_credentials_are_not_passed_on() -> None:
    environment = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "NITRO_CLI_SOCKETS_PATH": "/s"}
    assert set(passed_environment(environment)) == {"PATH", "NITRO_CLI_SOCKETS_PATH"}


def test_nitro_cli_is_not_installed() -> None:
    with pytest.raises(NitroCliError, match="cannot run /no/nitro-cli: No such file"):
        Subprocess("/no/nitro-cli").run(["describe-enclaves"], 1)


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    program = script(tmp_path, "time.sleep(1000)")
    with pytest.raises(NitroCliError, match="timed out"):
        Subprocess(program).run(["describe-enclaves"], 0.2)


def test_a_command_that_prints_too_much_is_killed(tmp_path: Path) -> None:
    program = script(tmp_path, "while True: os.write(2, b'x' * 65536)")
    with pytest.raises(NitroCliError, match=f"over {MAX_OUTPUT} bytes"):
        Subprocess(program).run(["describe-enclaves"], 30)


def test_a_daemon_that_keeps_the_pipes_open_is_not_waited_for(tmp_path: Path) -> None:
    """Its pipes are open for as long as it lives; the command itself has ended."""
    gone = tmp_path / "gone"
    os.mkfifo(gone)
    program = script(
        tmp_path,
        "print('started', flush=True)\n"
        f"if os.fork() == 0:\n    os.setsid(); open({str(gone)!r}).read()",
    )
    done = Subprocess(program).run(["run-enclave"], 30)
    assert done.stdout == b"started\n"
    with gone.open("w"):
        pass


def test_cancelling(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    program = script(tmp_path, f"open({str(started)!r}, 'w').close(); time.sleep(1000)")
    runner = Subprocess(program)
    failed: list[AgentError] = []

    def run() -> None:
        try:
            runner.run(["run-enclave"], 60)
        except AgentError as e:
            failed.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    with started.open():
        pass
    runner.cancel()
    thread.join(30)
    assert "cancelled" in str(failed[0])
    with pytest.raises(NitroCliError, match="cancelled: shutting down"):
        runner.run(["run-enclave"], 1)
