"""``enclave-agent serve`` as a process in a simulated enclave, and the AWS CLI as it comes."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.chain.serving import chain
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT, eventually, listens

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
    "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
    "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
}
REQUEST = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: TrentService.GenerateRandom\r\n"
    b'Content-Length: 20\r\n\r\n{"NumberOfBytes":32}'
)
AWS = Path(sys.executable).with_name("aws")
SERVE = (*AGENT, "serve")


pytestmark = pytest.mark.skipif(not AWS.exists(), reason="no AWS CLI: pip install -e '.[dev]'")


def test_the_documented_pipeline_with_the_unmodified_aws_cli() -> None:
    """The issue's own words, with a free port; the shell waits until KMS can be reached."""
    url = f"http://127.0.0.1:{unused_port()}"
    wait = (sys.executable, "-c", _UNTIL_READY, f"{url}/readyz")
    script = f"""
        {shlex.join(SERVE)} --listen tcp{url[4:]} &
        {shlex.join(wait)} || exit
        {AWS} kms generate-random --number-of-bytes 32 --endpoint-url {url} \
            --output text --query Plaintext | base64 --decode | wc -c
    """
    done = run(*SIMULATOR, "--", "sh", "-c", script)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("32", "", 0)


_UNTIL_READY = """
import sys, time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen(sys.argv[1], timeout=10)
        sys.exit()
    except OSError as e:
        time.sleep(0.1)
sys.exit(f"not ready: {e}")
"""


def test_around_a_program_that_needs_to_know_nothing() -> None:
    script = f"{AWS} kms generate-random --number-of-bytes 32 --output text; exit 7"
    credentials = (sys.executable, "-c", _ONLY_THE_AGENT_HAS_CREDENTIALS)
    command = (*SERVE, "--listen", "tcp://127.0.0.1:0", "--pool", "--", *credentials, script)
    done = run(*SIMULATOR, "--", *command)
    assert (len(done.stdout.strip()), done.stderr, done.returncode) == (44, "", 7)


_ONLY_THE_AGENT_HAS_CREDENTIALS = """
import os, sys
os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "anything"
os.execlp("sh", "sh", "-c", sys.argv[1])
"""


def test_the_aws_cli_shows_the_error_of_kms() -> None:
    aws = (str(AWS), "kms", "generate-random", "--number-of-bytes", "32")
    done = run(
        *SIMULATOR, "--fault", "refuse", "--", *SERVE, "--listen", "tcp://127.0.0.1:0", "--", *aws
    )
    assert done.returncode in (254, 255), "version 2 of the AWS CLI, and version 1"
    assert (
        "(AccessDeniedException) when calling the GenerateRandom operation: User: " in done.stderr
    )
    assert done.stdout == ""


def test_a_program_is_not_run_where_no_call_would_succeed() -> None:
    done = run(*SERVE, "--listen", "tcp://127.0.0.1:0", "--region", "us-east-1", "--", "echo", "x")
    if Path("/dev/nsm").exists():
        pytest.skip("there is a real /dev/nsm")
    assert (done.stdout, done.returncode) == ("", 255)
    assert "enclave-agent: error: cannot open /dev/nsm" in done.stderr


