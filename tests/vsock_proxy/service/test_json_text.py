"""JSON from outside has one limit of depth, on every Python."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from enclave.errors import KmsError
from enclave.http.response import Response
from enclave.kms.client import read_response
from parent.policy.actions import PolicyError
from parent.policy.language import parse as parse_policy
from parent.secrets import plain
from tests.paths import ROOT
from vsock_proxy.service.json_text import MAX_DEPTH, JsonDepthError, is_deeper, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = {
    # What reads no bytes from outside: files of botocore's and pip's, our own processes.
    "enclave/kms/regions.py",
    "enclave_simulator/attack/model.py",
    "enclave_simulator/attack/world.py",
    "enclave_simulator/launcher/handshake.py",
    "enclave_simulator/launcher/trampoline.py",
    "parent/credentials/source_process.py",
    "vsock_proxy/service/extras.py",
    # The texts that `parse_json` has read already, once more for their places.
    "parent/policy/located_json.py",
    "vsock_proxy/service/json_text.py",
}


def nested(depth: int, *, objects: bool = False) -> str:
    return '{"":' * depth + "0" + "}" * depth if objects else "[" * depth + "]" * depth


@pytest.mark.parametrize("objects", [False, True])
def test_the_limit(objects: bool) -> None:
    assert parse_json(nested(MAX_DEPTH, objects=objects))
    # The last is more than any Python's own limit: 3.14 reads 30,000 levels and more.
    for depth in (MAX_DEPTH + 1, 500, 5_000, 28_000, 500_000):
        for text in (nested(depth, objects=objects), nested(depth, objects=objects).encode()):
            with pytest.raises(JsonDepthError):
                parse_json(text)


def test_many_values_are_not_many_levels() -> None:
    text = json.dumps([{"a": [{}]}] * 1000)
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode("utf-16")) == json.loads(text)
    assert is_deeper(json.loads(text), 3)
    assert not is_deeper(json.loads(text), 4)


def test_what_is_not_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json("[" * 500)
    with pytest.raises(ValueError, match="no NaN"):
        parse_json("[NaN]", json.JSONDecoder(parse_constant=refuse).decode)


def refuse(name: str) -> None:
    raise ValueError(f"no {name}")


def kms_error(deep: str) -> None:
    read_response(Response(400, {}, f'{{"__type": {deep}, "message": {deep}}}'.encode()))


def policy(deep: str) -> None:
    parse_policy(f'{{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Sid": {deep}}}')


def secrets(deep: str) -> None:
    plain.read_plain(f'{{"a": {deep}}}'.encode(), "json")


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 28_000])
@pytest.mark.parametrize(
    ("read", "error"),
    [(kms_error, KmsError), (policy, PolicyError), (secrets, plain.SealError)],
)
def test_deep_json_ends_in_the_reader_s_own_error(
    read: Callable[[str], None], error: type[Exception], depth: int
) -> None:
    for objects in (False, True):
        with pytest.raises(error):
            read(nested(depth, objects=objects))


def test_all_json_from_outside_is_read_here() -> None:
    """The standard library's readers are called by nobody else, but for what is our own."""
    calls = re.compile(r"\bjson\.loads?\(|\braw_decode\(|JSONDecoder\([^)]*\)\.decode\(")
    found: dict[str, Any] = {
        str(path.relative_to(ROOT)): calls.findall(path.read_text(encoding="utf-8"))
        for folder in ("enclave", "parent", "vsock_proxy", "enclave_simulator")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name, of_it in found.items() if of_it} <= OURS
