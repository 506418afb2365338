"""sd_notify(3), as far as it goes here."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_who_asked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        asker.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert notify()
        assert asker.recv(100) == b"READY=1"


def test_an_abstract_name_starts_with_an_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        asker.bind("")  # The kernel chooses an abstract one.
        name = asker.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        assert notify("STOPPING=1")
        assert asker.recv(100) == b"STOPPING=1"


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify()


def test_who_asked_and_left_is_no_reason_not_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify()
    assert "cannot notify" in caplog.text
