"""Names: asked once at a time, kept for a while, served stale rather than not at all."""

from __future__ import annotations

import queue
import socket
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import PATIENCE
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.resolving import look_up
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.relay.targets import Answer, HostName, target_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.resolving import Candidate

ONE: Candidate = (socket.AF_INET, ("192.0.2.1", 443))
TWO: Candidate = (socket.AF_INET, ("192.0.2.2", 443))


class Asker:
    """A name whose look-ups a test answers, and the loop that hears of it."""

    def __init__(
        self,
        *,
        allowlist: Allowlist | None = None,
        prefer: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> None:
        self.now = 0.0
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.asked = 0
        self.heard: list[Answer] = []
        self.name = HostName(
            "the.server",
            443,
            self.calls.put,
            look_up=self._look_up,
            monotonic=lambda: self.now,
            keep=30,
            allowlist=allowlist,
            prefer=prefer,
        )

    def _look_up(self, *_: object) -> list[Candidate]:
        self.asked += 1
        answer = self.answers.get(timeout=PATIENCE)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def find(self) -> None:
        self.name.find(self.heard.append)

    def answer(self, answer: Answer) -> None:
        self.answers.put(answer)
        self.calls.get(timeout=PATIENCE)()


def test_an_answer_is_kept_for_a_while_and_no_longer() -> None:
    asker = Asker()
    asker.find()
    asker.answer([ONE])
    asker.now = 14.9
    asker.find()
    assert (asker.asked, asker.heard) == (1, [[ONE], [ONE]])
    asker.now = 45.0
    asker.find()
    asker.answer([TWO])
    assert (asker.asked, asker.heard[2:]) == (2, [[TWO]])


def test_a_busy_name_is_asked_for_again_before_anybody_has_to_wait() -> None:
    asker = Asker()
    asker.find()
    asker.answer([ONE])
    asker.now = 15.0
    for _ in range(3):
        asker.find()
    assert asker.heard == [[ONE]] * 4
    asker.answer([TWO])
    asker.now = 29.0
    asker.find()
    assert (asker.asked, asker.heard[4:]) == (2, [[TWO]])


def test_many_ask_and_one_look_up_answers_all() -> None:
    asker = Asker()
    heard: list[tuple[int, Answer]] = []
    for i in range(20):
        asker.name.find(lambda answer, i=i: heard.append((i, answer)))  # type: ignore[misc]
    asker.answer([ONE])
    assert asker.asked == 1
    assert heard == [(i, [ONE]) for i in range(20)]


def test_who_is_forgotten_hears_nothing() -> None:
    asker = Asker()
    asker.find()
    asker.name.forget(asker.heard.append)
    asker.answer([ONE])
    assert asker.heard == []


def test_old_addresses_serve_where_a_look_up_fails() -> None:
    asker = Asker()
    asker.find()
    asker.answer([ONE])
    asker.now = 100.0
    asker.find()
    asker.answer(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
    assert asker.heard == [[ONE], [ONE]]


def test_a_failure_is_not_kept() -> None:
    asker = Asker()
    asker.find()
    asker.answer(socket.gaierror(socket.EAI_NONAME, "unknown"))
    asker.find()
    asker.answer([ONE])
    assert isinstance(asker.heard[0], socket.gaierror)
    assert asker.heard[1] == [ONE]


def test_an_address_that_failed_is_tried_last() -> None:
    asker = Asker()
    asker.find()
    asker.answer([ONE, TWO])
    asker.name.failed(ONE)
    asker.find()
    assert asker.heard[1] == [TWO, ONE]
    asker.name.failed((socket.AF_INET, ("192.0.2.3", 443)))  # Of an older answer.
    asker.find()
    assert asker.heard[2] == [TWO, ONE]


def test_an_address_that_is_not_allowed_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    metadata: Candidate = (socket.AF_INET, ("169.254.169.254", 443))
    asker = Asker(allowlist=Allowlist(frozenset({("the.server", 443)})))
    asker.find()
    asker.answer([metadata, ONE])
    assert asker.heard == [[ONE]]
    asker.now = 100.0
    asker.find()
    asker.answer([metadata])  # What was known before does not serve on: the name has changed.
    assert isinstance(asker.heard[1], PermissionError)
    asker.find()
    asker.answer([ONE])
    assert asker.heard[2] == [ONE]
    assert "the.server resolves to 169.254.169.254, a special address" in caplog.text


def test_a_preferred_family_comes_first() -> None:
    six: Candidate = (socket.AF_INET6, ("2001:db8::1", 443, 0, 0))
    for prefer, expected in (
        (socket.AF_UNSPEC, [ONE, six, TWO]),
        (socket.AF_INET, [ONE, TWO, six]),
        (socket.AF_INET6, [six, ONE, TWO]),
    ):
        asker = Asker(prefer=prefer)
        asker.find()
        asker.answer([ONE, six, TWO])
        assert asker.heard == [expected]


def test_no_thread_to_be_had_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vsock_proxy.relay.targets.threading.Thread", no_thread)
    asker = Asker()
    asker.find()
    asker.calls.get(timeout=PATIENCE)()
    assert isinstance(asker.heard[0], OSError)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (UnixAddress("/run/x"), [(socket.AF_UNIX, "/run/x")]),
        (VsockAddress(16, 5000), [(socket.AF_VSOCK, (16, 5000))]),
        (TcpAddress("127.0.0.1", 443), [(socket.AF_INET, ("127.0.0.1", 443))]),
        (TcpAddress("::1", 443), [(socket.AF_INET6, ("::1", 443, 0, 0))]),
    ],
)
def test_every_kind_of_address_is_a_target(address: Address, expected: list[Candidate]) -> None:
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    heard: list[Answer] = []
    target_for(address, calls.put).find(heard.append)
    if isinstance(address, TcpAddress):
        calls.get(timeout=PATIENCE)()
    assert heard == [expected]


def test_a_family_is_a_restriction() -> None:
    assert look_up("127.0.0.1", 1, socket.AF_INET)
    with pytest.raises(socket.gaierror):
        look_up("127.0.0.1", 1, socket.AF_INET6)
