"""A reload that fails: every mistake and its hint is in the log, and the process goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.waiting import eventually
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.mistakes import ConfigurationErrors
from vsock_proxy.service.reloading import Reloader

if TYPE_CHECKING:
    import pytest


def test_every_mistake_of_a_reload_is_logged_with_its_hint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    failures: list[Exception] = [
        ConfigurationErrors(
            [
                ConfigurationError("f:1: wrong", hint="write x"),
                ConfigurationError("f:2: wrong as well", hint="write y"),
            ]
        ),
        ZeroDivisionError(),
    ]

    def reload() -> None:
        if failures:
            raise failures.pop(0)

    reloader = Reloader(reload)
    for _ in range(3):
        reloader.request()
    eventually(lambda: "reloaded" in caplog.messages)
    assert caplog.messages == [
        "not reloaded, the old settings stay: f:1: wrong; f:2: wrong as well",
        "hint: write x",
        "hint: write y",
        "not reloaded, internal error",
        "reloaded",
    ]
