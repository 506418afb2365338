"""Egress beside the plain relay, tinyproxy and squid: ``make bench BENCH=egress``.

All listen on TCP, as the others know nothing else, and lead to the same server. *relay* is
`vsock-proxy` with a fixed target, *egress* the same program with CONNECT; *2 relays* and *agent*
are both hops of an enclave's connection: two relays, and `enclave-agent serve --egress` in front of
*egress*. Each round measures each of them in turn, in another order. ROUNDS=10 takes longer;
ONLY="bulk" measures only what has one of these in its name, and ALONE=1 only ours.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.programs.bench.relay import MEASUREMENTS, ONLY, Load, Results, measure, ratio
from tests.programs.bench.relay_peers import Peer
from tests.programs.bench.report import machine, table
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS = int(os.environ.get("ROUNDS", "5"))
WANTED = ("bulk", "ping-pong", "messages/s", "new connections/s")

_PROXY = (
    sys.executable,
    "-c",
    "import sys; from vsock_proxy.proxy.command import main; sys.exit(main())",
)
_AGENT = (sys.executable, "-m", "enclave.cli")
_MANY = 4000

SQUID = """\
http_port 127.0.0.1:{port}
http_access allow all
cache deny all
access_log none
cache_log {folder}/log
pid_filename {folder}/pid
coredump_dir {folder}
pinger_enable off
workers 1
shutdown_lifetime 0 seconds
max_filedescriptors 16384
"""

TINYPROXY = """\
Listen 127.0.0.1
Port {port}
Timeout 600
MaxClients 10000
LogLevel Critical
Allow 127.0.0.1
{user}
"""


def relay(folder: Path, port: int, target: int) -> list[str]:
    front = f"tcp://127.0.0.1:{port}"
    options = ["-w", str(_MANY), "--config", str(_allowlist(folder, target))]
    return [*_PROXY, front, "127.0.0.1", str(target), *options]


def egress(folder: Path, port: int, target: int) -> list[str]:
    front = f"tcp://127.0.0.1:{port}"
    options = ["-w", str(_MANY), "--config", str(_allowlist(folder, target))]
    return [*_PROXY, "--egress", front, *options]


def tinyproxy(folder: Path, port: int, _target: int) -> list[str]:
    user = f"User {pwd.getpwuid(os.getuid()).pw_name}"
    path = folder / "tinyproxy.conf"
    path.write_text(TINYPROXY.format(port=port, user=user))
    return ["tinyproxy", "-d", "-c", str(path)]


def squid(folder: Path, port: int, _target: int) -> list[str]:
    folder.chmod(0o777)  # It gives root up.
    path = folder / "squid.conf"
    path.write_text(SQUID.format(port=port, folder=folder))
    return ["squid", "-N", "-f", str(path)]


def _allowlist(folder: Path, target: int) -> Path:
    path = folder / "allowlist.yaml"
    path.write_text(f"allowlist:\n- {{address: 127.0.0.1, port: {target}}}\n")
    return path


@contextlib.contextmanager
def _process(command: Sequence[str], port: int) -> Iterator[int]:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": _path()},
    ) as process:
        try:
            _wait_for(port, process)
            yield process.pid
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + TEST_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > give_up or process.poll() is not None:
                raise RuntimeError(f"it does not start: {process.args!r}") from None
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def _one(
    make: Callable[[Path, int, int], list[str]], folder: Path, target: int, *, asked: bool
) -> Iterator[Peer]:
    folder.mkdir()
    port = unused_port()
    with _process(make(folder, port, target), port) as pid:
        yield Peer(("127.0.0.1", port), pid, target=f"127.0.0.1:{target}" if asked else None)


@contextlib.contextmanager
def _two(name: str, folder: Path, target: int) -> Iterator[Peer]:
    """Both hops; the enclave's in front."""
    front, middle = unused_port(), unused_port()
    near, far = folder / "near", folder / "far"
    for each in (near, far):
        each.mkdir(parents=True)
    if name == "2 relays":
        before, behind = relay(near, front, middle), relay(far, middle, target)
    else:
        behind = egress(far, middle, target)
        before = [
            *_AGENT, "serve", "--no-kms", "--egress", f"--egress-allow=127.0.0.1:{target}",
            f"--egress-listen=tcp://127.0.0.1:{front}",
            f"--egress-proxy=tcp://127.0.0.1:{middle}",
        ]  # fmt: skip
    with _process(behind, middle) as second, _process(before, front) as first:
        asked = f"127.0.0.1:{target}" if name == "agent" else None
        yield Peer(("127.0.0.1", front), first, second, target=asked)


def main() -> None:
    """Run and print."""
    names = ["relay", "egress", "2 relays", "agent"]
    for name in () if os.environ.get("ALONE") else ("tinyproxy", "squid"):
        if shutil.which(name, path=_path()):
            names.append(name)
        else:
            print(f"bench: {name} is not installed: not measured (apt-get install {name})")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    results: Results = {}
    measured = [
        m for m in MEASUREMENTS if any(word in m.figures[0].name for word in ONLY or WANTED)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        client = stack.enter_context(Load("client"))
        makers = {"relay": relay, "egress": egress, "tinyproxy": tinyproxy, "squid": squid}
        peers: dict[str, Peer] = {}
        for name in names:
            port = stack.enter_context(Load("server")).answer()
            where = Path(folder, name.replace(" ", "-"))
            peers[name] = stack.enter_context(
                _one(makers[name], where, port, asked=name != "relay")
                if name in makers
                else _two(name, where, port)
            )
        for round_ in range(ROUNDS):
            for measurement in measured:
                order = names[round_ % len(names) :] + names[: round_ % len(names)]
                for name in order:
                    measure(client, measurement, name, peers[name], results)
    _print(results, names)


def _print(results: Results, names: list[str]) -> None:
    figures = {f.name: f for m in MEASUREMENTS for f in m.figures}
    print(f"\nTCP in front and behind; {machine()}; {ROUNDS} rounds, medians\n")
    rows, ratios = [], []
    for name, row in results.items():
        figure = figures[name]
        rows.append((name, *(figure.form.format(statistics.median(row[n])) for n in names)))
        pairs = [("egress", "relay"), ("agent", "2 relays")]
        pairs += [("egress", n) for n in ("tinyproxy", "squid") if n in names]
        pairs += [("agent", n) for n in ("tinyproxy", "squid") if n in names]
        ratios.append(
            (name, *(ratio(figure, {"vsock-proxy": row[a], b: row[b]}, b) for a, b in pairs))
        )
    table(("", *names), rows, across=True)
    print("\nratios of the rounds, medians: more than 1 is better, whatever better means there\n")
    table(("", *(f"{a} : {b}" for a, b in pairs)), ratios, across=True)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
