"""The daemon's log: a line is a line, whatever stands in it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

import pytest

from parent.daemon.log_format import JsonFormatter, TextFormatter
from parent.logs.sinks import open_sink


def record(level: int, message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("parent.x", level, __file__, 1, message, values, None)


def test_text() -> None:
    text = TextFormatter()
    assert text.format(record(logging.INFO, "a %d", 1)) == "enclave-parent: a 1"
    assert text.format(record(logging.WARNING, "b")) == "enclave-parent: warning: b"


def test_nothing_breaks_a_line_or_moves_the_cursor() -> None:
    hostile = "x\nenclave-parent: forged\x1b[2J\u202e\x85\u2028"
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record(logging.INFO, "%s", hostile))
        assert line.isascii()
        assert line.isprintable()
        assert len(line.splitlines()) == 1


def test_json() -> None:
    shown = json.loads(JsonFormatter().format(record(logging.ERROR, "a %s", "b")))
    assert datetime.fromisoformat(shown.pop("time")).tzinfo
    assert shown == {"level": "error", "logger": "parent.x", "message": "a b"}


@pytest.mark.parametrize(("cid", "more"), [(16, {"cid": 16}), (None, {})])
def test_json_has_whose_line_it_is(
    cid: int | None, more: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parent.logs.enclave")
    open_sink("stderr").write("worker", cid, "hello")
    (line,) = caplog.records
    shown = json.loads(JsonFormatter().format(line))
    assert {key: shown[key] for key in shown if key in ("enclave", "cid")} == {
        "enclave": "worker", **more,
    }  # fmt: skip


def test_json_with_an_exception() -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        failed = record(logging.ERROR, "failed")
        failed.exc_info = sys.exc_info()
    shown = json.loads(JsonFormatter().format(failed))
    assert shown["exception"].endswith("ZeroDivisionError: division by zero")
