"""SOPS files in YAML: the nodes are PyYAML's, the types of plain scalars those of go-yaml. No I/O.

The MAC covers values that are not encrypted as SOPS reads them (`vsock_proxy.service.sops_values`).
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from enclave.errors import DecodingError
from enclave.secrets.documents import MAX_DEPTH, MAX_NODES, Node, Tree, check_size
from enclave.secrets.values import FORMAT
from vsock_proxy.service.sops_values import Scalar, resolved

_PLAIN: Final = "?"
_CORE: Final = "tag:yaml.org,2002:"
_TAGS: Final[dict[str, type]] = {"int": int, "float": float, "bool": bool, "null": type(None)}


def read_yaml(text: str) -> list[Tree]:
    """Return the documents of a YAML file.

    Raises:
        DecodingError: it is malformed.
    """
    try:
        composer = _Composer(text)
        documents = []
        while composer.check_node():
            documents.append(_Reader().document(composer.get_node()))
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise DecodingError(FORMAT, "not YAML", offset=mark.index if mark else None) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise DecodingError(FORMAT, "not YAML") from None
    if not documents:
        raise DecodingError(FORMAT, "the YAML has no document")
    for document in documents:
        check_size(document)
    return documents


class _Composer(yaml.BaseLoader):
    """Makes nodes, and gives plain scalars the tag ``?``.

    Python, not libyaml: it ends in RecursionError where C code would overflow the stack.
    """

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """See `yaml.resolver.BaseResolver.resolve`."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


class _Reader:
    """Makes a tree of one document's nodes; aliases are counted each time."""

    def __init__(self) -> None:
        self._nodes = 0

    def document(self, node: Any) -> Tree:
        read = self._read(node, 0)
        if read is None:
            return {}
        if not isinstance(read, dict):
            raise DecodingError(FORMAT, "a YAML document is not a mapping")
        return read

    def _read(self, node: Any, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise DecodingError(
                FORMAT, f"more than {MAX_NODES} values, or more than {MAX_DEPTH} levels"
            )
        if isinstance(node, yaml.MappingNode):
            _check_tag(node, "map")
            tree: Tree = {}
            for key_node, value_node in node.value:
                key = self._read(key_node, depth + 1)
                if not isinstance(key, str):
                    raise DecodingError(FORMAT, "a key in the YAML is not a text")
                if key in tree:
                    raise DecodingError(FORMAT, f"the key {key[:60]!r} stands twice")
                tree[key] = self._read(value_node, depth + 1)
            return tree
        if isinstance(node, yaml.SequenceNode):
            _check_tag(node, "seq")
            return [self._read(item, depth + 1) for item in node.value]
        return _scalar(node)


def _scalar(node: Any) -> Scalar:
    text: str = node.value
    if node.tag == _PLAIN:
        return resolved(text)
    if node.tag == f"{_CORE}str":
        return text
    value = resolved(text)
    if not any(node.tag == _CORE + name and isinstance(value, of) for name, of in _TAGS.items()):
        raise _unsupported(node)
    return value


def _check_tag(node: Any, name: str) -> None:
    if node.tag != _CORE + name:
        raise _unsupported(node)


def _unsupported(node: Any) -> DecodingError:
    return DecodingError(FORMAT, f"the YAML tag {str(node.tag)[:60]!r} is not supported")
