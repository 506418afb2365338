"""Configuration files: YAML read value by value, with the line in every error.

A file is not turned into objects but read as YAML's own nodes, which know their lines. Each part
of the program asks for the keys that are its own, by type; what it did not ask for is an error,
for it may have been meant to restrict something.

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
"""Bytes of a file; AWS's allowlist of every KMS endpoint has 4,331."""

MAX_DEPTH = 20
"""Lists and mappings within each other."""

MAX_ITEMS = 10_000
"""Items of one list."""

_STR, _INT, _BOOL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool"))
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a file, and where it stands.

    Attributes:
        source: the file, as errors call it.
        name: the key it is the value of, or of which it is an item; "" for the whole file.
        node: the value.
    """

    source: str
    name: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """The line it begins on, from 1."""
        return self.node.start_mark.line + 1

    @property
    def is_list(self) -> bool:
        """Whether it is a list, where it may also be something else."""
        return isinstance(self.node, yaml.SequenceNode)

    def wrong(self, what: str, *, hint: str = "") -> ConfigurationError:
        """Make the error that says that this value is wrong: ``FILE:LINE: KEY: WHAT``."""
        key = f"{self.name}: " if self.name else ""
        return ConfigurationError(f"{self.source}:{self.line}: {key}{what}", hint=hint)

    def mapping(self) -> dict[str, Setting]:
        """Take a mapping with any keys.

        Raises:
            ConfigurationError: it is none, a key is not a text, or is there twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{_what(self.node)}, not a mapping")
        found: dict[str, Setting] = {}
        for key_node, value in self.node.value:
            key = Setting(self.source, self.name, key_node).string()
            if key in found:
                # Readers of YAML disagree about which of the two counts.
                raise Setting(self.source, self.name, key_node).wrong(f"key {key!r:.80} twice")
            found[key] = Setting(self.source, key, value)
        return found

    def fields(self, *known: str, required: Collection[str] = ()) -> Mapping[str, Setting]:
        """Take a mapping with these keys and no other.

        Args:
            known: all keys that there may be.
            required: those of them that must be there.

        Raises:
            ConfigurationError: as `mapping`; also an unknown key, or a missing one.
        """
        found = self.mapping()
        for key, value in zip(found, self.node.value, strict=True):
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                guess = f" (did you mean {near[0]}?)" if near else ""
                raise Setting(self.source, self.name, value[0]).wrong(
                    f"unknown key {key!r:.80}{guess}", hint=f"known here: {', '.join(known)}"
                )
        for key in required:
            if key not in found:
                raise self.wrong(f"key {key!r} is missing")
        return found

    def items(self, most: int = MAX_ITEMS) -> list[Setting]:
        """Take a list of at most `most` items. Raises ConfigurationError."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{_what(self.node)}, not a list")
        if len(self.node.value) > most:
            raise self.wrong(f"{len(self.node.value)} items; there may be {most}")
        return [Setting(self.source, self.name, item) for item in self.node.value]

    def string(self, *, most: int = 4096) -> str:
        """Take a text of at most `most` characters; not an empty one. Raises ConfigurationError."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.value and self.node.tag != _STR:
            raise self.wrong(
                f"{self.node.value!r:.80} is no text in YAML",
                hint="put it in quotes if it is meant as text",
            )
        text = self._scalar("a text")
        if not text:
            raise self.wrong("an empty text")
        if len(text) > most:
            raise self.wrong(f"a text of {len(text)} characters; there may be {most}")
        return text

    def choice(self, *choices: str) -> str:
        """Take one of some words. Raises ConfigurationError."""
        text = self._scalar("a word")
        if text not in choices:
            raise self.wrong(f"{text!r:.80} is none of {', '.join(choices)}")
        return text

    def boolean(self) -> bool:
        """Take ``true`` or ``false``, written like that. Raises ConfigurationError."""
        # YAML 1.1 also has yes, on, Y and more, which YAML 1.2 calls texts.
        text = self._scalar("true or false")
        if self.node.tag != _BOOL or text not in ("true", "false"):
            raise self.wrong(f"{text!r:.80} is neither true nor false")
        return text == "true"

    def integer(self, least: int, most: int) -> int:
        """Take a decimal integer in `least`..`most`. Raises ConfigurationError."""
        text = self._scalar("an integer")
        # 0443 is octal to some readers of YAML and decimal to others, and 1_000 and 1:30 are
        # integers to some: none of them is one here.
        if self.node.tag != _INT or not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise self.wrong(f"{text!r:.80} is not an integer in {least}..{most}")
        return int(text)

    def port(self) -> int:
        """Take a TCP port, 1..65535. Raises ConfigurationError."""
        return self.integer(1, MAX_PORT)

    def duration(self, least: float, most: float) -> float:
        """Take a time with its unit, such as ``10 s``, ``250 ms``, ``5 min``, ``1.5 h``, ``1 d``.

        Returns:
            Seconds, in `least`..`most`.

        Raises:
            ConfigurationError: no number, no such unit, or out of range.
        """
        return self._quantity("a time", _SECONDS, "10 s", least, most, "s")

    def size(self, least: int, most: int) -> int:
        """Take a number of bytes with its unit: ``B``, ``KiB``, ``MiB``, ``GiB`` or ``TiB``.

        Returns:
            Bytes, in `least`..`most`.

        Raises:
            ConfigurationError: no number, no such unit, or out of range.
        """
        return int(self._quantity("a size", _BYTES, "512 MiB", least, most, "B"))

    def address(self) -> Address:
        """Take a socket's address (`addresses.parse_address`). Raises ConfigurationError."""
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
            raise self.wrong(f"{text!r:.80} is not {wanted} with its unit", hint=hint)
        value = float(match[1]) * units[match[2]]
        if not least <= value <= most:
            raise self.wrong(f"{text!r:.80} is not in {least:g} {unit}..{most:g} {unit}", hint=hint)
        return value


def load_settings(path: Path) -> Setting:
    """Read a file of at most `MAX_SIZE` bytes; what it holds has no name.

    Raises:
        ConfigurationError: it cannot be read, or is not YAML; says where.
    """
    try:
        # Not one that keeps its reader waiting: that would hold up every further reload.
        with opened(path) as file, named(path, "read"):
            data = file.read(MAX_SIZE + 1)
    except ConfigurationError as e:
        e.hint = "name the file with --config"
        raise
    return parse_settings(data, source=str(path))


def parse_settings(data: bytes, *, source: str) -> Setting:
    """Read the one YAML document in `data`; `source` is what the errors call it.

    Raises:
        ConfigurationError: it is empty, too large, or not YAML; says where.
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
        raise ConfigurationError(f"{source}: not YAML: not text, or text with control codes") from e
    if document is None:
        raise ConfigurationError(f"{source}: empty")
    return Setting(source, "", document)


class _Composer(yaml.SafeLoader):
    """Makes nodes, and objects never: nothing in a file can name a Python type."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            # Nobody needs one here, and a few can stand for billions of values.
            raise _Refusal("aliases are not taken", event)
        if self._depth >= MAX_DEPTH:
            raise _Refusal("too many levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Refusal(yaml.MarkedYAMLError):
    def __init__(self, problem: str, event: Any) -> None:
        super().__init__(problem=problem, problem_mark=event.start_mark)


def _what(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"{node.value!r:.80}" if node.value else "nothing"
