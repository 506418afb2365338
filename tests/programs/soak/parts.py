"""The parts of a soak's chain as processes: KMS, the parent's daemon, two enclaves' endpoints.

Each can be killed, stopped by SIGSTOP, starved of descriptors and started anew; the ports, keys
and sockets stay the same.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from enclave_simulator.authority import Authority
from enclave_simulator.kms.outputs import write_whole
from enclave_simulator.kms.tls import generate_key, key_pem
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT
from tests.paths import ROOT
from tests.programs.endpoint_client import EndpointClient, NoAnswerError
from tests.programs.soak.kms import World
from tests.sockets import unused_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

DEADLINE = 8.0
"""Seconds for a call at the endpoint."""

START = 300.0
"""Seconds for a part to start, however busy the machine is: what is measured comes later."""

REFRESH = 10.0
"""Seconds between two documents of the same credentials, as instance metadata renews them."""

LIFETIME = timedelta(seconds=45)
"""Of credentials: so short that they are renewed all the time."""

_CONFIGURATION = """\
proxy:
  allowlist: [{{address: 127.0.0.1, port: {port}}}]
  drain_timeout: 1 s
  forwards:
  - {{name: kms, listen: "unix:{folder}/3_8000", to: "tcp://127.0.0.1:{port}"}}
