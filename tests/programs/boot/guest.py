"""What the boot test runs inside: the agent on a real kernel's /dev/nsm and AF_VSOCK.

Every check prints a line that begins with ``boot-test:``; the first that fails ends it, and the
exit code tells the host (`first`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.attestation.document import parse
from enclave.nsm import Nsm
from enclave.nsm.device import DevNsm
from tests.programs.boot.ports import DOCUMENT_PORT, ECHO_PORT, GUEST_PORT
from tests.programs.boot.traffic import serve

if TYPE_CHECKING:
    from collections.abc import Callable

PARENT = 3
LOCAL = 1  # VMADDR_CID_LOCAL: this kernel's own loopback
MUCH = 4 << 20


def slowness() -> float:
    """Return how many times slower than usual this machine is, 1 at least.

    By the seconds from the kernel's start to here, of which there are `USUAL` where little else
    runs: emulation beside ten other programs is ten times slower, and no fault.
    """
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(1.0, uptime / USUAL)


def unit() -> float:
    """Return the seconds that a fixed piece of work takes now."""
    begun = time.monotonic()
    sum(range(200_000))
    return time.monotonic() - begun


USUAL = 10.0
SLOWNESS = slowness()
UNIT = min(unit() for _ in range(5))


def run(command: list[str], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that takes so many seconds at most where little else runs.

    Time counts less while the machine is slower than at the start, which others can make it at any
    moment.
    """
    left = seconds * SLOWNESS
    with subprocess.Popen(command, text=True, **options) as process:
        while True:
            begun = time.monotonic()
            try:
                out, err = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - begun
                left -= elapsed / max(1.0, unit() / UNIT)
                if left < 0:
                    process.kill()
                    print(*(each for each in process.communicate() if each), flush=True)
                    raise
            else:
                return subprocess.CompletedProcess(command, process.returncode, out, err)


PATIENT = [f"--cli-connect-timeout={10 * SLOWNESS:.0f}", f"--cli-read-timeout={20 * SLOWNESS:.0f}"]
"""The agent's own timeouts, likewise."""


def connect(port: int, cid: int = PARENT) -> socket.socket:
    connecting = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    connecting.settimeout(60 * SLOWNESS)
    connecting.connect((cid, port))
    return connecting


