"""Restriction to CIDs. The sockets are stand-ins: no test opens a vsock socket."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, cast

import pytest

from tests.vsock_proxy.rig import Place, Rig, Server, ask, closed_without_a_byte
from vsock_proxy.net.peers import cid_allowed, peer_cid

if TYPE_CHECKING:
    from collections.abc import Container


class Accepted:
    def __init__(self, family: socket.AddressFamily) -> None:
        self.family = family


def accepted(family: socket.AddressFamily) -> socket.socket:
    return cast("socket.socket", Accepted(family))


@pytest.mark.parametrize(
    ("family", "peer", "cid"),
    [
        (socket.AF_VSOCK, (16, 4_000_000_000), 16),
        (socket.AF_VSOCK, (1, 5000), 1),
        (socket.AF_UNIX, "", None),
        (socket.AF_INET, ("127.0.0.1", 16), None),
        (socket.AF_INET6, ("::1", 16, 0, 0), None),
        (socket.AF_UNIX, (16, 4000), None),
    ],
)
def test_only_vsock_peers_have_a_cid(
    family: socket.AddressFamily, peer: object, cid: int | None
) -> None:
    assert peer_cid(accepted(family), peer) == cid


@pytest.mark.parametrize(
    ("family", "peer", "cids", "allowed"),
    [
        (socket.AF_VSOCK, (16, 1), None, True),
        (socket.AF_VSOCK, (16, 1), {16, 17}, True),
        (socket.AF_VSOCK, (18, 16), {16, 17}, False),
        (socket.AF_VSOCK, (16, 1), set[int](), False),
        (socket.AF_UNIX, "", None, True),
        (socket.AF_UNIX, "", {16}, False),
        (socket.AF_INET, ("127.0.0.1", 16), {16}, False),
    ],
)
def test_peer_without_an_allowed_cid_is_rejected(
    family: socket.AddressFamily,
    peer: object,
    cids: Container[int] | None,
    allowed: bool,
) -> None:
    assert cid_allowed(accepted(family), peer, cids) is allowed


def test_listener_rejects_other_cids_and_goes_on(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vsock_proxy")
    cids = iter([16, *[17] * 30, 16])
    monkeypatch.setattr("vsock_proxy.net.peers.peer_cid", lambda *_: next(cids))
    with Rig(place.address("proxy"), server.address, cids=frozenset({16})) as rig:
        ask(rig, server)
        for _ in range(30):
            with rig.connect() as client:
                assert closed_without_a_byte(client)
        ask(rig, server)
        counters = rig.forwarder.counters
        rig.wait_until(lambda: rig.forwarder.in_use == 0)
        assert (counters.accepted, counters.relayed) == (32, 2)
        assert counters.rejected == {"cid": 30}
    assert caplog.text.count("its CID is not allowed") == 10
