"""``enclave-parent status``: what a running daemon is asked, and how it is shown."""

from __future__ import annotations

import copy
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parent import cli
from parent.component import ComponentStatus
from parent.daemon import status_command
from parent.daemon.status_table import table
from parent.operations import OperationsService, OperationsSettings
from parent.operations.state import state
from parent.proxy import ProxyService
from parent.units import duration, size
from tests.parent.operations.test_operations import Named
from tests.waiting import eventually
from vsock_proxy.errors import AgentError
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.proxy.section import ProxySettings
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENCLAVE = {
    "state": "running",
    "name": "worker",
    "cid": 16,
    "enclave_id": "i-0-enc1",
    "cpu_ids": [1, 3],
    "memory_mib": 512,
    "debug": True,
    "pcr0": "ab" * 48,
    "starts": 2,
    "ended": 1,
    "seconds": 3723.4,
}
STATE: dict[str, Any] = {
    "version": "1.2",
    "status": "failing",
    "components": {
        "proxy": {"healthy": True, "detail": "1 forwards"},
        "enclave/worker": {"healthy": False, "detail": "E27\x1b[2J", "values": ENCLAVE},
        "credentials": {
            "healthy": True,
            "detail": "",
            "values": {
                "source": "iam-role", "renewed_at": 940.0, "expires_at": 22600.0,
                "renewals": 3, "failures": 1, "failure": None,
            },
        },
        "logs": {
            "healthy": True,
            "detail": "",
            "values": {
                "connections": 2, "rejected": 3, "lost": 4,
                "sources": [{"dropped": 5}, {"dropped": 6}],
            },
        },
    },
    "forwards": [
        {
            "name": "kms", "listen": "vsock://any:8000", "target": "tcp://kms.example:443",
            "gauges": {"connections": 3, "connecting": 1, "waiting": 0, "connection_limit": 1024},
            "counters": {
                "relayed": 120, "rejected": {}, "connect_failures": {"timeout": 1, "refused": 4},
                "broken": {"reset": 1}, "bytes": {"up": 1536, "down": 12},
            },
        }
    ],
    "leaving": 7,
}  # fmt: skip

SHOWN = r"""enclave-parent 1.2: failing
  enclave/worker: E27\x1b[2J

FORWARD  LISTEN            TARGET           OPEN       WAITING  RELAYED  REJECTED  FAILED       BROKEN     UP       DOWN
kms      vsock://any:8000  kms.example:443  4 of 1024  0        120      0         5 (refused)  1 (reset)  1.5 KiB  12 B
7 connections of forwards that were removed

ENCLAVE  STATE            FOR       CID  CPUS  MEMORY   STARTS  ENDS  ID        PCR0
worker   running (debug)  1 h 2 min  16   1 3   512 MiB  2       1     i-0-enc1  abababababababab

credentials: from iam-role, 1 min old, 6 h left; 3 renewals, 1 failures

logs: 2 connections; lines: 11 dropped, 4 lost; 3 connections rejected
"""  # noqa: E501 (a table)


def test_the_table() -> None:
    def words(text: str) -> list[list[str]]:
        return [line.split() for line in text.splitlines()]

    shown = table(STATE, now=1000.0, width=200)
    assert words(shown) == words(SHOWN)
    rows = shown.splitlines()
    for names, values in ((3, 4), (7, 8)):
        for column in ("STATE", "LISTEN", "UP", "CID", "ID"):
            if f" {column}" in rows[names]:
                assert rows[values][rows[names].index(f" {column}") + 1] != " "
                assert rows[values][rows[names].index(f" {column}")] == " "


@pytest.mark.parametrize("width", [40, 80, 100, 132])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """What does not fit beside the rest of its row is below it: nothing is left out."""
    shown = table(STATE, now=1000.0, width=width)
    assert max(map(len, shown.splitlines())) <= width
    words = " ".join(shown.split())
    for value in ("vsock://any:8000", "kms.example:443", "1.5 KiB", "abababababababab", "512 MiB"):
        assert value in words
    if width == 80:
        assert "\n    listen vsock://any:8000, target kms.example:443, waiting 0\n" in shown


def test_headings_stay_in_one_line_above_their_columns() -> None:
    state = copy.deepcopy(STATE)
    state["forwards"][0]["name"] = "secretsmanager.ap-southeast-2.amazonaws.com:443"
    state["forwards"][0]["target"] = "tcp://secretsmanager.ap-southeast-2.amazonaws.com:443"
    lines = table(state, now=1000.0, width=80).splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("FORWARD"))
    headings, row, *below = lines[begin:]
    assert headings.split() == ["FORWARD", "OPEN", "RELAYED", "REJECTED"]
    assert row.index("4 of 1024") == headings.index("OPEN")
    told = " ".join(below[:2])
    assert "failed 5 (refused)" in told
    assert "target" not in told  # it is the name


