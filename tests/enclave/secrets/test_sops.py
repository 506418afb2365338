"""What is wrong with a SOPS file is one named error, and nothing of it is opened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enclave.errors import AgentError, DecodingError
from enclave.secrets.documents import MAX_NODES, read_json
from enclave.secrets.sealed import Ciphertext, read_sealed
from enclave.secrets.sops import SopsFile, read_sops
from tests.enclave.secrets.sealing import KEY, seal
from vsock_proxy.service.sops_values import float_text

if TYPE_CHECKING:
    from collections.abc import Callable

TREE = '{"a": {"password": "hunter2", "n": 5}, "b": ["x", "y"], "p_unencrypted": "plain", "e": ""}'
Change = "Callable[[dict[str, Any]], None]"


def opened(data: bytes) -> Any:
    found = read_sops(data, name="f.json")
    assert isinstance(found, SopsFile)
    return found.open(KEY)


def test_what_the_writer_wrote_the_reader_reads() -> None:
    assert opened(seal(TREE, "json")) == [json.loads(TREE)]


def _swap(tree: dict[str, Any]) -> None:
    tree["b"][0], tree["b"][1] = tree["b"][1], tree["b"][0]


def _move(tree: dict[str, Any]) -> None:
    tree["a"]["moved"] = tree["a"].pop("password")


def _flip(tree: dict[str, Any]) -> None:
    value = tree["a"]["password"]
    at = value.index("data:") + 5
    tree["a"]["password"] = value[:at] + ("B" if value[at] == "A" else "A") + value[at + 1 :]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        *before, last = path.split(".")
        for part in before:
            tree = tree[part]
        if value is ...:
            del tree[last]
        else:
            tree[last] = value

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "values of one list are swapped": (_swap, "MAC does not fit"),
    "a value has moved": (_move, "does not open .* in this place"),
    "a bit is flipped": (_flip, "does not open"),
    "a plain value is changed": (_set("p_unencrypted", "other"), "MAC does not fit"),
    "a plain value is added": (_set("q_unencrypted", "other"), "MAC does not fit"),
    "a value is removed": (_set("b", ...), "MAC does not fit"),
    "a value is emptied": (_set("a.password", ""), "MAC does not fit"),
    "a plain value stands where an encrypted one should": (_set("c", "x"), "should be encrypted"),
    "a number stands where a text should": (_set("c", 1), "should be encrypted"),
    "the MAC is missing": (_set("sops.mac", ...), "mac of its metadata is missing"),
    "the MAC is empty": (_set("sops.mac", ""), "no MAC"),
    "the MAC is of another time": (
        _set("sops.lastmodified", "2026-01-02T03:04:06Z"), "does not open"
    ),
    "the MAC is to cover less": (_set("sops.mac_only_encrypted", True), "MAC does not fit"),
    "other values are to be encrypted": (
        _set("sops.unencrypted_suffix", "_plain"), "should be encrypted"
    ),
    "two rules": (_set("sops.encrypted_suffix", "_x"), "exclude each other"),
    "a rule about comments": (_set("sops.encrypted_comment_regex", "x"), "comments.*not supported"),
    "a Go regular expression": (
        lambda tree: tree["sops"].update(unencrypted_suffix="", encrypted_regex="[[:alpha:]]"),
        "only Go has",
    ),
    "an invalid regular expression": (
        lambda tree: tree["sops"].update(unencrypted_suffix="", encrypted_regex="("),
        "Python cannot read",
    ),
    "no KMS key": (_set("sops.kms", []), "no key of AWS KMS"),
    "a key of another kind alone": (
        lambda tree: tree["sops"].update(kms=[], age=[{"enc": "x"}]), "only of age"
    ),
    "no ARN": (lambda tree: tree["sops"]["kms"][0].update(arn="alias/x"), "not the ARN"),
    "no ciphertext": (lambda tree: tree["sops"]["kms"][0].update(enc="?"), "not base64"),
    "no metadata": (_set("sops", "x"), "no metadata"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_was_changed_is_not_opened(fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(DecodingError, match=message) as raised:
        opened(seal(TREE, "json", change=change))
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


def test_the_tree_of_one_file_does_not_open_under_the_metadata_of_another() -> None:
    one, two = (json.loads(seal(tree, "json")) for tree in (TREE, '{"a": "other"}'))
    with pytest.raises(DecodingError, match="MAC does not fit"):
        # Of one data key, which two files never share: only the MAC stands between them.
        opened(json.dumps({**two, "sops": one["sops"]}).encode())


@pytest.mark.parametrize("kind", ["json", "yaml", "dotenv"])
def test_a_file_cut_anywhere_is_one_error_or_no_file_of_sops(kind: str) -> None:
    data = seal({"json": TREE, "yaml": TREE, "dotenv": "A=1\nB=2\n"}[kind], kind)
    whole = opened(data)
    for length in range(0, len(data) - 1, 23):
        try:
            found = read_sops(data[:length])
            if found is not None:
                assert found.open(KEY) == whole, "only a line end is missing"
        except AgentError:
            continue


def test_a_key_that_stands_twice_is_rejected() -> None:
    twice = seal(TREE, "json").replace(b'"b": [', b'"b": [], "b": [', 1)
    with pytest.raises(DecodingError, match="'b' stands twice"):
        opened(twice)
    with pytest.raises(DecodingError, match="'A' stands twice"):
        opened(seal("A=1\n", "dotenv") + b"A=2\n")
    with pytest.raises(DecodingError, match="'a' stands twice"):
        opened(seal("a: 1\n", "yaml") + b"a: 2\n")


YAML_FAULTS = {
    "aliases that multiply": (
        b"a: &a [" + b"x," * 200 + b"]\nb: &b [" + b"*a," * 200 + b"]\n", f"{MAX_NODES} values"
    ),
    "an alias of itself": (b"a: &a [*a]\n", "64 levels"),
    "too deep": (b"a: " + b"[" * 100 + b"]" * 100 + b"\n", "64 levels"),
    "an object of Python's": (b"a: !!python/object:os.system {}\n", "tag .* is not supported"),
    "a tag of its own": (b"a: !own 1\n", "tag .* is not supported"),
    "a key that is no text": (b"1: a\n", "key in the YAML is not a text"),
    "a list": (b"[a]\n---\n", "not a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_yaml_that_is_hostile_is_one_error(fault: str) -> None:
    text, message = YAML_FAULTS[fault]
    with pytest.raises(DecodingError, match=message):
        read_sops(text + b"sops: {}\n")


def test_json_that_is_hostile_is_one_error() -> None:
    for text in ('{"a": NaN}', "[" * 100_000, '{"a": "\\ud800"}', "[1]", '{"a": }'):
        with pytest.raises(DecodingError):
            read_json(text)


def test_the_ini_format_is_named_as_not_supported() -> None:
    with pytest.raises(DecodingError, match="ini format is not supported"):
        read_sops(b"[section]\na=b\n[sops]\nmac=x\n")


@pytest.mark.parametrize("data", [b"", b"AQICAHh=", b"\xff\x00", b"hello\n", b"{}", b"- a\n"])
def test_other_files_are_no_files_of_sops(data: bytes) -> None:
    assert read_sops(data) is None


def test_a_file_of_white_space_is_read_in_linear_time() -> None:
    """Of a mebibyte, one that is read in the square of its length is read for hours."""
    with pytest.raises(DecodingError, match="neither base64 nor a file of SOPS"):
        read_sealed(b" " * (1 << 20))
    with pytest.raises(DecodingError, match="neither base64 nor a file of SOPS"):
        read_sealed(b" " * ((1 << 20) - 1) + b"!")
    assert read_sealed(b" QUJD\n QQ==\n") == Ciphertext(b"ABCA")


def test_a_data_key_outside_ascii_is_no_base64() -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["sops"]["kms"][0]["enc"] = "é"

    with pytest.raises(DecodingError, match="not base64"):
        read_sops(seal(TREE, "json", change=change))


# Control characters and the like are not allowed in YAML, even quoted.
TEXTS = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" ") | st.just("\n"))
SCALARS = st.none() | st.booleans() | TEXTS | st.floats(allow_nan=False, allow_infinity=False)
SCALARS |= st.integers(-(2**63), 2**63 - 1)
NAMES = TEXTS.filter(lambda name: name != "sops")
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=10,
    ),
    max_size=5,
)


@given(TREES)
@settings(max_examples=20)
def test_every_tree_comes_back_as_it_was(tree: dict[str, Any]) -> None:
    text = json.dumps(tree, ensure_ascii=False)
    for kind in ("json", "yaml"):
        found = read_sops(seal(text, kind), name="f.json")
        assert found
        assert repr(found.open(KEY)) == repr([json.loads(text)])


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=40)
def test_every_binary_file_comes_back_as_it_was(data: bytes) -> None:
    found = read_sops(seal(data, "binary"), name="secret")
    assert found
    assert found.format == "binary"
    assert found.open(KEY) == [{"data": data.decode("utf-8", "surrogateescape")}]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (1e21, "1" + 21 * "0"), (1.5e-7, "0.00000015"), (-0.0, "-0"), (0.1, "0.1"),
     (123456.789, "123456.789"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"),
     (float("nan"), "NaN")],
)  # fmt: skip
def test_numbers_are_written_as_go_does(value: float, text: str) -> None:
    assert float_text(value) == text


SEALED = {
    "json": seal(TREE, "json"),
    "yaml": seal(TREE, "yaml"),
    "dotenv": seal("A=hunter2\nB=x\nC_unencrypted=plain\n", "dotenv"),
}


def _values(node: Any) -> list[Any]:
    """Return what is under SOPS's MAC: all values but empty ones."""
    if isinstance(node, dict):
        return [each for value in node.values() for each in _values(value)]
    if isinstance(node, list):
        return [each for value in node for each in _values(value)]
    return [] if node == "" else [node]


EMPTY_FIELD = SEALED["dotenv"].index(b"sops_kms__list_0__map_aws_profile=\n")


@given(st.sampled_from(sorted(SEALED)), st.integers(0, 10_000), st.integers(0, 255))
@example("dotenv", EMPTY_FIELD + 1, 0)
@settings(max_examples=100)
def test_a_byte_that_is_changed_is_one_error_or_changes_no_value(
    kind: str, at: int, byte: int
) -> None:
    """Neither empty values nor the names of unencrypted ones are under the MAC: docs/secrets.md.

    The example makes an empty field of the metadata one more value.
    """
    data = bytearray(SEALED[kind])
    data[at % len(data)] = byte
    try:
        found = read_sops(bytes(data), name="f.json")
        if found is not None:
            assert _values(found.open(KEY)) == _values(opened(SEALED[kind]))
    except AgentError:
        pass