def read_all(end: socket.socket) -> bytes:
    parts = []
    while part := end.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def served() -> str:
    """An unmodified SDK's call, through the local endpoint, whose boot duties come before it."""
    loopback = Path("/sys/class/net/lo/flags")
    assert loopback.read_text().strip() == "0x8", "lo is up, though nobody raised it"
    command = [sys.executable, "-m", "enclave.cli", "serve", "--verbose", *PATIENT, "--",
               sys.executable, "-c", SDK_CLIENT]  # fmt: skip
    done = run(command, 100, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    print(done.stderr, end="", flush=True)
    assert done.returncode == 0, f"serve ended with {done.returncode}"
    for duty in ("entropy from the NSM: 256 bytes mixed in, 1024 bits", "loopback: lo was down"):
        assert duty in done.stderr, duty
    assert loopback.read_text().strip() == "0x9", "lo is down"
    return done.stdout.strip()


SDK_CLIENT = """
import botocore.session
kms = botocore.session.get_session().create_client(
    "kms", aws_access_key_id="anything", aws_secret_access_key="anything"
)
plaintext = kms.generate_random(NumberOfBytes=32)["Plaintext"]
assert len(plaintext) == 32
print("botocore got", len(plaintext), "bytes from", kms.meta.endpoint_url)
"""


def main_job() -> str:
    command = [
        sys.executable, "-m", "enclave.cli", "generate-random", "--number-of-bytes", "32",
        "--verbose", *PATIENT,
    ]  # fmt: skip
    print("boot-test: $ enclave-agent generate-random --number-of-bytes 32 --verbose", flush=True)
    done = run(command, 100)
    assert done.returncode == 0, f"generate-random ended with {done.returncode}"
    return "answered by KMS on the host"


def nsm_contract() -> str:
    """The suite that every NSM device must pass, over this kernel's driver."""
    return passed("tests/contracts/test_nsm_device.py", "-k", "DevNsm")


def vsock_tests() -> str:
    """Each call in each state, dialing, listening and relaying, over this kernel's AF_VSOCK."""
    return passed(*VSOCK_TESTS, TEST_OVER_VSOCK="1")


VSOCK_TESTS = [
    f"tests/{name}.py"
    for name in (
        "contracts/test_vsock",
        "vsock_proxy/net/test_dialing",
        "vsock_proxy/relay/test_relay",
        "vsock_proxy/relay/test_relay_trouble",
        "vsock_proxy/proxy/test_daemon",
        "vsock_proxy/proxy/test_vsock",
    )
]


def passed(*arguments: str, **environment: str) -> str:
    """Run tests of the project on this console; none may fail, and some must run."""
    print("boot-test: $ pytest", *arguments, flush=True)
    command = [sys.executable, "-m", "pytest", "--no-header", "-p", "no:cacheprovider", *arguments]
    done = run(command, 300, cwd="/opt/agent", env={**os.environ, **environment, "NO_COLOR": "1"})
    assert done.returncode == 0, f"pytest ended with {done.returncode}"
    return "all passed"


def launcher_tests() -> str:
    """The launcher on a whole kernel, which has seccomp's notifications and namespaces."""
    raise_loopback()
    wanted = os.environ.get("BOOT_TEST_TESTS", "").split() or LAUNCHER_TESTS
    return passed(*wanted, "-p", "no:randomly", "-p", "enclave_simulator.pytest_plugin", "-rs")


LAUNCHER_TESTS = ["tests/enclave_simulator/launcher", "tests/contracts/test_vsock.py"]


def raise_loopback() -> None:
    """Raise ``lo``, if no check before this one had the agent do it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # <linux/sockios.h>, <linux/if.h>


def document() -> str:
    """Attest what the host asks for, and give it the document."""
    with connect(DOCUMENT_PORT) as end, DevNsm() as device:
        nonce = end.recv(32)
        attested = Nsm(device).attest(nonce=nonce, user_data=b"boot test")
        end.sendall(attested)
    pcr0 = parse(attested).pcrs[0]
    return f"document of {len(attested)} bytes, PCR0 {pcr0.hex()}"


def much() -> str:
    """Send much, end that half, and get it all back."""
    data = os.urandom(1 << 16) * (MUCH >> 16)
    with connect(ECHO_PORT) as end:

        def send() -> None:
            end.sendall(data)
            end.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        begun = time.monotonic()
        sender.start()
        back = read_all(end)
        sender.join()
        seconds = time.monotonic() - begun
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
    return f"{len(back) >> 20} MiB there and back in {seconds:.2f} s"


def refused() -> str:
    begun = time.monotonic()
    try:
        connect(4)
    except ConnectionResetError:
        return f"refused in {time.monotonic() - begun:.3f} s where nobody listens"
    raise AssertionError("somebody listens on port 4")


def called() -> str:
    """Be called by the host, and say its words back."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as server:
        server.settimeout(60 * SLOWNESS)
        server.bind((socket.VMADDR_CID_ANY, GUEST_PORT))
        server.listen()
        print("boot-test: waiting to be called", flush=True)
        end, (cid, _) = server.accept()
        with end:
            assert cid == PARENT
            end.sendall(read_all(end))
    return "called by the parent"


def proxy() -> str:
    """vsock-proxy on AF_VSOCK, over this kernel's loopback."""
    listen = f"vsock://any:{ECHO_PORT}"
    allowlist = Path("/tmp/allowlist.yaml")  # noqa: S108 (nobody else is in here)
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        allowlist.write_text(f"allowlist:\n- {{address: 127.0.0.1, port: {port}}}\n")
        # As the installed command does it; there is no `python -m` of it.
        run = "import sys, vsock_proxy.proxy.command; sys.exit(vsock_proxy.proxy.command.main())"
        command = [sys.executable, "-c", run, "--config", str(allowlist),
                   listen, "127.0.0.1", str(port)]  # fmt: skip
        with subprocess.Popen(command) as process:
            try:
                client = dial_when_up(ECHO_PORT)
                with client, target.accept()[0] as server:
                    client.sendall(b"ping")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(server) == b"ping"
                    server.sendall(b"pong")  # after the client's half-close
                    server.shutdown(socket.SHUT_WR)
                    assert read_all(client) == b"pong"
            finally:
                process.terminate()
    return "vsock-proxy relays on AF_VSOCK, and an answer after the half-close"


def dial_when_up(port: int) -> socket.socket:
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect(port, LOCAL)
        except ConnectionResetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def traffic() -> str:
    """The program's network, credentials and secret, as `serve` gives them."""
    return serve(600 * SLOWNESS)


CHECKS: tuple[Callable[[], str], ...] = (
    served, main_job, nsm_contract, vsock_tests, document, much, refused, called, proxy, traffic
)  # fmt: skip


OPTIONAL = (launcher_tests,)
"""Only if they are named: they take long under emulation."""


def main() -> int:
    only = os.environ.get("BOOT_TEST_ONLY", "").split(",")
    for check in (*CHECKS, *OPTIONAL) if only != [""] else CHECKS:
        if only != [""] and check.__name__ not in only:
            continue
        begun = time.monotonic()
        said = check()
        taken = time.monotonic() - begun
        print(f"boot-test: {check.__name__} ({taken:.1f} s): {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
