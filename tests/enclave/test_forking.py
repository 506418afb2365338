"""Fork at any moment: no child ever waits for a lock that another thread held."""

from __future__ import annotations

import contextlib
import gc
import importlib
import socket
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from enclave import Agent, forking
from enclave.credentials import ParentCredentials
from enclave.logs.sender import Sender
from enclave.nsm import DevNsm
from enclave.pool import RandomPool
from enclave.recipient.keypair import KEY_BITS, KeyPairAhead
from enclave_simulator.parent.credentials import CredentialServer, simulated_document
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.enclave.conftest import Enclave

# Python 3.12 warns of forks beside threads, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

LOCKS = (type(threading.Lock()), type(threading.RLock()))
OURS = ("enclave.", "vsock_proxy.", "queue", "threading", "concurrent.")
NOT_OURS = (types.ModuleType, types.FunctionType, types.FrameType, type, threading.Thread)


def locks_in(*roots: object) -> list[Any]:
    """Return every lock that the attributes of our objects lead to."""
    found, seen, ahead = [], set(), list(roots)
    while ahead:
        each = ahead.pop()
        if id(each) in seen or isinstance(each, NOT_OURS):
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, dict | list | tuple | set) or type(each).__module__.startswith(OURS):
            ahead.extend(gc.get_referents(each))
        elif isinstance(each, types.MethodType):
            ahead.append(each.__self__)
        elif isinstance(each, types.CellType):
            with contextlib.suppress(ValueError):  # empty
                ahead.append(each.cell_contents)
    return found


@contextlib.contextmanager
def held_by_another_thread(locks: list[Any]) -> Iterator[None]:
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        taken = [lock for lock in locks if lock.acquire(timeout=1)]
        holding.set()
        done.wait(TEST_TIMEOUT)
        for lock in taken:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(TEST_TIMEOUT)
    yield
    done.set()
    thread.join(TEST_TIMEOUT)


@pytest.fixture
def service() -> Iterator[TcpAddress]:
    """The parent's credential service."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = CredentialServer(listener, simulated_document)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield TcpAddress("127.0.0.1", listener.getsockname()[1])
    server.shutdown()
    thread.join(TEST_TIMEOUT)
    server.server_close()


@pytest.mark.parametrize("used", [True, False], ids=["used", "new"])
def test_a_child_makes_calls_whichever_lock_was_held(
    enclave: Enclave, service: TcpAddress, used: bool
) -> None:
    agent = enclave.agent(credentials=ParentCredentials(service))
    if used:
        agent.generate_random(8)
    locks = locks_in(agent)
    assert len(locks) >= 3, "the agent's own, the pool's, the credentials'"
    with held_by_another_thread(locks):
        run_in_child(lambda: assert_length(agent.generate_random(8), 8))
    agent.generate_random(8)


def assert_length(data: bytes | str, length: int) -> None:
    assert len(data) == length


def test_a_child_has_a_key_pair_of_its_own(enclave: Enclave) -> None:
    agent = enclave.agent()
    ours = agent.recipient()

    def in_child() -> None:
        assert agent.recipient() is not ours
        assert ours.attestation_document()  # whoever holds the old one can go on with it

    with held_by_another_thread(locks_in(ours)):
        run_in_child(in_child)
    assert agent.recipient() is ours


def test_a_child_makes_the_key_pair_that_another_thread_was_making() -> None:
    ahead = KeyPairAhead()

    def in_child() -> None:
        assert ahead.private_key().key_size == KEY_BITS

    run_in_child(in_child)
    ahead.private_key()


def test_a_child_of_a_process_in_the_middle_of_the_first_call(enclave: Enclave) -> None:
    """The real thing: forks spread over first calls of another thread."""
    for delay in range(8):
        agent = enclave.agent()
        started, pause = threading.Event(), threading.Event()

        def call(agent: Agent = agent, started: threading.Event = started) -> None:
            started.set()
            agent.generate_random(8)
            agent.generate_random(8)

        thread = threading.Thread(target=call)
        thread.start()
        assert started.wait(TEST_TIMEOUT)
        pause.wait(delay / 100)
        run_in_child(lambda agent=agent: assert_length(agent.generate_random(8), 8))  # type: ignore[misc]
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()


def test_a_child_of_a_process_that_renews_its_document(enclave: Enclave) -> None:
    attesting, go_on = threading.Event(), threading.Event()

    class Slow:
        """An NSM that takes its time at the second document."""

        documents = 0

        def exchange(self, request: bytes) -> bytes:
            self.documents += 1
            if self.documents == 1:
                attesting.set()
                assert go_on.wait(TEST_TIMEOUT)
            return enclave.nsm.exchange(request)

    agent = enclave.agent(device=Slow())
    thread = threading.Thread(target=agent.generate_random, args=(8,))
    thread.start()
    assert attesting.wait(TEST_TIMEOUT)
    run_in_child(lambda: assert_length(agent.generate_random(8), 8))
    go_on.set()
    thread.join(TEST_TIMEOUT)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: RandomPool(bytes), id="random pool"),
        pytest.param(lambda: DevNsm(_open=lambda *_: -1), id="NSM device"),
        pytest.param(lambda: Sender("sink", lambda: pytest.fail("dialed")), id="log sender"),
    ],
)
def test_no_lock_of_ours_is_held_in_a_child(make: Callable[[], Any]) -> None:
    made = make()
    locks = locks_in(made)
    assert locks

    def in_child() -> None:
        assert [lock.acquire(blocking=False) for lock in locks_in(made)] == [True] * len(
            {id(lock) for lock in locks_in(made)}
        )

    with held_by_another_thread(locks):
        run_in_child(in_child)
    if isinstance(made, RandomPool):
        made.close()
        for thread in made._threads:
            thread.join(TEST_TIMEOUT)
    if isinstance(made, Sender):
        made.close(TEST_TIMEOUT)


def test_a_fork_waits_for_an_import_of_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module's lock is not renewed in a child: importing it there would wait for ever."""
    (tmp_path / "slow_to_import.py").write_text(
        "import sys\nsys.modules['__main__'].importing_slowly.set()\n"
        "assert sys.modules['__main__'].may_go_on.wait(300)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    slow, may_go_on = threading.Event(), threading.Event()
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "importing_slowly", slow, raising=False)
    monkeypatch.setattr(main, "may_go_on", may_go_on, raising=False)

    def load() -> None:
        with forking.importing:
            importlib.import_module("slow_to_import")

    thread = threading.Thread(target=load)
    thread.start()
    assert slow.wait(TEST_TIMEOUT)
    waking = threading.Timer(0.05, may_go_on.set)
    waking.start()
    run_in_child(lambda: assert_length(importlib.import_module("slow_to_import").__name__, 14))
    thread.join(TEST_TIMEOUT)
    waking.join(TEST_TIMEOUT)


def test_objects_that_are_gone_are_not_kept_for_forks() -> None:
    pool = RandomPool(bytes)
    assert pool in forking._aware
    pool.close()
    for thread in pool._threads:
        thread.join(TEST_TIMEOUT)
    del pool, thread
    gc.collect()
    assert not [each for each in forking._aware if isinstance(each, RandomPool)]