credentials: {{listen: "unix:{folder}/3_8002", profile: enclave}}
logs: {{listen: "unix:{folder}/3_8003", to: stderr}}
operations: {{listen: "tcp://127.0.0.1:0"}}
"""

_PROFILE = """\
[profile enclave]
credential_process = {python} -c "print(open('{folder}/credentials.json').read())"
"""


@dataclass
class Part:
    """A process that can be started again.

    Attributes:
        name: in the table.
        begin: starts it; returns the process.
        end: kills and reaps it.
        lives: how often it was started.
        spans: when it was stopped, starved or dead: from, to, in monotonic seconds.
    """

    name: str
    begin: Callable[[], Popen[Any]]
    end: Callable[[], None]
    lives: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)
    _since: float | None = None
    _process: Popen[Any] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        self._process = self.begin()
        self.lives += 1
        self.free()

    def kill(self) -> None:
        """Kill it as the kernel would, and reap it."""
        self.impair()
        self.end()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def limit(self, descriptors: int | None) -> None:
        """Allow so many descriptors more than are open; None: as many as at first."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        soft = hard if descriptors is None else descriptors_of(self.pid) + descriptors
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))

    def impair(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def free(self) -> None:
        if self._since is not None:
            self.spans.append((self._since, time.monotonic()))
            self._since = None

    def impaired(self, since: float) -> float:
        """Return for how many seconds after `since` it could not work as it should."""
        now = time.monotonic()
        spans = [*self.spans, *([(self._since, now)] if self._since is not None else [])]
        return sum(max(0.0, to - max(start, since)) for start, to in spans)

    def waited(self) -> float:
        """Return the seconds for which its first thread, an endpoint's loop, waited for a CPU."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        return int(text.split()[1]) / 1e9

    def ended(self) -> bool:
        """Return whether it ended by itself."""
        return (
            self._since is None and self._process is not None and (self._process.poll() is not None)
        )


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names only)


def unix_connections_of(pid: int) -> int:
    """Return how many connected UNIX sockets a process has: vsock is made of these."""
    lines = Path(f"/proc/{pid}/net/unix").read_text(encoding="ascii").splitlines()[1:]
    connected = {line.split()[6] for line in lines if line.split()[4:6] == ["0001", "03"]}
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).removeprefix("socket:[").rstrip("]") in connected
    return count


@dataclass
class Chain:
    """All parts, and what the world tells them.

    Attributes:
        kms: the simulated KMS.
        parent: ``enclave-parent run``: proxy, credential service, log sink.
        agents: ``enclave-agent serve`` of each enclave, by the port of its endpoint.
        nsms: of each enclave, in the same order.
        nsm_ahead: seconds that the NSMs' clocks are ahead; in a list, to be changed.
        key: ARN of the key that calls name.
        logs: standard error of each part.
    """

    folder: Path
    kms: Part
    parent: Part
    agents: dict[int, Part]
    nsms: list[SimulatedNsm]
    nsm_ahead: list[float]
    world: World
    logs: dict[str, Path]
    key: str = ""
    _serial: Iterator[int] = field(default_factory=itertools.count)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def parts(self) -> list[Part]:
        return [self.kms, self.parent, *self.agents.values()]

    def tell(self, **changes: Any) -> None:
        """Change what the KMS is told."""
        for name, value in changes.items():
            setattr(self.world, name, value)
        self.world.write(self.folder / "world.json")

    def issue(self, *, revoke: bool) -> None:
        """Issue new credentials; the ones before are accepted on, unless they are revoked."""
        number = next(self._serial)
        made = [f"ASIASOAK{number:012d}", f"secret-of-{number}", f"token-of-{number}"]
        before = [] if revoke else self.world.accepted[-1:]
        self.tell(accepted=[*before, made])
        self.refresh()

    def refresh(self) -> None:
        """Write the newest credentials for the parent, valid for `LIFETIME` from now."""
        with self._writing:
            self._refresh()

    def _refresh(self) -> None:
        key, secret, token = self.world.accepted[-1]
        ends = (datetime.now(UTC) + LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
        document = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret,
                    "SessionToken": token, "Expiration": ends}  # fmt: skip
        write_whole(self.folder / "credentials.json", json.dumps(document).encode())


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "AWS_CONFIG_FILE": str(folder / "aws-config"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _service(
    module: str, arguments: list[str], folder: Path, log: IO[bytes]
) -> tuple[Callable[[], Popen[Any]], Callable[[], None]]:
    running: list[Service] = []

    def begin() -> Popen[Any]:
        running[:] = [
            Service(module, arguments, env=environment(folder), output=log, ready_within=START)
        ]
        return running[0].process

    def end() -> None:
        running[0].process.kill()
        running[0].close()

    return begin, end


def _agent(
    launcher: Launcher, port: int, options: list[str], folder: Path, log: IO[bytes]
) -> tuple[Callable[[], Popen[Any]], Callable[[], None]]:
    sessions: list[Any] = []
    argv = [*AGENT, "serve", "--listen", f"tcp://127.0.0.1:{port}", "--deadline", f"{DEADLINE:g}"]
    env = environment(folder) | {
        "AWS_REGION": "us-east-1",
        "AWS_CA_BUNDLE": str(folder / "ca.pem"),
    }

    def begin() -> Popen[Any]:
        sessions[:] = [
            launcher.start([*argv, *options], env=env, cwd=folder, stderr=log, die_with_thread=True)
        ]
        process: Popen[Any] = sessions[0].process
        _await_listening(port, process)
        return process

    def end() -> None:
        sessions[0].close()

    return begin, end


def _await_listening(port: int, process: Popen[Any]) -> None:
    """Wait until an endpoint responds: until then clients find none.

    Raises:
        TimeoutError: it does not within `START`, or has ended.
    """
    ends = time.monotonic() + START
    while time.monotonic() < ends and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", "/healthz")
            connection.getresponse()
            return
        time.sleep(0.02)
    raise TimeoutError("the endpoint does not respond")


@contextlib.contextmanager
def chain(folder: Path) -> Iterator[Chain]:
    """Start all parts; leaving ends them."""
    authority = Authority.generate()
    (folder / "root.pem").write_bytes(authority.root_pem)
    (folder / "ca-key.pem").write_bytes(key_pem(generate_key()))
    port = unused_port()
    (folder / "parent.yaml").write_text(_CONFIGURATION.format(port=port, folder=folder))
    (folder / "aws-config").write_text(_PROFILE.format(python=sys.executable, folder=folder))
    names = ["kms", "parent", "agent", "agent --pool"]
    with contextlib.ExitStack() as stack:
        logs = {name: folder / f"{name.replace(' ', '')}.log" for name in names}
        opened = {name: stack.enter_context(path.open("a+b")) for name, path in logs.items()}
        ahead = [0.0]

        def now() -> datetime:
            return datetime.now(UTC) + timedelta(seconds=ahead[0])

        nsms = [SimulatedNsm(authority, now=now) for _ in range(2)]
        of_kms = [str(folder), str(port)]
        kms = Part("kms", *_service("tests.programs.soak.kms", of_kms, folder, opened["kms"]))
        of_parent = ["run", "--config", str(folder / "parent.yaml")]
        parent = Part("parent", *_service("parent.cli", of_parent, folder, opened["parent"]))
        agents = {}
        for cid, nsm, name in zip((16, 17), nsms, names[2:], strict=True):
            launcher = Launcher(nsm=nsm, cid=cid, folder=folder)
            at = unused_port()
            agents[at] = Part(name, *_agent(launcher, at, name.split()[1:], folder, opened[name]))
        made = Chain(folder, kms, parent, agents, nsms, ahead, World(), logs)
        made.issue(revoke=True)
        for part in made.parts:
            part.start()
            stack.callback(part.end)
        stop = threading.Event()
        refreshing = threading.Thread(target=_refresh_until, args=(made, stop), daemon=True)
        refreshing.start()
        stack.callback(refreshing.join)
        stack.callback(stop.set)
        await_right(made, within=START)
        made.key = _make_key(next(iter(agents)))
        yield made
        for part in made.parts:
            with contextlib.suppress(ProcessLookupError):
                part.signal(signal.SIGCONT)


def _refresh_until(made: Chain, stop: threading.Event) -> None:
    while not stop.wait(REFRESH):
        made.refresh()


def await_right(made: Chain, *, within: float) -> None:
    """Wait until every endpoint gives random bytes.

    Raises:
        TimeoutError: one does not.
    """
    began = time.monotonic()
    for port in made.agents:
        while not _is_right(port):
            if time.monotonic() - began > within:
                raise TimeoutError(f"{made.agents[port].name} gives no random bytes")
            time.sleep(0.05)


def _is_right(port: int) -> bool:
    """Return whether an endpoint gives random bytes, its pool's and KMS's own.

    The pool pauses for up to five seconds after failed fetches, while clients get what it has left,
    then its last error. That KMS gives random bytes ends the pause: so KMS's come first.
    """
    with EndpointClient(port, timeout=DEADLINE) as client:
        try:
            # More than the pool gives: KMS must be reached.
            return all(
                client.call("GenerateRandom", {"NumberOfBytes": number})[0] == 200
                for number in (512, 32)
            )
        except NoAnswerError:
            return False


def _make_key(port: int) -> str:
    with EndpointClient(port, timeout=DEADLINE) as client:
        _, fields = client.call("CreateKey", {})
        return str(fields["KeyMetadata"]["Arn"])
