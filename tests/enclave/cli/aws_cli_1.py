"""Parts of AWS CLI version 1, in this process, to compare ours with.

Importing it puts its own data into AWS_DATA_PATH, where every program that is started later finds
them: AWS CLI version 2 then ended in "'Namespace' object has no attribute 'cli_binary_format'".
"""

from __future__ import annotations

import os

_before = os.environ.get("AWS_DATA_PATH")

from awscli.formatter import TableFormatter  # noqa: E402
from awscli.shorthand import ShorthandParseError, ShorthandParser  # noqa: E402
from awscli.table import MultiTable, Styler  # noqa: E402
from awscli.text import format_text  # noqa: E402

if _before is None:
    os.environ.pop("AWS_DATA_PATH", None)
else:
    os.environ["AWS_DATA_PATH"] = _before

__all__ = [
    "MultiTable",
    "ShorthandParseError",
    "ShorthandParser",
    "Styler",
    "TableFormatter",
    "format_text",
]
