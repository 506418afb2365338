"""``enclave-simulator run`` as a process: what a shell sees of it."""

from __future__ import annotations

import ast
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from tests.enclave_simulator.launcher.rig import namespaces_refused
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

SIMULATOR = [
    sys.executable,
    "-c",
    "import sys; from enclave_simulator.cli import main; sys.exit(main())",
]
RUN = [*SIMULATOR, "run"]
ALONE = [*RUN, "--no-services", "--"]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *words], capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False, **options
    )


def begin(script: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*ALONE, "sh", "-c", script], stdout=subprocess.PIPE, **options)


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def assert_gone(pidfd: int) -> None:
    try:
        assert select.select([pidfd], [], [], TEST_TIMEOUT)[0]
    finally:
        os.close(pidfd)


def test_exit_code_output_and_options_of_the_command() -> None:
    ran = run(
        "--no-services", "--", "sh", "-c", 'test -c /dev/nsm; echo "$@"; exit 7', "-", "--cid"
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "--cid\n", "")


def test_verbose_has_the_way_that_was_chosen() -> None:
    interfaces = ["sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1"]
    host = subprocess.run(interfaces, stdout=subprocess.PIPE, text=True, check=True).stdout
    for options, network, dev in (
        ([], "a network of its own: loopback only", "a /dev of its own: "),
        (["--host-network"], "", "a /dev of its own: "),
        (["--no-namespaces"], "no network of its own: ", "calls with paths are trapped: "),
    ):
        ran = run("--no-services", "--verbose", *options, "--", *interfaces)
        assert ran.returncode == 0
        own = "network of its own: loopback only" in ran.stderr
        assert [name.strip() for name in ran.stdout.split()] == (["lo"] if own else host.split())
        if not namespaces_refused():
            assert dev in ran.stderr
            assert network in ran.stderr


def test_the_nsm_is_the_simulated_one() -> None:
    script = """
import ctypes, fcntl, os, struct
request = ctypes.create_string_buffer(b"\\x6bDescribeNSM", 12)
response = ctypes.create_string_buffer(4096)
raw = struct.pack("QQQQ", ctypes.addressof(request), 12, ctypes.addressof(response), 4096)
fcntl.ioctl(os.open("/dev/nsm", os.O_RDWR), 0xC0200A00, raw)
print(b"-enc" in response.raw)
"""
    ran = run("--no-services", "--", sys.executable, "-c", script)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "True\n", "")


def test_the_parent_offers_a_kms_and_no_real_credentials() -> None:
    script = """
import os, socket, ssl
assert os.environ["NODE_EXTRA_CA_CERTS"] == os.environ["AWS_CA_BUNDLE"]
print({name: os.environ.get("AWS_" + name) for name in (
    "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION",
    "ENDPOINT_URL", "ENDPOINT_URL_KMS", "CONFIG_FILE", "SHARED_CREDENTIALS_FILE")})
vsock = socket.socket(socket.AF_VSOCK)
vsock.settimeout(300)
vsock.connect((3, 8000))
trust = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
with trust.wrap_socket(vsock, server_hostname="kms.eu-west-1.amazonaws.com") as tls:
    print(tls.version())
"""
    real = {"ACCESS_KEY_ID": "AKIAREAL", "SECRET_ACCESS_KEY": "real", "SESSION_TOKEN": "real",
            "PROFILE": "real", "REGION": "eu-west-1", "ENDPOINT_URL": "http://localhost:4566",
            "ENDPOINT_URL_KMS": "http://localhost:4566",
            "CONFIG_FILE": "named"}  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env |= {"AWS_" + name: value for name, value in real.items()}
    ran = run("--", sys.executable, "-c", script, env=env)
    assert (ran.returncode, ran.stderr) == (0, "")
    seen = ast.literal_eval(ran.stdout.splitlines()[0])
    assert seen == {
        "ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
        "SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
        "SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token,
        "PROFILE": None,
        "REGION": "eu-west-1",
        "DEFAULT_REGION": "eu-west-1",
        "ENDPOINT_URL": None,
        "ENDPOINT_URL_KMS": None,
        "CONFIG_FILE": "named",
        "SHARED_CREDENTIALS_FILE": os.devnull,
    }
    assert ran.stdout.splitlines()[1] == "TLSv1.3"


def test_a_service_that_does_not_start_is_told() -> None:
    ran = run("--key", "nonsense", "--", "true")
    assert (ran.returncode, ran.stdout) == (1, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("enclave-simulator: error: no key 'nonsense': ")
    assert hint.startswith("enclave-simulator: hint: write --key alias/NAME")


def test_a_relative_folder_and_a_service_in_it() -> None:
    script = """
import socket
with socket.socket(socket.AF_VSOCK) as client:
    client.connect((3, 9000))
    print(client.recv(10))
"""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/3_9000")
        server.listen()
        command = [*RUN, "--no-services", "--folder", ".", "--", sys.executable, "-c", script]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as ran:
            server.settimeout(TEST_TIMEOUT)
            client, _ = server.accept()
            with client:
                client.sendall(b"hello")
            assert line(ran) == "b'hello'"
            assert ran.wait(TEST_TIMEOUT) == 0


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [("/nonexistent", 127, "is the path right?"), ("/etc/passwd", 126, "may this user"),
     ("no-such-program", 127, "is it in PATH?")],
)  # fmt: skip
def test_a_command_that_cannot_be_run(command: str, code: int, hint: str) -> None:
    ran = run("--no-services", command)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith(f"enclave-simulator: error: cannot run {command}: ")
    assert f"\nenclave-simulator: hint: {hint}" in ran.stderr


def test_a_command_that_is_missing_is_all_that_is_missing() -> None:
    ran = run()
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(
        "enclave-simulator: error: the following arguments are required: COMMAND\n"
    )


