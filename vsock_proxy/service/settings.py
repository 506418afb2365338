"""Reads configuration files: YAML, value by value, with the line in every error.

A file is not converted to objects but kept as YAML nodes, which know their lines. Each part of the
program reads its own keys, by type; an unknown key is an error, because it may have been meant to
restrict something.

    root = load_settings(Path("parent.yaml"))
    fields = root.fields("listen", "timeout", required=("listen",))
    address = fields["listen"].address()
    timeout = fields["timeout"].duration(0.1, 60) if "timeout" in fields else 10.0

This module needs PyYAML: nothing that reaches an enclave image imports it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_PORT, Address, parse_address
from vsock_proxy.service.files import named, opened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

MAX_SIZE = 256 * 1024
"""Bytes of a file; AWS's allowlist of all KMS endpoints has 4,331."""

MAX_DEPTH = 20
"""Levels of nested lists and mappings."""

MAX_ITEMS = 10_000
"""Items of one list."""

_STR, _INT, _BOOL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool"))
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a file, and its position.

    Attributes:
        source: the name of the file in errors.
        name: its key, or that of the list it is an item of; "" for the whole file.
        node: the value.
    """

    source: str
    name: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """The line it begins on, counted from 1."""
        return self.node.start_mark.line + 1

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def wrong(self, what: str, *, hint: str = "") -> ConfigurationError:
        """Make an error about this value: ``FILE:LINE: KEY: WHAT``."""
        key = f"{self.name}: " if self.name else ""
        return ConfigurationError(f"{self.source}:{self.line}: {key}{what}", hint=hint)

    def mapping(self, *, required: Collection[str] = ()) -> dict[str, Setting]:
        """Read a mapping with any keys.

        Raises:
            ConfigurationError: it is not a mapping, a required key is missing, or a key is not
                text, or there twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{_what(self.node)}, not a mapping")
        found: dict[str, Setting] = {}
        for key_node, value in self.node.value:
            key = Setting(self.source, self.name, key_node).string()
            if key in found:
                # YAML parsers disagree about which of the two counts.
                raise Setting(self.source, self.name, key_node).wrong(f"key {key!r:.80} twice")
            found[key] = Setting(self.source, key, value)
        return self._with(required, found)

    def fields(self, *known: str, required: Collection[str] = ()) -> dict[str, Setting]:
        """Read a mapping with these keys and no others.

        Args:
            known: all keys that are allowed.
            required: those of them that must be present.

        Raises:
            ConfigurationError: as `mapping`; also for an unknown key.
        """
        found = self.mapping()
        for key, value in zip(found, self.node.value, strict=True):
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                guess = f" (did you mean {near[0]}?)" if near else ""
                raise Setting(self.source, self.name, value[0]).wrong(
                    f"unknown key {key!r:.80}{guess}", hint=f"known here: {', '.join(known)}"
                )
        return self._with(required, found)

    def _with(self, required: Collection[str], found: dict[str, Setting]) -> dict[str, Setting]:
        for key in required:
            if key not in found:
                raise self.wrong(f"key {key!r} is missing")
        return found

    def items(self, most: int = MAX_ITEMS) -> list[Setting]:
        """Read a list of at most `most` items. Raises ConfigurationError."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{_what(self.node)}, not a list")
        if len(self.node.value) > most:
            raise self.wrong(f"{len(self.node.value)} items; at most {most} are allowed")
        return [Setting(self.source, self.name, item) for item in self.node.value]

    def string(self, *, most: int = 4096) -> str:
        """Read a text of 1 to `most` characters. Raises ConfigurationError."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.value and self.node.tag != _STR:
            raise self.wrong(
                f"{self.node.value!r:.80} is not text in YAML",
                hint="put it in quotes",
            )
        text = self._scalar("text")
        if not text:
            raise self.wrong("empty text")
        if len(text) > most:
            raise self.wrong(f"{len(text)} characters; at most {most} are allowed")
        return text

    def choice(self, *choices: str) -> str:
        """Read one of several words. Raises ConfigurationError."""
        text = self._scalar("a word")
        if text not in choices:
            raise self.wrong(f"{text!r:.80} is not one of: {', '.join(choices)}")
        return text

    def boolean(self) -> bool:
        """Read ``true`` or ``false``. Raises ConfigurationError."""
        # YAML 1.1 also has yes, on, Y and more, which are text in YAML 1.2.
        text = self._scalar("true or false")
        if self.node.tag != _BOOL or text not in ("true", "false"):
            raise self.wrong(f"{text!r:.80} is neither true nor false")
        return text == "true"

    def integer(self, least: int, most: int, *, quoted: bool = False) -> int:
        """Read a decimal integer in `least`..`most`, also in quotes if `quoted`.

        Raises:
            ConfigurationError: it is not an integer, or out of range.
        """
        text = self._scalar("an integer")
        # 0443 is octal to some YAML parsers and decimal to others, and 1_000 and 1:30 are
        # integers to some: all of them are rejected.
        tags = (_INT, _STR) if quoted else (_INT,)
        if (
            self.node.tag not in tags
            or not _INTEGER.fullmatch(text)
            or not least <= int(text) <= most
        ):
            raise self.wrong(f"{text!r:.80} is not an integer in {least}..{most}")
        return int(text)

    def port(self) -> int:
        """Read a TCP port, 1..65535. Raises ConfigurationError."""
        return self.integer(1, MAX_PORT)

    def duration(self, least: float, most: float) -> float:
        """Read a duration: ``10 s``, ``250 ms``, ``5 min``, ``1.5 h``, ``1 d``.

        Returns:
            Seconds, in `least`..`most`.

        Raises:
            ConfigurationError: not a number, unknown unit, or out of range.
        """
        return self._quantity("a duration", _SECONDS, "10 s", least, most, "s")

    def size(self, least: int, most: int) -> int:
        """Read a size: a number with ``B``, ``KiB``, ``MiB``, ``GiB`` or ``TiB``.

        Returns:
            Bytes, in `least`..`most`.

        Raises:
            ConfigurationError: not a number, unknown unit, or out of range.
        """
        return int(self._quantity("a size", _BYTES, "512 MiB", least, most, "B"))

    def address(self) -> Address:
        """Read a socket address (`addresses.parse_address`). Raises ConfigurationError."""
        try:
            return parse_address(self.string())
        except ConfigurationError as e:
            if str(e).startswith(self.source):
                raise
            raise self.wrong(str(e), hint=e.hint) from e

    def _scalar(self, wanted: str) -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.wrong(f"{_what(self.node)}, not {wanted}")
        text: str = self.node.value
        return text

    def _quantity(
        self,
        wanted: str,
        units: Mapping[str, float],
        example: str,
        least: float,
        most: float,
        unit: str,
    ) -> float:
        text = self._scalar(wanted)
        match = _QUANTITY.fullmatch(text)
        hint = f"write {example}; units: {', '.join(units)}"
        if not match or match[2] not in units:
            raise self.wrong(f"{text!r:.80} is not {wanted} with a unit", hint=hint)
        value = float(match[1]) * units[match[2]]
        if not least <= value <= most:
            raise self.wrong(f"{text!r:.80} is not in {least:g} {unit}..{most:g} {unit}", hint=hint)
        return value


