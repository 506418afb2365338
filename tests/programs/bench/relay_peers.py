"""The proxies that are compared, each started in front of the same server: a UNIX socket in front,
TCP behind. Each gets one thread or process that works, as ours has, unless WORKERS says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = int(os.environ.get("WORKERS", "1"))
SPARE_DESCRIPTORS = 400
MAX_CONNECTIONS = min(
    10_050, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_DESCRIPTORS) // 2
)
"""What each is told to be ready for: each connection is two descriptors (ulimit -Hn)."""

_TICKS = os.sysconf("SC_CLK_TCK")
_OURS = "import sys; from vsock_proxy.proxy.command import main; sys.exit(main())"

HAPROXY = """\
global
    nbthread {workers}
    maxconn {connections}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen bench
    bind unix@{path}
    server there 127.0.0.1:{port}
"""

NGINX = """\
load_module {stream};
daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections {descriptors}; }}
stream {{
    server {{
        listen unix:{path} backlog=4096;
        proxy_pass 127.0.0.1:{port};
        proxy_timeout 1h;
    }}
}}
"""
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Peer:
    """One running proxy, or none at all (`direct`).

    Attributes:
        address: what a client connects to: a path, or host and port.
        target: what it is asked to connect to; None where it is not asked.
    """

    def __init__(
        self, address: str | tuple[str, int], *pids: int, target: str | None = None
    ) -> None:
        self.address = address
        self.target = target
        self._processes = pids

    def cpu(self) -> float:
        """CPU seconds so far, of all its processes, in the kernel and outside."""
        seconds = 0.0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                # What it used itself, threads that ended included (clock_getcpuclockid(3)); its
                # children that ended, in ticks.
                seconds += time.clock_gettime(~pid << 3 | 2)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                seconds += sum(int(field) for field in fields[13:15]) / _TICKS
        return seconds

    def memory(self) -> int:
        """Bytes of memory, of all its processes, each shared page counted once in all."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += 1024 * int(line.split()[1])
        return total

    def _pids(self) -> list[int]:
        found = [*self._processes]
        for pid in found:  # It grows meanwhile.
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                found += [int(child) for child in children.split()]
        return found


def ours(folder: Path, port: int) -> list[str]:
    allowlist = folder / "allowlist.yaml"
    allowlist.write_text(f"allowlist:\n- {{address: 127.0.0.1, port: {port}}}\n")
    options = ["-w", str(MAX_CONNECTIONS), "--config", str(allowlist)]
    return [sys.executable, "-c", _OURS, f"unix:{folder}/front", "127.0.0.1", str(port), *options]


def haproxy(folder: Path, port: int) -> list[str]:
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        HAPROXY.format(
            workers=WORKERS, connections=MAX_CONNECTIONS, path=folder / "front", port=port
        )
    )
    return ["haproxy", "-db", "-q", "-f", str(configuration)]


def nginx(folder: Path, port: int) -> list[str]:
    configuration = folder / "nginx.conf"
    configuration.write_text(
        NGINX.format(
            workers=WORKERS,
            descriptors=2 * MAX_CONNECTIONS + SPARE_DESCRIPTORS // 2,
            folder=folder,
            path=folder / "front",
            port=port,
            stream=NGINX_STREAM,
        )
    )
    return ["nginx", "-p", str(folder), "-c", str(configuration)]


def socat(folder: Path, port: int) -> list[str]:
    front = f"UNIX-LISTEN:{folder}/front,fork,backlog=4096"
    return ["socat", "-b", "65536", front, f"TCP:127.0.0.1:{port},nodelay"]


PEERS: dict[str, Callable[[Path, int], list[str]]] = {
    "vsock-proxy": ours,
    "HAProxy": haproxy,
    "nginx": nginx,
    "socat": socat,
}


def other(text: str) -> tuple[str, Callable[[Path, int], list[str]]]:
    """What ``OTHER="NAME=COMMAND with {path} and {port}"`` asks for: one more."""
    name, _, command = text.partition("=")

    def started(folder: Path, port: int) -> list[str]:
        return [part.format(path=folder / "front", port=port) for part in shlex.split(command)]

    return name, started


if OTHER := os.environ.get("OTHER"):
    PEERS.update([other(OTHER)])

PACKAGES = {"HAProxy": "haproxy", "nginx": "nginx libnginx-mod-stream", "socat": "socat"}


def missing() -> dict[str, str]:
    """Which of them this machine lacks, and what would install them."""
    lacking = {name for name in PACKAGES if shutil.which(name.lower(), path=_path()) is None}
    if not NGINX_STREAM.exists():
        lacking.add("nginx")
    return {name: PACKAGES[name] for name in PACKAGES if name in lacking}


@contextlib.contextmanager
def running(name: str, folder: Path, port: int) -> Iterator[Peer]:
    """Run one of them in front of the server on `port`, in a folder of its own."""
    folder.mkdir()
    command = PEERS[name](folder, port)
    with subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": _path()},
    ) as process:
        try:
            _wait_for(str(folder / "front"), process)
            yield Peer(str(folder / "front"), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(TEST_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _wait_for(path: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + TEST_TIMEOUT
    while True:
        with socket.socket(socket.AF_UNIX) as end:
            try:
                end.connect(path)
            except OSError:
                if time.monotonic() > give_up or process.poll() is not None:
                    raise RuntimeError(f"it does not start: {process.args!r}") from None
                time.sleep(0.02)
            else:
                return
