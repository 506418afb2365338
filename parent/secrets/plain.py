"""What is to be sealed, read into an ordered tree: JSON, YAML, dotenv, or any bytes. No I/O.

Types are those of SOPS (`vsock_proxy.service.sops_values`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

import yaml

from vsock_proxy.errors import AgentError
from vsock_proxy.service.json_text import is_deeper, parse_json
from vsock_proxy.service.sops_values import Scalar, resolved

if TYPE_CHECKING:
    from collections.abc import Callable

Tree = dict[str, "Node"]
Node = Scalar | Tree | list["Node"]

MAX_SIZE: Final = 512 << 10
"""Bytes; once encrypted they fit into the MiB that the agent reads."""

MAX_DEPTH: Final = 64
"""Levels of nested objects and lists, the outermost among them; the agent reads no more."""

TYPES: Final = ("binary", "dotenv", "json", "yaml")

_ENDINGS: Final = {".env": "dotenv", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}

RESERVED: Final = "sops"


class SealError(AgentError):
    """Secrets cannot be sealed."""


def type_of(name: str) -> str:
    """Return the type of a file by how its name ends; ``binary`` for other endings."""
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), "binary")


def read_plain(data: bytes, kind: str) -> list[Tree]:
    """Return the documents of a file of a type of `TYPES`; all but YAML have one.

    Raises:
        SealError: it is malformed; the message has nothing of its content.
    """
    if kind == "binary":
        return [{"data": data.decode("utf-8", "surrogateescape")}]
    try:
        documents = _READERS[kind](data.decode("utf-8-sig"))
        json.dumps(documents, ensure_ascii=False, default=str).encode()  # no lone surrogate
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise SealError(f"the input is not {kind}{line}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        line = f", line {e.lineno}" if isinstance(e, json.JSONDecodeError) else ""
        raise SealError(
            f"the input is not {kind}{line}", hint="name its type: --type binary takes any bytes"
        ) from None
    for document in documents:
        if not isinstance(document, dict):
            raise SealError(f"the {kind} is not a mapping of names to values")
        if is_deeper(document, MAX_DEPTH):
            raise SealError(f"the {kind} is more than {MAX_DEPTH} levels deep")
        for name in document:
            if name == RESERVED or (kind == "dotenv" and name.startswith(f"{RESERVED}_")):
                raise SealError(f"the key {name!r} belongs to the metadata: rename it")
    return documents


def _json(text: str) -> list[Any]:
    return [parse_json(text, _decode)]


def _int(digits: str) -> int | float:
    number = int(digits) if len(digits) < 21 else float(digits)
    return number if -(2**63) <= number < 2**63 else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise SealError("a key of the JSON stands twice")
    return tree


def _reject(name: str) -> NoReturn:
    raise ValueError(name)


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_reject, parse_int=_int
).decode


def _dotenv(text: str) -> list[Any]:
    tree: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise SealError(f"line {number} of the dotenv file has no '='")
        if name in tree:
            raise SealError(f"line {number} of the dotenv file: {name!r} stands twice")
        tree[name] = value.replace("\\n", "\n")
    return [tree]


class _Loader(yaml.SafeLoader):
    """Gives plain scalars the types of SOPS, and rejects a key that stands twice."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """See `yaml.resolver.BaseResolver.resolve`."""
        if kind is yaml.ScalarNode and implicit[0]:
            return "?"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 (PyYAML's)
        """See `yaml.constructor.SafeConstructor.construct_mapping`; without merge keys."""
        tree = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise SealError(f"line {key_node.start_mark.line + 1}: a key is not a text")
            if key in tree:
                raise SealError(f"line {key_node.start_mark.line + 1}: {key!r} stands twice")
            tree[key] = self.construct_object(value_node, deep=deep)
        return tree


_Loader.add_constructor("?", lambda _, node: resolved(node.value))


def _yaml(text: str) -> list[Any]:
    documents = list(yaml.load_all(text, _Loader))
    if not documents:
        raise SealError("the YAML has no document")
    return [{} if document is None else document for document in documents]


_READERS: Final[dict[str, Callable[[str], list[Any]]]] = {
    "dotenv": _dotenv,
    "json": _json,
    "yaml": _yaml,
}
