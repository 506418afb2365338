"""Bodies of KMS requests: JSON that means the parameters, whatever is kept between requests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError
from enclave.kms.body import encode_body

names = st.text(min_size=1, max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
recipients = st.fixed_dictionaries(
    {
        "AttestationDocument": st.sampled_from(["Zmlyc3Q=", "c2Vjb25k", 'a"\\\u00e9']),
        "KeyEncryptionAlgorithm": st.sampled_from(["RSAES_OAEP_SHA_256", "another"]),
    }
)


plain = st.dictionaries(
    st.sampled_from(["NumberOfBytes", "KeyId"]), st.sampled_from([1, True, 1.0, "1", "a", None])
)


def sorted_json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@given(
    operation=st.sampled_from(["Decrypt", "GenerateRandom"]),
    parameters=plain | st.dictionaries(names, values, max_size=4),
    recipient=st.none() | recipients | values,
    first=st.booleans(),
)
def test_the_body_means_the_parameters_and_the_digest_is_its_own(
    operation: str, parameters: dict[str, Any], recipient: object, *, first: bool
) -> None:
    """Over many examples the kept documents and bodies are met again, beside other parameters."""
    given_ = dict(parameters)
    if recipient is not None:
        own = {"Recipient": recipient}
        given_ = {**own, **given_} if first else {**given_, **own}
    body = encode_body(operation, given_)
    # As text: to Python, True and 1 are equal.
    assert sorted_json(json.loads(body.data)) == sorted_json(given_)
    assert body.digest == hashlib.sha256(body.data).hexdigest()


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), object()])
@pytest.mark.parametrize("attested", [True, False])
def test_what_is_not_json_is_an_error_with_the_operations_name(
    value: object, *, attested: bool
) -> None:
    parameters: dict[str, Any] = {"Plaintext": value}
    if attested:
        parameters["Recipient"] = {
            "AttestationDocument": "AAAA",
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        }
    with pytest.raises(ConfigurationError, match="parameters of Encrypt that are not JSON") as e:
        encode_body("Encrypt", parameters)
    assert "Plaintext cannot be " in str(e.value)
    assert "base64" in e.value.hint


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


ITSELF: list[object] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"KeyId": "a", "Plaintext": bytearray(2)}, "Plaintext cannot be bytearray"),
        ({"EncryptionContext": {"a": "b", "c": b"d"}}, "EncryptionContext.c cannot be bytes"),
        ({"GrantTokens": ["a", b"b"]}, "GrantTokens[1] cannot be bytes"),
        ({"Tags": [{"TagKey": float("inf")}]}, "Tags[0].TagKey cannot be inf"),
        ({"EncryptionContext": {b"a": "b"}}, "EncryptionContext cannot have a name of type bytes"),
        ({b"KeyId": "a"}, "they cannot have a name of type bytes"),
        ({"GrantTokens": ITSELF}, "holds itself, or too many levels"),
        ({"EncryptionContext": nested(100_000)}, "holds itself, or too many levels"),
    ],
)
def test_the_error_names_the_parameter_and_its_type(parameters: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as e:
        encode_body("Encrypt", parameters)
    assert str(e.value).endswith(text)
