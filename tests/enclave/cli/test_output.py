"""Output formats: JSON, text, table and YAML, compared with the AWS CLI's."""

from __future__ import annotations

import io
import json
import re
from argparse import Namespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given, reject
from hypothesis import strategies as st

from enclave.cli.table import format_table
from enclave.cli.text import format_text
from enclave.cli.yaml_format import format_yaml
from enclave.errors import ConfigurationError
from tests.enclave.cli.aws_cli_1 import MultiTable, Styler, TableFormatter
from tests.enclave.cli.aws_cli_1 import format_text as their_text

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from("aé漢 |"), max_size=40)
)
NAMES = st.text(st.sampled_from("abc"), min_size=1, max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
NESTED = {"a": 1, "b": {"c": [1, [2]]}, "d": [{"e": 1}, {"e": 2, "f": [{"g": 3}]}], "h": []}


@given(VALUES)
@example(NESTED)
def test_text_is_the_aws_clis(value: Any) -> None:
    stream = io.StringIO()
    try:
        their_text(value, stream)
    except AttributeError:  # it cannot sort or label some mixtures
        return
    assert format_text(value) == stream.getvalue()


def their_table(title: str, value: Any) -> str:
    table = MultiTable(initial_section=False, column_separator="|", styler=Styler())
    table._terminal_width = 80
    stream = io.StringIO()
    formatter = TableFormatter(Namespace(color="off", query=None), table)
    formatter.table = table
    formatter._format_response(title, value, stream)
    return stream.getvalue()


@given(VALUES.filter(lambda value: isinstance(value, list | dict)))
@example(NESTED)
@example({"Plaintext": "x" * 100, "KeyId": "y"})
@example([["a", "b"], ["c", "d"]])
def test_a_table_is_the_aws_clis(value: Any) -> None:
    try:
        ours = format_table("Title", value)
    except ConfigurationError:
        reject()
    try:
        theirs = their_table("Title", value)
    except (ValueError, AttributeError, TypeError, IndexError):  # no table for some mixtures
        reject()
    assert ours == theirs


@given(VALUES)
def test_whatever_the_value_a_table_is_rectangular(value: Any) -> None:
    try:
        table = format_table("Title", value)
    except ConfigurationError:
        return
    widths = {sum(2 if c in "漢é" else 1 for c in line) for line in table.splitlines()}
    assert len(widths) <= 1


@given(VALUES)
def test_yaml_says_the_same(value: Any) -> None:
    assert yaml.safe_load(format_yaml(value)) == value


@pytest.mark.parametrize("value", ["a", 1, True])
def test_a_lone_value_is_a_table(value: Any) -> None:
    """The AWS CLI's has a title and nothing under it."""
    assert str(value) in format_table("Title", value)


def test_nothing_is_no_table() -> None:
    assert (
        format_table("Title", None) == format_table("Title", []) == format_table("Title", {}) == ""
    )


def test_json_keeps_characters() -> None:
    assert json.loads(format_yaml("é")) == "é"


PCRS = {"Pcrs": [{"Index": n, "Locked": True, "Value": "0123456789abcdef" * 6} for n in (0, 31)]}


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_folded_table_fits_the_terminal_and_loses_nothing(width: int) -> None:
    lines = format_table("Nsm", PCRS, terminal_width=width, fold=True).splitlines()
    assert max(map(len, lines)) <= width
    cells = "".join(line.split("|")[-3].strip() for line in lines if "0123" in line)
    assert cells == "0123456789abcdef" * 12


def test_a_table_is_not_folded_further_than_can_be_read() -> None:
    assert format_table("Nsm", PCRS, terminal_width=20, fold=True) == format_table(
        "Nsm", PCRS, terminal_width=20
    )


@given(VALUES.filter(lambda value: isinstance(value, list | dict)))
@example(NESTED)
def test_colour_changes_nothing_but_colour(value: Any) -> None:
    try:
        plain = format_table("Title", value)
    except ConfigurationError:
        reject()
    coloured = format_table("Title", value, colour=True)
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == plain