@pytest.mark.parametrize("command", [["run"], ["boot"]], ids=str)
@pytest.mark.parametrize("services", [[], ["--no-services"]], ids=str)
def test_a_folder_that_does_not_exist_is_named(
    tmp_path: Path, command: list[str], services: list[str]
) -> None:
    words = [*command, *services, "--folder", f"{tmp_path}/my folder", "true"]
    ran = subprocess.run(
        [*SIMULATOR, *words], capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"enclave-simulator: error: --folder {tmp_path}/my folder: no such folder\n"
        f"enclave-simulator: hint: make it: mkdir -p '{tmp_path}/my folder'\n"
    )


@pytest.mark.parametrize(
    "options",
    [["--cid", "3"], ["--cid", "x"], ["--parent-port", "80"], ["--parent-port", "80=tcp://h:1"],
     ["--folder", "/" + "x" * 100], ["--fault"], []],
)  # fmt: skip
def test_options_that_cannot_be(options: list[str]) -> None:
    ran = run("--no-services", *options, "--", *(["true"] if options else []))
    assert ran.returncode in (1, 2)
    assert "error: " in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--no-services", "--key", "alias/x"], "--key with --no-services"),
        (["--no-services", "--fault", "refuse"], "--fault with --no-services"),
        (["--no-services", "--seed", "1"], "--seed with --no-services"),
        (["--no-services", "--credentials", "parent"], "--credentials parent with --no-services"),
        (["--metadata-hops", "2"], "--metadata-hops without an instance's metadata"),
        (["--folder", "/nonexistent"], "--folder /nonexistent: no such folder"),
        (["--folder", "/etc/passwd"], "--folder /etc/passwd: not a folder"),
    ],
)
def test_options_that_would_have_no_effect(options: list[str], error: str) -> None:
    ran = run(*options, "--", "true")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"enclave-simulator: error: {error}")


def test_a_signal_is_passed_on() -> None:
    with begin("trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.01; done") as ran:
        assert line(ran) == "ready"
        ran.terminate()
        assert line(ran) == "got it"
        assert ran.wait(TEST_TIMEOUT) == 3


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As by nohup(1), and for what a script starts in the background."""
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    ignore += "os.execv(sys.argv[1], sys.argv[1:])"
    script = "echo ready; read line; echo $line"
    command = [sys.executable, "-c", ignore, *ALONE, "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ran:
        assert line(ran) == "ready"
        ran.send_signal(signal.SIGHUP)
        # Behind a SIGHUP that ended the program, it could read nothing.
        assert ran.communicate(b"goes on\n", TEST_TIMEOUT)[0] == b"goes on\n"
        assert ran.returncode == 0


def test_descriptors_of_a_shell_are_the_commands() -> None:
    script = '"$@" sh -c "cat <&7; ls /proc/self/fd" 7<<END\nfrom the shell\nEND\n'
    ran = subprocess.run(
        ["sh", "-c", script, "-", *ALONE], capture_output=True, text=True,
        timeout=TEST_TIMEOUT, check=True,
    )  # fmt: skip
    # The last is what `ls` reads: nothing of the launcher's own is open there.
    text, *descriptors = ran.stdout.splitlines()
    assert (text, descriptors) == ("from the shell", ["0", "1", "2", "3", "7"])


def test_death_by_signal_is_told() -> None:
    with begin("echo ready; exec sleep 600") as ran:
        assert line(ran) == "ready"
        ran.send_signal(signal.SIGHUP)
        assert ran.wait(TEST_TIMEOUT) == 128 + signal.SIGHUP


def test_what_the_command_leaves_behind_is_ended() -> None:
    script = "setsid sh -c 'echo $$; exec sleep 600' & read line"
    with begin(script, stdin=subprocess.PIPE) as ran:
        left_behind = os.pidfd_open(int(line(ran)))
        assert ran.stdin is not None
        ran.stdin.close()
        assert ran.wait(TEST_TIMEOUT) == 1
        assert_gone(left_behind)


def test_nothing_survives_the_launcher() -> None:
    # Killed, it cannot remove its folder either: so that is in one of ours, with a short path.
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "TMPDIR": folder}
        with begin("echo $$; exec sleep 600", env=env) as ran:
            command = os.pidfd_open(int(line(ran)))
            ran.kill()
            assert_gone(command)


def test_the_terminal_interrupts_once() -> None:
    """Ctrl-C reaches the command from the terminal, and not a second time from the launcher."""
    script = """
import os, signal, time
count = 0
def interrupted(*_):
    global count
    count += 1
    # It comes back through the launcher, behind a second SIGINT if there were one.
    os.kill(os.getppid(), signal.SIGUSR1)
def back(*_):
    os.write(1, b"interrupts: %d." % count)  # print may be interrupted, but not called again
    os._exit(0)
signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGUSR1, back)
os.write(1, b"ready")
while True:
    time.sleep(0.05)  # pause() would miss a signal that comes just before it
"""
    # A session leader that opens a terminal is in its foreground.
    take = "import os, sys; os.setsid(); os.close(os.open(os.ttyname(0), os.O_RDWR)); "
    take += "os.execv(sys.argv[1], sys.argv[1:])"
    main, terminal = pty.openpty()
    with open(main, "rb+", buffering=0) as screen, open(terminal, "rb") as tty:  # noqa: PTH123
        command = [sys.executable, "-c", take, *ALONE, sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=tty, stdout=tty, stderr=tty) as ran:
            seen = b""
            while b"ready" not in seen:
                seen += screen.read(1000) or b""
            screen.write(b"\x03")
            while b"." not in seen:
                seen += screen.read(1000) or b""
            assert b"interrupts: 1." in seen
            assert ran.wait(TEST_TIMEOUT) == 0