def test_a_program_that_has_to_wait_for_kms_is_told_of() -> None:
    """The parent may start its proxy after the enclave."""
    with chain() as made:
        made.proxy.kill()
        listen = f"tcp://127.0.0.1:{unused_port()}"
        with made.launcher.start(
            [*SERVE, "--listen", listen, "--no-seed-from-kms", "--", "echo", "done"],
            env=made.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as session:  # fmt: skip
            stdout, stderr = session.process.stdout, session.process.stderr
            assert stdout
            assert stderr
            waits = b"enclave-agent: waiting for KMS, up to 60 s: KMS cannot be reached: "
            assert any(line.startswith(waits) for line in iter(stderr.readline, b""))
            made.proxy.start()
            assert (stdout.read(), session.wait(TEST_TIMEOUT)) == (b"done\n", 0)
            assert waits not in stderr.read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "tcp://0.0.0.0:8009"), "whoever can connect is given secrets"),
        (("--listen", "vsock://any:8009"), "whoever can connect is given secrets"),
        (("--listen", "tcp://localhost:8009"), "whoever can connect is given secrets"),
        (("--listen", "nowhere"), "not an address"),
        (("--listen", "unix:/tmp/x", "--", "true"), "no SDK finds a UNIX socket"),
        (("--max-clients", "0"), "--max-clients is not in 1..65536"),
        (("--deadline", "0"), "the deadline is 0 s"),
        (("--region", "us-east-1"), "--region us-east-1: given twice"),
        (("--region", "=tcp://127.0.0.1:1"), "no region"),
        (
            ("--region", "eu-west-1", "--endpoint-url", "https://kms.example"),
            "an endpoint URL is that of one region",
        ),
        (("--listen", "tcp://127.0.0.1:0", "--pool", "--pool-size", "1"), "a pool of 1 bytes"),
        (("--pool-size", "4096"), "--pool-size without --pool"),
        (("--correct-clock", "--no-check-clock"), "--correct-clock without --check-clock"),
        (("--egress-listen", "tcp://127.0.0.1:1"), "--egress-listen without --egress"),
        (("--egress-proxy", "vsock://3:9"), "--egress-proxy without --egress"),
        (("--ingress-tls-clients", "1"), "--ingress-tls-clients without --ingress-tls"),
        (("--ingress-tls-rate", "1"), "--ingress-tls-rate without --ingress-tls"),
        (("--log-also-stderr",), "--log-also-stderr without --log-to"),
        (("--log-buffer", "100000"), "--log-buffer without --log-to"),
        (("--log-flush", "1"), "--log-flush without --log-to"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: tuple[str, ...], message: str) -> None:
    done = run(*SERVE, "--region", "us-east-1", *options)
    assert message in done.stderr
    # As enclave/cli/errors.py has it: a number that can be read and not used is 255.
    expected = 255 if options[0] == "--deadline" else 252
    assert (done.stdout, done.returncode) == ("", expected)
    assert [line.split(": ")[1] for line in done.stderr.splitlines()[-2:]] == ["error", "hint"]


def test_an_address_in_use_is_one_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        done = run(*SERVE, "--region", "us-east-1", "--listen", address)
    assert f"cannot listen on {address}: Address already in use" in done.stderr
    assert done.returncode == 255


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "kms.sock"
    # What the programs beside it are told is not where the agent itself shall go.
    environ = {"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:8009", "AWS_REGION": "us-east-1"}
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.socket(socket.AF_UNIX) as client,
    ):
        for name, value in environ.items():
            patch.setenv(name, value)
        with Service("enclave.cli", ["serve", "--listen", f"unix:{path}"]) as service:
            assert service.state["STATUS"] == f"listening on unix:{path}"
            client.settimeout(TEST_TIMEOUT)
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            os.kill(service.process.pid, number)
            assert client.recv(1) == b""
            assert service.process.wait(TEST_TIMEOUT) == 0
    assert not path.exists()


def test_the_program_gets_the_signal_and_decides() -> None:
    script = 'trap "exit 9" TERM; kill -TERM $PPID; while :; do sleep 0.1; done'
    done = run(*SIMULATOR, "--", *SERVE, "--listen", "tcp://127.0.0.1:0", "--", "sh", "-c", script)
    assert (done.stderr, done.returncode) == ("", 9)


def test_nothing_goes_to_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The AWS CLI would send the plaintext there: it obeys HTTP_PROXY for 127.0.0.1 as well."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        aws = (str(AWS), "kms", "generate-random", "--number-of-bytes", "32", "--output", "text")
        serve = (*SERVE, "--listen", "tcp://127.0.0.1:0")
        done = run(*SIMULATOR, "--host-network", "--", *serve, "--", *aws)
        assert (len(done.stdout.strip()), done.stderr, done.returncode) == (44, "", 0)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    ("variables", "command", "warning"),
    [
        ({"HTTP_PROXY": "http://p"}, (), "HTTP_PROXY is set: programs that have it too"),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "127.0.0.1"}, (), ""),
        ({"HTTP_PROXY": "http://p"}, ("--", "true"), ""),
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ("--", "true"), "ignore AWS_ENDPOINT"),
    ],
)
def test_variables_that_lead_past_the_endpoint_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    command: tuple[str, ...],
    warning: str,
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"  # so that it ends at once
        done = run(*SERVE, "--region", "us-east-1", "--listen", address, *command)
    assert done.returncode == 255
    assert warning in done.stderr
    assert bool(warning) == ("is set" in done.stderr)


