"""Resolving host names: one look-up at a time, cached, stale rather than nothing."""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.resolving import look_up
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.relay.resolver import (
    AddressPolicy,
    HostResolver,
    LookUpThreads,
    Resolved,
    resolver_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.resolving import Candidate

ONE: Candidate = (socket.AF_INET, ("192.0.2.1", 443))
TWO: Candidate = (socket.AF_INET, ("192.0.2.2", 443))


class Looker:
    """A resolver whose look-ups the test answers, and the loop it calls."""

    def __init__(
        self,
        *,
        allowlist: Allowlist | None = None,
        prefer: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> None:
        self.now = 0.0
        self.results: queue.SimpleQueue[Resolved] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.look_ups = 0
        self.found: list[Resolved] = []
        self.resolver = HostResolver(
            TcpAddress("the.server", 443),
            AddressPolicy(prefer=prefer, permissions=allowlist),
            self.calls.put,
            look_up=self._look_up,
            monotonic=lambda: self.now,
            keep=30,
        )

    def _look_up(self, *_: object) -> list[Candidate]:
        self.look_ups += 1
        answer = self.results.get(timeout=TEST_TIMEOUT)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def find(self) -> None:
        self.resolver.find(self.found.append)

    def resolve(self, result: Resolved) -> None:
        self.results.put(result)
        self.calls.get(timeout=TEST_TIMEOUT)()


def test_addresses_are_kept_for_their_time() -> None:
    looker = Looker()
    looker.find()
    looker.resolve([ONE])
    looker.now = 14.9
    looker.find()
    assert (looker.look_ups, looker.found) == (1, [[ONE], [ONE]])
    looker.now = 45.0
    looker.find()
    looker.resolve([TWO])
    assert (looker.look_ups, looker.found[2:]) == (2, [[TWO]])


def test_busy_name_is_refreshed_before_its_addresses_expire() -> None:
    looker = Looker()
    looker.find()
    looker.resolve([ONE])
    looker.now = 15.0
    for _ in range(3):
        looker.find()
    assert looker.found == [[ONE]] * 4
    looker.resolve([TWO])
    looker.now = 29.0
    looker.find()
    assert (looker.look_ups, looker.found[4:]) == (2, [[TWO]])


def test_concurrent_requests_share_one_look_up() -> None:
    looker = Looker()
    found: list[tuple[int, Resolved]] = []
    for i in range(20):
        looker.resolver.find(lambda answer, i=i: found.append((i, answer)))  # type: ignore[misc]
    looker.resolve([ONE])
    assert looker.look_ups == 1
    assert found == [(i, [ONE]) for i in range(20)]


def test_forgotten_request_is_not_called() -> None:
    looker = Looker()
    looker.find()
    looker.resolver.forget(looker.found.append)
    looker.resolve([ONE])
    assert looker.found == []


def test_old_addresses_are_used_if_a_look_up_fails() -> None:
    looker = Looker()
    looker.find()
    looker.resolve([ONE])
    looker.now = 100.0
    looker.find()
    looker.resolve(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
    assert looker.found == [[ONE], [ONE]]


def test_failure_is_not_kept() -> None:
    looker = Looker()
    looker.find()
    looker.resolve(socket.gaierror(socket.EAI_NONAME, "unknown"))
    looker.find()
    looker.resolve([ONE])
    assert isinstance(looker.found[0], socket.gaierror)
    assert looker.found[1] == [ONE]


def test_failed_address_is_tried_last() -> None:
    looker = Looker()
    looker.find()
    looker.resolve([ONE, TWO])
    looker.resolver.failed(ONE)
    looker.find()
    assert looker.found[1] == [TWO, ONE]
    looker.resolver.failed((socket.AF_INET, ("192.0.2.3", 443)))  # Of an older answer.
    looker.find()
    assert looker.found[2] == [TWO, ONE]


def test_address_that_is_not_allowed_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    metadata: Candidate = (socket.AF_INET, ("169.254.169.254", 443))
    looker = Looker(allowlist=Allowlist(frozenset({("the.server", 443)})))
    looker.find()
    looker.resolve([metadata, ONE])
    assert looker.found == [[ONE]]
    looker.now = 100.0
    looker.find()
    looker.resolve([metadata])  # What was known before does not serve on: the name has changed.
    assert isinstance(looker.found[1], PermissionError)
    looker.find()
    looker.resolve([ONE])
    assert looker.found[2] == [ONE]
    assert "the.server resolves to 169.254.169.254, a special address" in caplog.text


def test_preferred_family_comes_first() -> None:
    six: Candidate = (socket.AF_INET6, ("2001:db8::1", 443, 0, 0))
    for prefer, expected in (
        (socket.AF_UNSPEC, [ONE, six, TWO]),
        (socket.AF_INET, [ONE, TWO, six]),
        (socket.AF_INET6, [six, ONE, TWO]),
    ):
        looker = Looker(prefer=prefer)
        looker.find()
        looker.resolve([ONE, six, TWO])
        assert looker.found == [expected]


def test_failure_to_start_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vsock_proxy.relay.resolver.threading.Thread", no_thread)
    looker = Looker()
    looker.find()
    looker.calls.get(timeout=TEST_TIMEOUT)()
    assert isinstance(looker.found[0], OSError)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (UnixAddress("/run/x"), [(socket.AF_UNIX, "/run/x")]),
        (VsockAddress(16, 5000), [(socket.AF_VSOCK, (16, 5000))]),
        (TcpAddress("127.0.0.1", 443), [(socket.AF_INET, ("127.0.0.1", 443))]),
        (TcpAddress("::1", 443), [(socket.AF_INET6, ("::1", 443, 0, 0))]),
    ],
)
def test_every_kind_of_address_can_be_a_target(address: Address, expected: list[Candidate]) -> None:
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    found: list[Resolved] = []
    resolver_for(address, AddressPolicy(), calls.put).find(found.append)
    if isinstance(address, TcpAddress):
        calls.get(timeout=TEST_TIMEOUT)()
    assert found == [expected]


def test_family_restricts_the_look_up() -> None:
    assert look_up("127.0.0.1", 1, socket.AF_INET)
    with pytest.raises(socket.gaierror):
        look_up("127.0.0.1", 1, socket.AF_INET6)


def test_one_group_of_look_ups_gets_a_quarter_of_threads_and_places() -> None:
    go_on = threading.Event()
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = LookUpThreads(calls.put, threads=8, waiting=16)

    def dead() -> None:
        assert go_on.wait(TEST_TIMEOUT)
        done.put("dead")

    for _ in range(2 + 4):
        threads.run(dead, "dead")
    with pytest.raises(RuntimeError, match="too many names"):
        threads.run(dead, "dead")
    for number in range(6):
        threads.run(lambda: done.put("other"), f"other {number}")
    assert [done.get(timeout=TEST_TIMEOUT) for _ in range(6)] == ["other"] * 6
    go_on.set()
    for _ in range(6 + 6):
        calls.get(timeout=TEST_TIMEOUT)()  # its end, on the loop
    assert [done.get(timeout=TEST_TIMEOUT) for _ in range(6)] == ["dead"] * 6
    assert not threads._running
    assert not threads._waiting


def test_look_up_that_waits_is_not_held_up_by_those_before_it() -> None:
    go_on = threading.Event()
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = LookUpThreads(calls.put, threads=4, waiting=16)

    def dead() -> None:
        assert go_on.wait(TEST_TIMEOUT)

    for group in "abcd":
        threads.run(dead, group)
    threads.run(dead, "a")
    threads.run(lambda: done.put("e"), "e")
    threads._ended("d")  # as if its thread had ended: "a" has its quarter
    assert done.get(timeout=TEST_TIMEOUT) == "e"
    go_on.set()


def test_look_ups_that_wait_are_started_though_no_end_could_start_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = LookUpThreads(calls.put, threads=1, waiting=16)
    threads.run(lambda: done.put("first") if go_on.wait(TEST_TIMEOUT) else None, "a")
    for group in "bc":
        threads.run(lambda group=group: done.put(group), group)  # type: ignore[misc]
    go_on.set()
    end = calls.get(timeout=TEST_TIMEOUT)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", start)
        end()
        threads.start_waiting()  # a tick: still no thread
    assert not threads._running
    threads.start_waiting()  # the next one
    for _ in range(2):
        calls.get(timeout=TEST_TIMEOUT)()
    assert [done.get(timeout=TEST_TIMEOUT) for _ in range(3)] == ["first", "b", "c"]
    assert not threads._waiting
