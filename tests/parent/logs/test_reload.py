"""Other settings for the log sink while it runs; what is connected stays connected."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from tests.parent.logs.test_logs import Kept, connect, serving, unix
from tests.waiting import eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from pathlib import Path


def test_new_cids_apply_to_new_connections(tmp_path: Path) -> None:
    kept, settings = Kept(), unix(tmp_path)
    sink = LogSink(settings, sink=kept)
    sink.start()
    with connect(settings) as before:
        before.sendall(b"one\n")
        kept.wait_for(1)
        only_16 = dataclasses.replace(settings, cids=frozenset({16}))
        assert sink.reconfigure(only_16, {16: "worker"}) == []
        with connect(settings) as refused:
            assert refused.recv(1) == b""
        before.sendall(b"two\n")
        assert kept.wait_for(2) == ["one", "two"]
        assert sink.status().values["rejected"] == 1
        assert sink.reconfigure(settings, {}) == []
        with connect(settings) as again:
            again.sendall(b"three\n")
            kept.wait_for(3)
    sink.stop(10)


def test_limits_and_names_change(tmp_path: Path) -> None:
    now = 0.0
    kept, settings = Kept(), unix(tmp_path, lines_per_second=10, bytes_per_second=1000)
    with serving(settings, kept, monotonic=lambda: now) as server:
        assert server._source(16).name == "cid-16"
        client = connect(settings)
        server.turn(0)
        client.sendall(b"x\n" * 500)
        server.turn(0)
        assert len(kept.lines) == 50
        more = dataclasses.replace(
            settings, lines_per_second=1000, bytes_per_second=1 << 20, connections=1
        )
        server.reconfigure(more, {16: "worker"})
        server.turn(0)
        assert server._source(16).name == "worker"
        now = 1.0
        client.sendall(b"x\n" * 900)
        server.turn(0)
        assert len(kept.lines) == 950
        with connect(settings) as one_too_many:
            server.turn(0)
            assert one_too_many.recv(1) == b""
        now = 1.01
        client.sendall(b"x\n" * 10)
        server.turn(0)
        assert len(kept.lines) == 960, "the new bytes per second keep nobody waiting"
        client.close()
        server.drain()


def test_another_address_or_sink_needs_a_restart(tmp_path: Path) -> None:
    settings = unix(tmp_path)
    sink = LogSink(settings, sink=Kept())
    other = LogSettings(cids=None, listen=UnixAddress("/x"), to="stderr", connections=1)
    assert sink.reconfigure(other, {}) == ["listen", "to"]
    assert sink.reconfigure(other, {}) == ["listen", "to"]
    sink.start()
    with connect(settings), connect(settings) as refused:
        assert refused.recv(1) == b"", "what can be taken was taken"
    eventually(lambda: sink.status().values["rejected"] == 1)
    sink.stop(10)
