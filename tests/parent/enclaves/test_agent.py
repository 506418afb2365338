"""The parent asks an enclave's agent: whatever that sends, the wait and the bytes are bounded."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from parent.enclaves import agent as module
from parent.enclaves.agent import EnclaveAgentError, VsockAgent
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import AgentError
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.service.exposition import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@contextlib.contextmanager
def answering(
    folder: Path, *parts: bytes, hold: bool = False
) -> Iterator[tuple[VsockAgent, list[bytes]]]:
    """Listen as an agent that sends these bytes, and closes unless it is to hold."""
    heard: list[bytes] = []
    done = threading.Event()
    path = str(folder / "agent")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                while b"\r\n\r\n" not in b"".join(heard):
                    heard.append(client.recv(4_096))
                for part in parts:
                    client.sendall(part)
                if hold:
                    done.wait(TEST_TIMEOUT)

        thread = threading.Thread(target=serve)
        thread.start()
        yield VsockAgent(UnixAddress(path)), heard
        done.set()
        thread.join(TEST_TIMEOUT)


def response(content: object) -> bytes:
    body = json.dumps(content).encode()
    return OK % (len(body), body)


@pytest.mark.parametrize(("status", "ended"), [("ended", True), ("ending", False)])
def test_the_program_is_asked_to_end(tmp_path: Path, status: str, ended: bool) -> None:
    with answering(tmp_path, response({"status": status, "code": 0})) as (agent, heard):
        assert agent.stop(7.5) is ended
    head, _, body = b"".join(heard).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /stop HTTP/1.1\r\n")
    assert json.loads(body) == {"seconds": 7.5}


def test_the_numbers_are_returned_as_they_are(tmp_path: Path) -> None:
    with answering(tmp_path, OK % (5, b"a 1\n\xff")) as (agent, _):
        assert agent.metrics() == b"a 1\n\xff"


HOSTILE: dict[str, tuple[Sequence[bytes], str]] = {
    "nothing": ((), "hung up|not HTTP"),
    "no HTTP": ((b"hello\r\n\r\n",), "not HTTP"),
    "cut off": ((OK % (9, b"a"),), "not HTTP|hung up"),
    "an error": ((b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",), "status 500"),
    "a large head": ((b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,), "not HTTP"),
    "a large body": ((b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (MAX_BYTES + 1)), "more than"),
    "two lengths": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",), "not HTTP"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_response_is_one_error(tmp_path: Path, what: str) -> None:
    parts, message = HOSTILE[what]
    with answering(tmp_path, *parts) as (agent, _), pytest.raises(EnclaveAgentError, match=message):
        agent.metrics()


@pytest.mark.parametrize("content", [{}, [], "ended", {"status": []}, 5])
def test_a_response_to_stop_that_is_malformed_is_one_error(tmp_path: Path, content: object) -> None:
    with answering(tmp_path, response(content)) as (agent, _):
        if content == {"status": []}:
            assert agent.stop(1) is False
            return
        with pytest.raises(EnclaveAgentError, match="malformed"):
            agent.stop(1)


@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n\r\n", b"some")])
def test_an_agent_that_says_no_more_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(module, "METRICS_TIMEOUT", 0.2)
    message = r"no whole response within 0\.2 s"
    with (
        answering(tmp_path, *parts, hold=True) as (agent, _),
        pytest.raises(EnclaveAgentError, match=message),
    ):
        agent.metrics()


def test_the_deadline_is_for_the_whole_response(tmp_path: Path) -> None:
    """However many bytes arrive in time, one after the other."""
    times = iter([0.0, *([1.0] * 3), 6.0])
    with answering(tmp_path, b"HTTP/1.1 200 OK\r\n\r\n", b"x", hold=True) as (made, _):
        agent = VsockAgent(made._address, monotonic=lambda: next(times, 6.0))
        with pytest.raises(EnclaveAgentError, match="no whole response"):
            agent.metrics()


def test_an_enclave_without_an_agent_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot connect"):
        VsockAgent(UnixAddress(str(tmp_path / "none"))).stop(1)
