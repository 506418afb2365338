"""A root file system in memory: paths as in a chroot, names as Linux takes them."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.eif.root.tree import Node, Tree, directory
from vsock_proxy.errors import ConfigurationError


def file(permissions: int = 0o644) -> Node:
    return Node(stat.S_IFREG | permissions)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target=target.encode())


def names(tree: Tree) -> list[str]:
    return sorted(path for path, _ in tree.walk())


def test_missing_directories_are_made() -> None:
    tree = Tree()
    assert tree.add("./usr//bin/app", file()) == "usr/bin/app"
    assert names(tree) == ["usr", "usr/bin", "usr/bin/app"]
    found = tree.find("usr/bin")
    assert found
    assert found[1].mode == stat.S_IFDIR | 0o755


def test_links_on_the_way_are_followed() -> None:
    # A merged /usr: bin is a link when files in it come.
    tree = Tree()
    tree.add("usr/bin", directory())
    tree.add("bin", link("usr/bin"))
    assert tree.add("bin/sh", file()) == "usr/bin/sh"
    assert names(tree) == ["bin", "usr", "usr/bin", "usr/bin/sh"]


@pytest.mark.parametrize(
    "target", ["/usr/lib", "usr/lib", "../../usr/lib", "./usr/./lib/", "/usr/lib/../lib", "other"]
)
def test_links_stay_inside(target: str) -> None:
    tree = Tree()
    tree.add("other", link("/usr/lib"))
    tree.add("lib", link(target))
    tree.add("lib/x.so", file())
    found = tree.find("/lib/x.so")
    assert found
    assert found[0] == "usr/lib/x.so"


def test_loops_end() -> None:
    tree = Tree()
    tree.add("a", link("b"))
    tree.add("b", link("a"))
    assert tree.find("a") is None
    assert tree.find("a/x") is None
    with pytest.raises(ConfigurationError, match="too many symbolic links"):
        tree.add("a/x", file())


def test_the_last_one_counts_and_a_directory_keeps_what_is_in_it() -> None:
    tree = Tree()
    tree.add("etc/passwd", file())
    tree.add("etc", directory(0o700))
    assert names(tree) == ["etc", "etc/passwd"]
    tree.add("etc", link("other"))
    assert names(tree) == ["etc"]
    tree.add("etc", directory())
    assert names(tree) == ["etc"]
    assert tree.root.children["etc"].is_dir


def test_hard_links_are_one_node() -> None:
    tree = Tree()
    tree.add("a", file())
    tree.link("b", "a")
    replaced = file(0o600)
    tree.add("a", replaced)
    assert tree.root.children["b"] is not replaced  # It is what was there before.
    with pytest.raises(KeyError):
        tree.link("c", "nothing")
    tree.add("d", directory())
    with pytest.raises(KeyError):
        tree.link("c", "d")


def test_removal() -> None:
    tree = Tree()
    tree.add("usr/share/doc/x", file())
    tree.add("doc", link("usr/share"))
    tree.remove("doc/doc")
    assert names(tree) == ["doc", "usr", "usr/share"]
    tree.remove("nothing/at/all")
    tree.remove("")
    assert names(tree) == ["doc", "usr", "usr/share"]


@pytest.mark.parametrize(
    ("path", "node", "reason"),
    [
        ("../etc", file(), "cannot be a path"),
        ("a/../b", file(), "cannot be a path"),
        ("a\0b", file(), "cannot be a path"),
        ("x" * 256, file(), "longer than 255 bytes"),
        ("ü" * 128, file(), "longer than 255 bytes"),
        ("/".join(["x" * 200] * 21), file(), "longer than 4088 bytes"),
        ("a", link("x" * 4096), "4096 bytes, not 1 to 4095"),
        ("a", link(""), "0 bytes"),
        (".", file(), "root of the file system is not a directory"),
        ("file/x", file(), "'file' is not a directory"),
    ],
)
def test_what_linux_would_leave_out(path: str, node: Node, reason: str) -> None:
    tree = Tree()
    tree.add("file", file())
    with pytest.raises(ConfigurationError, match=reason):
        tree.add(path, node)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("x" * 256, "longer than 255 bytes"),
        ("a\0b", "cannot be a name"),
        ("file", "not a directory"),
    ],
)
def test_directories_that_a_link_would_make(target: str, reason: str) -> None:
    tree = Tree()
    tree.add("file", file())
    tree.add("link", link(target))
    with pytest.raises(ConfigurationError, match=reason):
        tree.add("link/x", file())


def test_nothing_is_in_a_file() -> None:
    tree = Tree()
    tree.add("file", file())
    tree.add("link", link("file"))
    for path in ("file/x", "file/..", "link/..", "file/../file"):
        assert tree.find(path) is None


def test_the_longest_that_linux_takes() -> None:
    tree = Tree()
    tree.add("x" * 255, link("y" * 4095))
    tree.add("/".join(["x"] * 2044), file())


def test_depth_is_no_matter() -> None:
    tree = Tree()
    path = "/".join(["d"] * 2000)
    tree.add(path, file())
    assert len(names(tree)) == 2000
    assert len(tree.entries()) == 2000


PATHS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=5).map(
    "/".join
)


@given(st.lists(st.tuples(PATHS, PATHS), max_size=12), PATHS)
def test_whatever_the_links_nothing_leaves_the_tree(
    links: list[tuple[str, str]], path: str
) -> None:
    tree = Tree()
    for name, target in links:
        try:
            tree.add(name, link(target))
        except ConfigurationError:
            continue
    try:
        resolved = tree.add(f"{path}/new", file())
    except ConfigurationError:
        return
    parts = resolved.split("/")
    assert not {"", ".", ".."} & set(parts)
    found = tree.find(resolved, follow=False)
    assert found
    assert found[0] == resolved  # No link is left on the way.
