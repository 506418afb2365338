"""The daemon's log on stderr: lines for people, or JSON for programs.

Whatever is logged, a record is one line: data from an enclave or from the network can neither begin
a new line nor control a terminal.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from vsock_proxy.service.console import printable

PROGRAM: Final = "enclave-parent"

OURS: Final = ("parent", "vsock_proxy")

# Their messages about failures contain what was read, and so secrets; ours tell what failed.
_SILENCED: Final = ("botocore", "urllib3", "asyncio")


_FIELDS: Final = ("enclave", "cid")


class TextFormatter(logging.Formatter):
    """``enclave-parent: warning: ...``; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{PROGRAM}: {level}{printable(super().format(record))}"


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (RFC 3339), ``level``, ``logger``, ``message``, ``exception``.

    A line of an enclave has its name as ``enclave``, and its ``cid``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shown: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        shown |= {
            key: found for key in _FIELDS if (found := getattr(record, key, None)) is not None
        }
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown)


def log_to_stderr(form: str, *, verbose: bool) -> None:
    """Set up logging for the whole process; `form` is ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
