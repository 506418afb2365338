"""Parses YAML to nodes, which know their lines; errors name the line as well. No I/O."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.mistakes import SettingError

_IN_NO_PATH: Final = re.compile("[\0\ud800-\udfff]")
"""What only an escape can bring into text, and no path, name or argument of a program can hold."""


def compose(data: bytes, *, source: str, depth: int) -> yaml.Node | None:
    """Return the one document in `data`, or None if it is empty.

    Args:
        data: YAML.
        source: its name in errors.
        depth: levels of nested lists and mappings that are allowed.

    Raises:
        ConfigurationError: it is not YAML, or has several documents, an alias, or NUL or half of a
            surrogate pair in an escape.
    """
    try:
        loader = _Composer(data, depth)
        try:
            return loader.get_single_node()
        except (ValueError, OverflowError) as e:
            # PyYAML lets out what `chr` and `int` raise: "\\UFFFFFFFF", or thousands of digits.
            raise SettingError(source, loader.line + 1, "not YAML: a number out of range") from e
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        raise _not_yaml(source, e) from e
    except yaml.reader.ReaderError as e:
        raise _unreadable(source, data, e) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{source}: not YAML: not text") from e


class _Composer(yaml.SafeLoader):
    """Makes nodes, never objects: nothing in a file can name a Python type."""

    def __init__(self, data: bytes, depth: int) -> None:
        super().__init__(data)
        self._left = depth

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            # Not needed here, and a few can stand for billions of values.
            raise _RejectedError("aliases are not allowed", event)
        if isinstance(event, yaml.ScalarEvent) and (bad := _IN_NO_PATH.search(event.value)):
            raise _RejectedError(f"the character U+{ord(bad[0]):04X} is not allowed", event)
        if not self._left:
            raise _RejectedError("too many nested levels", event)
        self._left -= 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._left += 1


class _RejectedError(yaml.MarkedYAMLError):
    def __init__(self, problem: str, event: Any) -> None:
        super().__init__(problem=problem, problem_mark=event.start_mark)


def _not_yaml(source: str, error: yaml.MarkedYAMLError) -> ConfigurationError:
    problem = error.problem or error.context or "syntax error"
    hint = ""
    if "'\\t'" in problem:
        hint = "YAML is indented with spaces, never with tabs"
    if error.problem_mark is None:
        return ConfigurationError(f"{source}: not YAML: {problem}", hint=hint)
    return SettingError(source, error.problem_mark.line + 1, f"not YAML: {problem}", hint=hint)


def _unreadable(source: str, data: bytes, error: yaml.reader.ReaderError) -> ConfigurationError:
    """Name the line of what is not text: PyYAML tells its position, in bytes or in characters."""
    position: int = error.position
    if error.encoding != "unicode":
        return SettingError(
            source,
            data[:position].count(b"\n") + 1,
            f"not YAML: byte 0x{error.character:02x} is not {error.encoding.upper()}",
            hint="save the file as UTF-8",
        )
    line = data.decode(errors="replace")[:position].count("\n") + 1
    return SettingError(
        source, line, f"not YAML: the character U+{error.character:04X} is not allowed"
    )
