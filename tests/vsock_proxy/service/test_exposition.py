"""Prometheus text: what is written is read again, and nothing hostile comes through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vsock_proxy.service.exposition import (
    MAX_BYTES,
    MAX_FAMILIES,
    MAX_LABELS,
    MAX_SAMPLES,
    ExpositionError,
    Family,
    Sample,
    histogram,
    read,
    single,
    write,
)

FAMILIES = [
    single("a_info", "gauge", 'Help with "quotes" and \\.', 1),
    Family("a_calls_total", "counter", "", [Sample(5, (("operation", "Decrypt"), ("o", "ok")))]),
    Family("a_bytes", "gauge", "x", [Sample(-0.5), Sample(1e300, (("l", 'a"b\\c'),))]),
    histogram("a_seconds", "y", [0.5, 1.0], [((("op", "x"),), [1, 0, 2], 7.25)]),
]


def test_what_is_written_is_read_again() -> None:
    assert read(write(FAMILIES), prefix="a_") == FAMILIES


def test_the_text_is_that_of_prometheus() -> None:
    """Read by the library of Prometheus' own makers."""
    theirs = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(write(FAMILIES, [("enclave", "w")]).decode())
        for sample in family.samples
    }
    ours = {
        (each.name + sample.suffix, *sorted((*sample.labels, ("enclave", "w")))): sample.value
        for each in FAMILIES
        for sample in each.samples
    }
    assert theirs == ours


def test_buckets_are_cumulative() -> None:
    text = write(FAMILIES[3:]).decode()
    assert 'a_seconds_bucket{op="x",le="0.5"} 1\n' in text
    assert 'a_seconds_bucket{op="x",le="+Inf"} 3\n' in text
    assert 'a_seconds_sum{op="x"} 7.25\n' in text


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite(value: float) -> None:
    ((family,),) = [read(write([single("a_x", "gauge", "", value)]), prefix="a_")]
    assert repr(family.samples[0].value) == repr(value)


TYPE = "# TYPE a_x gauge\n"
HOSTILE = {
    "another program's name": "# TYPE enclave_parent_up gauge\nenclave_parent_up 1\n",
    "no type": "a_x 1\n",
    "a number of another name": f"{TYPE}a_y 1\n",
    "a number of a name that begins so": f"{TYPE}a_x_bucket 1\n",
    "an unknown type": "# TYPE a_x summary\n",
    "a type twice": TYPE + TYPE,
    "a histogram's name twice": "# TYPE a_x histogram\na_x_count 1\n# TYPE a_x_count gauge\n",
    "a number that a histogram has": "# TYPE a_x_sum counter\n# TYPE a_x histogram\na_x_sum 1\n",
    "a number twice": f"{TYPE}a_x 1\na_x 2\n",
    "a number twice with labels": f'{TYPE}a_x{{a="b"}} 1\na_x{{a="b"}} 2\n',
    "a label twice": f'{TYPE}a_x{{a="b",a="c"}} 1\n',
    "the label of the parent": f'{TYPE}a_x{{enclave="other"}} 1\n',
    "a label of Prometheus' own": f'{TYPE}a_x{{__name__="up"}} 1\n',
    "a line end in a label": f'{TYPE}a_x{{a="b\nup 1\n"}} 1\n',
    "an unknown escape": f'{TYPE}a_x{{a="\\x"}} 1\n',
    "a label that is not closed": f'{TYPE}a_x{{a="b}} 1\n',
    "text behind the labels": f'{TYPE}a_x{{a="b"c}} 1\n',
    "a time": f"{TYPE}a_x 1 1700000000\n",
    "hexadecimal": f"{TYPE}a_x 0x10\n",
    "a word": f"{TYPE}a_x one\n",
    "digits of another script": f"{TYPE}a_x \u0661\n",
    "a control character": f"{TYPE}a_x{{a='\x1b[2J'}} 1\n",
    "a carriage return": f"{TYPE}a_x 1\r\n",
    "a hidden character": f'{TYPE}a_x{{a="\u202e"}} 1\n',
    "a comment": "# hello\n",
    "an exemplar": f'{TYPE}a_x 1 # {{a="b"}} 1\n',
    "a long label": f'{TYPE}a_x{{a="{"b" * 301}"}} 1\n',
    "many labels": TYPE
    + "a_x{"
    + ",".join(f'{"a" * n}="b"' for n in range(1, MAX_LABELS + 2))
    + "} 1\n",
    "a long name": f"# TYPE a_{'x' * 100} gauge\n",
    "a long help": f"# HELP a_x {'x' * 301}\n",
    "many names": "".join(f"# TYPE a_{n} gauge\n" for n in range(MAX_FAMILIES + 1)),
    "many numbers": TYPE + "".join(f'a_x{{a="{n}"}} 1\n' for n in range(MAX_SAMPLES + 1)),
    "many bytes": TYPE + "a_x 1\n" * (MAX_BYTES // 6),
    "a long line": f"{TYPE}a_x{{{'a' * 100_000} 1\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_hostile_is_one_error_without_its_words(what: str) -> None:
    with pytest.raises(ExpositionError) as raised:
        read(HOSTILE[what].encode(), prefix="a_", reserved=["enclave"])
    assert str(raised.value).isprintable()
    assert "x1b" not in str(raised.value)
    assert len(str(raised.value)) < 100


def test_bytes_that_are_not_text_are_one_error() -> None:
    with pytest.raises(ExpositionError, match="not UTF-8"):
        read(b"\xff", prefix="a_")


@given(st.text(alphabet='# TYPEHLa_x{}="\\,0123456789.e+-Inf\n', max_size=200))
@settings(max_examples=200)
def test_whatever_is_read_is_written_such_that_it_is_read_again(text: str) -> None:
    try:
        found = read(text.encode(), prefix="a_")
    except ExpositionError:
        return
    assert repr(read(write(found), prefix="a_")) == repr(found)
