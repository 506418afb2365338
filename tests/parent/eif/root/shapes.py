"""Tars of every kind, and what is in a tree in a form that can be compared."""

from __future__ import annotations

import stat
import tarfile
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.parent.eif import archives
from tests.parent.eif.archives import hard_link, member, symlink

if TYPE_CHECKING:
    from parent.eif.root.tree import Tree

NAMES = st.sampled_from(
    ["a", "b", "bin", "usr/bin", "usr", "usr/a", "bin/sh", "b/x", "usr/bin/y", "é"]
)
TARGETS = st.sampled_from(["a", "usr", "usr/bin", "b", "nowhere"])
ITEMS = st.one_of(
    st.builds(
        lambda name, content, mode: member(name, content, mode=mode),
        NAMES, st.binary(max_size=600), st.sampled_from([0o644, 0o755, 0o600]),
    ),
    st.builds(archives.folder, NAMES, st.sampled_from([0o755, 0o700])),
    st.builds(symlink, NAMES, TARGETS),
    st.builds(hard_link, NAMES, NAMES),
    st.builds(lambda name: member(name, type=tarfile.FIFOTYPE), NAMES),
)  # fmt: skip
Shape = dict[str, tuple[str, bytes, tuple[str, ...]]]


def shape(tree: Tree) -> Shape:
    """What is in a tree: type and permissions, content, and names that are the same file."""
    groups: dict[int, list[str]] = {}
    for path, node in tree.walk():
        groups.setdefault(id(node), []).append(path)
    found: Shape = {}
    for path, node in tree.walk():
        content = node.target if node.is_link else node.read(9999) if node.is_file else b""
        linked = () if node.is_link or node.is_dir else tuple(sorted(groups[id(node)]))
        found[path] = stat.filemode(node.mode), content, linked
    return found