def test_clients_of_two_regions_and_of_a_third() -> None:
    command = (sys.executable, "-c", _REGIONS)
    regions = ("--region", "us-east-1", "--region", "eu-west-1")
    done = run(*SIMULATOR, "--", *SERVE, *regions, "--listen", "tcp://127.0.0.1:0", "--", *command)
    assert (done.stderr, done.returncode) == ("", 0)
    first, second, third = done.stdout.splitlines()
    assert first.startswith("arn:aws:kms:us-east-1:")
    assert second.startswith("arn:aws:kms:eu-west-1:")
    assert "(EnclaveRegionException)" in third
    assert "signed for ap-south-1, and this endpoint serves us-east-1, eu-west-1" in third


_REGIONS = """
import boto3
from botocore.exceptions import ClientError
for region in (None, "eu-west-1", "ap-south-1"):
    try:
        print(boto3.client("kms", region_name=region).create_key()["KeyMetadata"]["Arn"])
    except ClientError as e:
        print(e)
"""


def test_more_clients_than_descriptors_leave_a_few_lines(tmp_path: Path) -> None:
    path, log = tmp_path / "kms.sock", tmp_path / "log"
    serve = shlex.join([*SERVE, "--region", "us-east-1", "--listen", f"unix:{path}"])
    command = ["sh", "-c", f"ulimit -n 64; exec {serve}"]
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stderr=written) as process,
        contextlib.ExitStack() as clients,
    ):
        try:
            eventually(lambda: listens(path))
            for _ in range(200):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(TEST_TIMEOUT)
                client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 503 ")
            clients.close()

            def is_healthy() -> bool:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(TEST_TIMEOUT)
                    client.connect(str(path))
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n")
                    return client.recv(65_536).startswith(b"HTTP/1.1 200 ")

            eventually(is_healthy)
        finally:
            process.terminate()
            assert process.wait(TEST_TIMEOUT) == 0
    lines = log.read_text().splitlines()
    assert (
        "enclave-agent: 64 file descriptors (ulimit -Hn) are enough for 24 clients, not for 256"
        in lines
    )
    assert all(line.startswith("enclave-agent: ") for line in lines)
    assert len(lines) < 20


@pytest.mark.parametrize("options", [(), ("--pool",)])
def test_the_end_does_not_wait_for_calls_that_wait_for_kms(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A call takes ten times as long as the end may: nothing is released before it."""
    authority = Authority.generate()
    launcher = Launcher(nsm=SimulatedNsm(authority), folder=tmp_path)
    port, seconds = unused_port(), str(10 * TEST_TIMEOUT)
    argv = [*SERVE, "--listen", f"tcp://127.0.0.1:{port}", "--deadline", seconds, *options]
    argv += ["--region", "us-east-1", "--cli-connect-timeout", seconds, "--no-seed-from-kms"]
    with contextlib.ExitStack() as held:
        silent = held.enter_context(socket.socket(socket.AF_UNIX))
        silent.bind(str(tmp_path / "3_8000"))
        silent.listen()
        silent.settimeout(TEST_TIMEOUT)
        env = {**os.environ, **ENVIRONMENT}
        session = held.enter_context(launcher.start(argv, env=env))
        if not options:
            client = held.enter_context(_connected(port))
            client.sendall(REQUEST)
        held.enter_context(silent.accept()[0])  # and no byte on it
        session.process.send_signal(signal.SIGTERM)
        eventually(lambda: not _accepts(port))
        session.process.send_signal(signal.SIGTERM)  # which leaves calls no time to end
        assert session.process.wait(TEST_TIMEOUT) == 0


def _connected(port: int) -> socket.socket:
    eventually(lambda: _accepts(port))
    return socket.create_connection(("127.0.0.1", port), TEST_TIMEOUT)


def _accepts(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), TEST_TIMEOUT).close()
        return True
    return False
