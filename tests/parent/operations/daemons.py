"""Daemons to look at: components that are in a given state, ordinary or hostile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from parent.component import ComponentStatus
from parent.logs.component import LastLines, LogSink
from parent.logs.lines import neutralise
from parent.logs.settings import LogSettings
from parent.operations import OperationsService, OperationsSettings
from parent.operations.history import INTERVAL
from parent.operations.state import state
from parent.proxy import ProxyService
from vsock_proxy.net.addresses import TcpAddress, VsockAddress
from vsock_proxy.proxy.counters import (
    Counters,
    ForwardSnapshot,
    Gauges,
    Histogram,
    HostCounters,
    Snapshot,
    Tally,
)
from vsock_proxy.proxy.section import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.component import Component

NOW = 1_790_000_000.0
"""Seconds since 1970: 2026-09-21 13:33:20 UTC."""

ANY = 0xFFFF_FFFF

MARKUP = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "</bdi></ol></main></body><h1>taken</h1>",
    "\"><svg onload=document.title='taken'>",
    "' onfocus='document.title=1' autofocus='",
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=http://192.0.2.1/'>",
    "<!--", "]]>", "&lt;b&gt;&amp;&#60;i&#62;", "</script><script>document.title='taken'</script>",
    "\x1b[2J\x00\x7f\u202egnp.exe\u200b\u2066\U000e0041", "e" + "\u0301" * 60, "W" * 390,
    "\u05d0\u05d1\u05d2 1 2 3 \u0627\u0644", "\udcff\udc80",
)  # fmt: skip
"""What a hostile enclave, or a name, may try."""


class Proxy(ProxyService):
    def __init__(self, forwards: Sequence[ForwardSnapshot], leaving: int = 0) -> None:
        super().__init__(ProxySettings(()))
        self.shown = Snapshot(tuple(forwards), leaving, 1, 0)

    def snapshot(self) -> Snapshot:
        return self.shown

    def status(self) -> ComponentStatus:
        return ComponentStatus(healthy=True, detail="forwards", values={"turns": 1})


class Logs(LogSink):
    def __init__(self, sources: Sequence[tuple[str, int | None, Sequence[str]]]) -> None:
        super().__init__(LogSettings(cids=None))
        self.sources = sources
        self.lines = 4000

    def last_lines(self, most: int = 20) -> list[LastLines]:
        return [
            LastLines(
                name,
                cid,
                tuple(
                    (7.0 * (len(lines) - n), neutralise(line.encode("utf-8", "surrogateescape")))
                    for n, line in enumerate(lines)
                )[-most:],
            )
            for name, cid, lines in self.sources
        ]

    def status(self) -> ComponentStatus:
        values: Any = {
            "connections": len(self.sources), "rejected": 0, "lost": 0,
            "sources": [
                {"name": name, "cid": cid, "lines": self.lines + n, "dropped": n % 3,
                 "truncated": 0}
                for n, (name, cid, _) in enumerate(self.sources)
            ],
        }  # fmt: skip
        return ComponentStatus(healthy=True, detail="listening", values=values)


class Fixed:
    """A component with a status."""

    def __init__(self, name: str, values: Any, *, healthy: bool = True, detail: str = "") -> None:
        self.name = name
        self.shown = ComponentStatus(healthy=healthy, detail=detail, values=values)

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None: ...

    def status(self) -> ComponentStatus:
        return self.shown


def enclave(name: str, cid: int, state: str = "running", **changed: Any) -> Fixed:
    running = state == "running"
    values = {
        "state": state, "name": name, "cid": cid,
        "enclave_id": f"i-0123456789abcdef0-enc18eaded9a3d82f{cid:x}" if running else None,
        "cpu_ids": [1, 3] if running else [], "memory_mib": 512, "debug": False,
        "pcr0": "5dc34b9a7b6dcb6f" * 6, "starts": 1, "ended": 0, "failures": 0, "error": "",
        "seconds": 93_784.0 * (cid - 14), **changed,
    }  # fmt: skip
    detail = f"{state}: {values['error']}" if values["error"] else state
    return Fixed(f"enclave/{name}", values, healthy=running, detail=detail)


def credentials(*, age: float = 302.0, left: float = 21_240.0) -> Fixed:
    values = {
        "source": "iam-role", "expires_at": NOW + left, "renewed_at": NOW - age, "renewals": 3,
        "failures": 0, "failure": None,
    }  # fmt: skip
    return Fixed("credentials", values, detail="credentials from iam-role")


def forward(name: str, port: int = 8000, **counts: Any) -> ForwardSnapshot:
    return ForwardSnapshot(
        name,
        VsockAddress(ANY, port),
        TcpAddress(counts.pop("target", "kms.eu-central-1.amazonaws.com"), 443),
        Gauges(counts.pop("connections", 3), 1, counts.pop("waiting", 0), 1024),
        Counters(
            accepted=130,
            relayed=counts.pop("relayed", 120),
            rejected=Tally(counts.pop("rejected", {})),
            connect_failures=Tally(counts.pop("failed", {})),
            broken=Tally(counts.pop("broken", {})),
            bytes=Tally(up=counts.pop("up", 0), down=counts.pop("down", 0)),
            connect_seconds=Histogram(),
        ),
        hosts=counts.pop("hosts", {}),
    )


def ordinary(enclaves: int = 3) -> list[Component]:
    """A daemon as there are many; one of its enclaves does not start."""
    names = ["worker", "signer", "ledger"]
    lines = [
        "boot: 2 interfaces, entropy from nsm-hwrng",
        "attestation document of 4,812 bytes, valid for 3 h",
        "GET /v1/keys/active 200 in 14 ms",
        "decrypt: alias/orders, request 7f4e2a1c-90d7-4b35-8f0a-1d0c0e5b7a11",
        "queue: 0 waiting, 12 done",
    ]
    made: list[Component] = [
        Proxy(
            [
                forward("kms", up=1_572_864, down=327_680),
                forward(
                    "sts", 8010, target="sts.eu-central-1.amazonaws.com", up=48_000, down=96_000,
                    connections=0, rejected={"cid": 14, "limit": 2}, failed={"timeout": 3},
                ),
                forward(
                    "bulk", 8020, target="data.internal.example", connections=870, waiting=12,
                    relayed=48_211, up=93_415_000_000, down=7_340_000_000, broken={"reset": 31},
                ),
                forward(
                    "egress", 8004, target="hosts on the allowlist", up=52_000_000, down=9_100_000,
                    rejected={"allowlist": 3}, hosts={
                        "s3.eu-central-1.amazonaws.com:443": HostCounters(
                            412, Tally(), Tally(up=52_000_000, down=9_000_000)
                        ),
                        "*.example.com:443": HostCounters(
                            9, Tally(name=2), Tally(up=1_000, down=100_000)
                        ),
                    },
                ),
            ]
        ),
        credentials(),
    ]  # fmt: skip
    found: list[Component] = []
    for n in range(enclaves):
        name = names[n] if n < len(names) else f"worker-{n}"
        if n == 2:
            error = "nitro-cli run-enclave: E27: Insufficient memory available."
            found.append(enclave(name, 16 + n, "waiting", seconds=9.0, error=error, failures=2))
        else:
            found.append(enclave(name, 16 + n, starts=1 + n % 2, ended=n % 2))
    sources = [
        (str(each.name).removeprefix("enclave/"), 16 + n, lines[: 5 - n % 3])
        for n, each in enumerate(found)
        if n != 2
    ]
    return [*made, Logs([*sources, ("cid-99", 99, lines[:2])]), *found]


def hostile() -> list[Component]:
    """A daemon whose names, errors and log lines are all attacks."""
    return [
        Proxy([forward(name, 8000 + n, target="t" + "x" * 60, rejected={name: 1},
                       hosts={each: HostCounters(1, Tally({name: 1})) for each in MARKUP})
               for n, name in enumerate(MARKUP)], leaving=2),
        Fixed("credentials", {
            "source": MARKUP[0], "expires_at": None, "renewed_at": NOW - 5, "renewals": 1,
            "failures": 1, "failure": MARKUP[1],
        }, healthy=False, detail=MARKUP[2]),
        Logs([(name, 16 + n, MARKUP) for n, name in enumerate(MARKUP)]),
        *(enclave(name, 15 + n, "failed", error=name, enclave_id=name, pcr0=name)
          for n, name in enumerate(MARKUP)),
    ]  # fmt: skip


def service(
    components: Callable[[], list[Component]], *, listen: TcpAddress | None = None, **settings: Any
) -> OperationsService:
    """Operations of a daemon with ten minutes behind it; its clocks stand still."""
    address = listen or TcpAddress("127.0.0.1", 0)
    made = OperationsService(
        OperationsSettings(address, **settings), components, monotonic=lambda: 600.0,
        now=lambda: NOW,
    )  # fmt: skip
    made._host = "parent-1"
    for n in range(60):
        made._history.add(n * INTERVAL, _earlier(state(components()), n))
    return made


def _earlier(shown: dict[str, Any], n: int) -> dict[str, Any]:
    """Return a state as it was, with numbers that grew up to now in waves."""
    share = (n + 3 * math.sin(n / 4) * math.cos(n / 11) * (1 - n / 60)) / 60
    for each in shown.get("forwards", ()):
        counters = each["counters"]
        counters["bytes"] = {
            "up": int(counters["bytes"].get("up", 0) * max(share, 0)),
            "down": int(counters["bytes"].get("down", 0) * max(share * share, 0)),
        }
        counters["rejected"] = {
            kind: int(count * (n // 12) / 5) for kind, count in counters["rejected"].items()
        }
    for name, component in shown["components"].items():
        values = component.get("values", {})
        if name == "logs":
            for source in values["sources"]:
                source["lines"] = int(source["lines"] * max(share, 0))
        if name == "enclave/ledger" and n % 20 > 15:
            component["values"] = {**values, "state": "starting"}
        if name == "enclave/signer" and 30 <= n < 34:
            component["values"] = {**values, "state": "waiting" if n < 32 else "starting"}
    return shown
