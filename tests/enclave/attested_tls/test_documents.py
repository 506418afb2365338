"""Documents: one NSM for many clients."""

from __future__ import annotations

import asyncio
import threading

import pytest

from enclave.attested_tls.documents import MAX_WAITING, Documents, TooManyRequestsError
from enclave.errors import AttesterError
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT


class Attester:
    """Counts, and waits until it may go on."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes | None, bytes | None]] = []
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def attest(
        self,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        assert public_key is None, "KMS would take the document as a Recipient"
        self.calls.append((user_data, nonce))
        assert self.open.wait(TEST_TIMEOUT)
        if self.error is not None:
            raise self.error
        return b"document %d" % len(self.calls)


def test_every_nonce_gets_a_document_of_its_own() -> None:
    async def run() -> None:
        attester = Attester()
        documents = Documents(attester)
        assert await documents.fresh(b"u", b"1") != await documents.fresh(b"u", b"2")
        assert await documents.fresh(b"u", b"1") == b"document 3", "never an old one"
        assert attester.calls == [(b"u", b"1"), (b"u", b"2"), (b"u", b"1")]
        documents.close()

    asyncio.run(run())


def test_without_a_nonce_one_document_serves_all_for_a_minute() -> None:
    async def run() -> None:
        attester, clock = Attester(), ManualClock()
        documents = Documents(attester, monotonic=clock.monotonic)
        together = await asyncio.gather(*(documents.cached(b"u") for _ in range(50)))
        assert set(together) == {b"document 1"}
        clock.elapsed = 59.0
        assert await documents.cached(b"u") == b"document 1"
        assert await documents.cached(b"other key") == b"document 2"
        clock.elapsed = 120.0
        assert await documents.cached(b"other key") == b"document 3"
        documents.close()

    asyncio.run(run())


def test_documents_a_second_are_limited() -> None:
    async def run() -> None:
        clock = ManualClock()
        documents = Documents(Attester(), rate=3, monotonic=clock.monotonic)
        for nonce in (b"1", b"2", b"3"):
            await documents.fresh(b"u", nonce)
        with pytest.raises(TooManyRequestsError):
            await documents.fresh(b"u", b"4")
        clock.elapsed = 0.4
        await documents.fresh(b"u", b"5")
        with pytest.raises(TooManyRequestsError):
            await documents.fresh(b"u", b"6")
        clock.elapsed = 100.0
        for nonce in (b"7", b"8", b"9"):
            await documents.fresh(b"u", nonce)
        with pytest.raises(TooManyRequestsError):
            await documents.fresh(b"u", b"10")
        assert (documents.made, documents.rejected) == (7, 3)
        documents.close()

    asyncio.run(run())


def test_a_queue_before_a_slow_nsm_is_bounded() -> None:
    async def run() -> None:
        attester = Attester()
        attester.open.clear()
        documents = Documents(attester, rate=1000)
        waiting = [
            asyncio.ensure_future(documents.fresh(b"u", b"%d" % each))
            for each in range(MAX_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequestsError):
            await documents.fresh(b"u", b"more")
        attester.open.set()
        assert len(set(await asyncio.gather(*waiting))) == MAX_WAITING
        documents.close()

    asyncio.run(run())


def test_a_client_that_leaves_takes_nothing_from_the_others() -> None:
    async def run() -> None:
        attester = Attester()
        attester.open.clear()
        documents = Documents(attester)
        first, second = (asyncio.ensure_future(documents.cached(b"u")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        attester.open.set()
        assert await second == b"document 1"
        documents.close()

    asyncio.run(run())


def test_an_nsm_that_hangs_or_fails_is_one_error() -> None:
    async def run() -> None:
        attester = Attester()
        attester.open.clear()
        documents = Documents(attester, timeout=0.01)
        with pytest.raises(AttesterError, match="within"):
            await documents.fresh(b"u", b"1")
        attester.error = AttesterError("broken")
        attester.open.set()
        patient = Documents(attester, timeout=TEST_TIMEOUT)
        with pytest.raises(AttesterError, match="broken"):
            await patient.fresh(b"u", b"2")
        attester.error = None
        assert await patient.fresh(b"u", b"2") == b"document 3"
        documents.close()
        patient.close()

    asyncio.run(run())


def test_no_document_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        documents = Documents(Attester())
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", start)
            with pytest.raises(AttesterError, match="can't start new thread"):
                await documents.fresh(b"u", b"1")
        assert await documents.fresh(b"u", b"2") == b"document 2", "the first was made for nobody"
        documents.close()
        with pytest.raises(AttesterError, match="after shutdown"):
            await documents.fresh(b"u", b"3")

    asyncio.run(run())
