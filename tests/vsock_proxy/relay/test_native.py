"""The loop with its innermost part in C: choosing it, building it, and what it counts.

That it relays as the loop in Python does is shown by the relay's own tests, which run over both.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import Place, Rig, Server, read_exactly
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.proxy.counters import DOWN, UP
from vsock_proxy.relay import native
from vsock_proxy.relay.build import main
from vsock_proxy.relay.loop import Loop
from vsock_proxy.relay.native import VARIABLE, NativeLoop, make_loop

if TYPE_CHECKING:
    from pathlib import Path


def test_library_is_used_if_it_is_built(library: Path) -> None:
    with make_loop(library=library) as loop:
        assert isinstance(loop, NativeLoop)
    with make_loop(library=library, environ={VARIABLE: "python"}) as loop:
        assert type(loop) is Loop


def test_without_a_library_the_loop_is_python(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with make_loop(library=tmp_path / "none.so") as loop:
        assert type(loop) is Loop
    assert not caplog.records, "it is optional"


@pytest.mark.parametrize(
    ("value", "message"), [("native", "does not load"), ("C", "neither python nor native")]
)
def test_a_choice_that_cannot_be_had(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_loop(library=tmp_path / "none.so", environ={VARIABLE: value})
    assert caught.value.hint


def test_library_of_other_sources_is_not_used(
    library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "sources", lambda: "others")
    with caplog.at_level(logging.WARNING), make_loop(library=library) as loop:
        assert type(loop) is Loop
    assert "compiled from other sources: build it again" in caplog.text


def test_file_that_is_no_library(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.so").write_bytes(b"not an object file")
    with caplog.at_level(logging.WARNING), make_loop(library=tmp_path / "bad.so") as loop:
        assert type(loop) is Loop
    assert "the relay runs in Python alone" in caplog.text


def test_build_replaces_the_library(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = library.stat().st_ino
    assert main([], library=library) == 0
    assert library.stat().st_ino != before
    assert "built, and loads" in capsys.readouterr().out
    assert [path.name for path in library.parent.iterdir()] == [library.name]


def test_failed_build_leaves_the_library(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = library.read_bytes()
    monkeypatch.setenv("CFLAGS", "-DPUMP_MORE=1")
    assert main([], library=library) == 1
    assert "do not compile" in capsys.readouterr().err
    monkeypatch.setenv("CC", "/no/such/cc")
    assert main([], library=library) == 1
    assert "cannot run the C compiler '/no/such/cc'" in capsys.readouterr().err
    assert library.read_bytes() == before


def test_bytes_of_open_and_closed_connections_are_counted(
    place: Place, server: Server, innermost: str
) -> None:
    with Rig(place.address("proxy"), server.address) as rig:
        client = rig.connect()
        with client, server.accept() as accepted:
            for _ in range(3):
                client.sendall(b"12345")
                assert read_exactly(accepted, 5) == b"12345"
                accepted.sendall(b"12")
                assert read_exactly(client, 2) == b"12"
            rig.wait_until(lambda: counted(rig) == (15, 6))
            by_the_loop = sum(rig.loop.moved(fd) for fd in range(64))
            assert (by_the_loop > 0) == (innermost == "native")
            client.shutdown(socket.SHUT_WR)
            accepted.sendall(b"1")
            accepted.close()
            assert read_all(client) == b"1"
        rig.wait_until(lambda: not rig.forwarder.in_use)
        assert counted(rig) == (15, 7)


def counted(rig: Rig) -> tuple[int, int]:
    counters = rig.forwarder.snapshot().counters
    return counters.bytes[UP], counters.bytes[DOWN]


def test_table_grows_with_the_descriptors(library: Path) -> None:
    with NativeLoop(native.Pump(library)) as loop:
        loop.join(5, 6)
        loop.join(5000, 7)
        assert (loop.moved(5), loop.moved(5000)) == (0, 0)
        assert loop._sides[6].peer == 5
        assert loop._sides[8].peer == -1
        loop.part(5, 6)
        assert loop._sides[6].peer == -1