def load_settings(path: Path) -> Setting:
    """Read a file of at most `MAX_SIZE` bytes.

    Raises:
        ConfigurationError: it cannot be read, or is not YAML; the message has the line.
    """
    return parse_settings(read_file(path), source=str(path))


def read_file(path: Path) -> bytes:
    """Read a file, but no more than one byte over `MAX_SIZE`.

    Raises:
        ConfigurationError: it cannot be read. The hint is left to the caller, who knows which
            option or key named the file.
    """
    # Without blocking, as on a FIFO: that would block every further reload.
    with opened(path) as file, named(path, "read"):
        return file.read(MAX_SIZE + 1)


def parse_settings(data: bytes, *, source: str) -> Setting:
    """Parse the one YAML document in `data`; `source` is its name in errors.

    Raises:
        ConfigurationError: it is empty, too large, or not YAML; the message has the line.
    """
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{source}: more than {MAX_SIZE} bytes")
    try:
        loader = _Composer(data)
        try:
            document = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        line = "" if e.problem_mark is None else f":{e.problem_mark.line + 1}"
        raise ConfigurationError(f"{source}{line}: not YAML: {e.problem}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{source}: not YAML: not UTF-8, or control characters") from e
    if document is None:
        raise ConfigurationError(f"{source}: empty")
    return Setting(source, "", document)


class _Composer(yaml.SafeLoader):
    """Makes nodes, never objects: nothing in a file can name a Python type."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            # A few aliases can stand for billions of values.
            raise _RejectedError("aliases are not allowed", event)
        if self._depth >= MAX_DEPTH:
            raise _RejectedError("too many nested levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _RejectedError(yaml.MarkedYAMLError):
    def __init__(self, problem: str, event: Any) -> None:
        super().__init__(problem=problem, problem_mark=event.start_mark)


def _what(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"{node.value!r:.80}" if node.value else "nothing"