def test_long_and_wide_names_fit(capsys: pytest.CaptureFixture[str]) -> None:
    state = copy.deepcopy(STATE)
    state["forwards"][0] |= {"name": "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 100, "listen": "x" * 300}
    shown = table(state, now=1000.0, width=80)
    assert "x" * 300 in shown.replace("\n    ", "").replace("\n", "")
    for line in shown.splitlines():
        assert sum(1 + (c == "\N{CJK UNIFIED IDEOGRAPH-4E00}") for c in line) <= 80


def test_a_table_of_next_to_nothing() -> None:
    bare: dict[str, Any] = {"version": "1", "status": "ok", "components": {}}
    assert table(bare, now=0) == "enclave-parent 1: ok\n"
    values: dict[str, Any] = {
        "source": None,
        "renewed_at": None,
        "expires_at": None,
        "renewals": 0,
        "failures": 2,
    }
    bare["components"] = {"credentials": {"healthy": True, "detail": "", "values": values}}
    assert "credentials: none; 0 renewals, 2 failures" in table(bare, now=0)
    values |= {"source": "env", "renewed_at": 5.0}
    assert "from env, 5 s old, without an expiration; 0" in table(bare, now=10)


def test_times_and_sizes() -> None:
    assert [duration(s) for s in (-1, 0.5, 59, 3600, 90061)] == [
        "0 s", "0 s", "59 s", "1 h", "1 d 1 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 1023, 1024, 1 << 30, 1 << 50)] == [
        "0 B", "1023 B", "1 KiB", "1 GiB", "1024 TiB",
    ]  # fmt: skip


@pytest.fixture
def components() -> list[Any]:
    return [Named("other")]


@pytest.fixture
def configuration(tmp_path: Path, components: list[Any]) -> Iterator[Path]:
    """Of a daemon that runs."""
    address = UnixAddress(str(tmp_path / "operations"))
    service = OperationsService(OperationsSettings(address), lambda: components)
    service.start()
    path = tmp_path / "parent.yaml"
    path.write_text(f"operations: {{listen: '{address}'}}\nnothing: of this command's business\n")
    yield path
    service.stop(1)


def status(path: Path, *arguments: str) -> int:
    return cli.main(["status", "--config", str(path), *arguments])


def test_the_state_of_a_daemon_is_shown(
    configuration: Path, components: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Forward(
        UnixAddress(str(tmp_path / "in")), UnixAddress(str(tmp_path / "out")), name="one"
    )
    proxy = ProxyService(ProxySettings((forward,), drain_timeout=0.0))
    components.append(proxy)
    proxy.start()
    eventually(lambda: proxy.status().healthy)
    assert status(configuration) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"enclave-parent {VERSION}: ok\n")
    assert "one" in shown
    assert f"unix:{tmp_path}/in" in "".join(shown.split("\n    "))
    assert status(configuration, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["components"]["other"] == {
        "healthy": True, "detail": "as told", "values": {"state": "x"},
    }  # fmt: skip
    assert (told["forwards"][0]["name"], told["forwards"][0]["counters"]["accepted"]) == ("one", 0)
    assert (told["leaving"], told["reloads"]) == (0, 0)
    components[0].healthy = False
    assert status(configuration) == 1
    assert "  other: as told\n" in capsys.readouterr().out
    proxy.stop(1)


def test_a_stuck_relay_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_proxy: object) -> None:
        raise AgentError("no response of the relay within 10 s")

    stuck = ComponentStatus(healthy=False, detail="its loop is stuck")
    monkeypatch.setattr(ProxyService, "snapshot", silent)
    monkeypatch.setattr(ProxyService, "status", lambda _: stuck)
    told = state([ProxyService(ProxySettings(()))])
    assert told["status"] == "failing"
    assert "forwards" not in told
    assert "proxy: its loop is stuck" in table(told, now=0)


def test_watching_goes_on_without_the_daemon(
    configuration: Path, components: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Shown until an interrupt; the exit status is that of the last state."""
    address = status_command._address(configuration)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            components[0].healthy = False
        else:
            raise KeyboardInterrupt

    assert status_command.watch(address, 1.5, sleep=sleep) == 1
    assert waits == [1.5, 1.5]
    shown = capsys.readouterr().out
    assert shown.index(": ok\n") < shown.index(": failing\n")
    assert "\x1b" not in shown  # Not a terminal.
    waits[:] = [0]
    gone = UnixAddress("/nonexistent/operations")
    assert status_command.watch(gone, 1.5, sleep=sleep) == 1
    assert "cannot connect to unix:/nonexistent/operations" in capsys.readouterr().out


@pytest.mark.parametrize("interval", ["0", "nan", "-1", "4000", "x"])
@pytest.mark.parametrize("words", [["status", "--watch"], ["restart", "worker", "--timeout"]])
def test_times_that_are_out_of_range(
    words: list[str], interval: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With NaN, `restart` waited for ever."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words, interval if interval != "4000" else "1e9"])
    assert exit_.value.code == 2
    assert f"argument {words[-1]}: not " in capsys.readouterr().err


def test_no_daemon_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "parent.yaml"
    path.write_text(f"operations: {{listen: 'unix:{tmp_path}/none'}}")
    assert status(path) == 1
    assert "hint: does enclave-parent run, with this configuration" in capsys.readouterr().err
    path.write_text("logs: {cids: any}")
    assert status(path) == 1
    said = capsys.readouterr().err
    assert "no section `operations`" in said
    assert "hint: add there: operations: {listen: unix:/run/enclave-parent/operations}" in said
    assert status(tmp_path / "nothing.yaml") == 1


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (200, b"[]", "is not enclave-parent of this version"),
        (200, b'{"components": {}}', "is not enclave-parent of this version"),
        (200, b'{"components": {"x": {}}, "status": "ok", "version": "0"}', "of this version"),
        (404, b"{}", "is not enclave-parent of this version"),
        (200, b"<html>", "no response from tcp://127.0.0.1:"),
        (200, b"[" * 100_000, "no response from tcp://127.0.0.1:"),
    ],
)
def test_another_program_listens_there(
    tmp_path: Path, code: int, body: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        path = tmp_path / "parent.yaml"
        # What listens everywhere is asked here.
        path.write_text(f"operations: {{listen: 'tcp://0.0.0.0:{server.server_address[1]}'}}")
        assert status(path) == 1
        thread.join(20)
    assert said in capsys.readouterr().err
