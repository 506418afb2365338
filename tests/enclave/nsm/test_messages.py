"""Requests byte for byte, and responses rejected for everything that is wrong with them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError, NsmError, NsmRefusedError, NsmResponseError
from enclave.nsm import messages as m

if TYPE_CHECKING:
    from enclave.nsm.message import Message

RESPONSES = [
    m.DescribeNSMResponse,
    m.DescribePCRResponse,
    m.ExtendPCRResponse,
    m.LockPCRResponse,
    m.LockPCRsResponse,
    m.GetRandomResponse,
    m.AttestationResponse,
]
DESCRIBED: dict[str, Any] = {
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 0,
    "module_id": "i-0123-enc4567",
    "max_pcrs": 32,
    "locked_pcrs": [0, 1, 2],
    "digest": "SHA384",
}


@pytest.mark.parametrize(
    ("request_", "wire"),
    [
        (m.DescribeNSM(), "6b44657363726962654e534d"),
        (m.GetRandom(), "6947657452616e646f6d"),
        (m.DescribePCR(5), "a16b4465736372696265504352a165696e64657805"),
        (
            m.ExtendPCR(16, b"hello"),
            "a169457874656e64504352a265696e646578106464617461" + "45" + b"hello".hex(),
        ),
        (m.LockPCR(16), "a1674c6f636b504352a165696e64657810"),
        (m.LockPCRs(20), "a1684c6f636b50435273a16572616e676514"),
        (
            m.Attestation(nonce=b"n"),
            "a16b4174746573746174696f6ea3" + "69757365725f64617461f6"
            "656e6f6e6365416e" + "6a7075626c69635f6b6579f6",
        ),
    ],
)
def test_requests_byte_for_byte(request_: m.Request, wire: str) -> None:
    assert m.encode(request_).hex() == wire


def test_the_largest_requests_fit_the_driver() -> None:
    full = b"x" * 1024
    assert len(m.encode(m.Attestation(full, full, full))) <= m.MAX_REQUEST
    assert len(m.encode(m.ExtendPCR(31, b"x" * (m.MAX_REQUEST - 64)))) <= m.MAX_REQUEST


@pytest.mark.parametrize(
    "make",
    [
        lambda: m.DescribePCR(32),
        lambda: m.DescribePCR(-1),
        lambda: m.LockPCR(True),
        lambda: m.LockPCR(1.0),  # type: ignore[arg-type]  # what a caller might do
        lambda: m.LockPCRs(33),
        lambda: m.ExtendPCR(32, b""),
        lambda: m.ExtendPCR(16, "text"),  # type: ignore[arg-type]  # the same
        lambda: m.ExtendPCR(16, b"x" * m.MAX_REQUEST),
        lambda: m.Attestation(user_data=b"x" * 1025),
        lambda: m.Attestation(nonce=b"x" * 1025),
        lambda: m.Attestation(public_key=b"x" * 1025),
        lambda: m.Attestation(nonce="text"),  # type: ignore[arg-type]  # the same
    ],
)
def test_invalid_requests_are_rejected(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_responses() -> None:
    assert m.decode(
        cbor2.dumps({"DescribeNSM": DESCRIBED}), m.DescribeNSMResponse
    ) == m.DescribeNSMResponse(1, 0, 0, "i-0123-enc4567", 32, frozenset({0, 1, 2}), "SHA384")
    assert m.decode(
        cbor2.dumps({"DescribePCR": {"lock": True, "data": bytes(48)}}), m.DescribePCRResponse
    ) == m.DescribePCRResponse(lock=True, data=bytes(48))
    assert m.decode(cbor2.dumps("LockPCR"), m.LockPCRResponse) == m.LockPCRResponse()
    assert m.decode(
        cbor2.dumps({"GetRandom": {"random": b"r" * 256}}), m.GetRandomResponse
    ) == m.GetRandomResponse(b"r" * 256)


REQUESTS: list[type[Message]] = [m.DescribeNSM, m.DescribePCR, m.ExtendPCR, m.LockPCR, m.LockPCRs]
MESSAGES = [*REQUESTS, m.GetRandom, m.Attestation, *RESPONSES]


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_field_has_a_slot_and_nothing_else_has(kind: type[Message]) -> None:
    assert set(kind.__slots__) == set(kind._names)
    assert kind.__dictoffset__ == 0, "else there is a __dict__"


def test_messages_are_values() -> None:
    one = m.ExtendPCR(16, b"a")
    assert one == m.ExtendPCR(data=b"a", index=16) == pickle.loads(pickle.dumps(one))  # noqa: S301
    assert one != m.ExtendPCR(17, b"a")
    assert m.DescribePCR(1) != m.LockPCR(1)
    assert len({one, m.ExtendPCR(16, b"a"), m.DescribeNSM(), m.GetRandom()}) == 3
    assert repr(one) == "ExtendPCR(index=16, data=b'a')"
    assert (m.Attestation(b"u").user_data, m.Attestation(nonce=b"n").nonce) == (b"u", b"n")
    with pytest.raises(AttributeError, match="frozen"):
        one.index = 3  # type: ignore[misc]  # what a caller might do
    with pytest.raises(AttributeError, match="frozen"):
        del one.data


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, b"", 2), {}), ((1,), {"index": 2}), ((), {"index": 1, "x": b""})],
)
def test_fields_missing_unknown_or_given_twice(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError, match="ExtendPCR takes index, data"):
        m.ExtendPCR(*args, **kwargs)


def test_random_bytes_are_not_shown() -> None:
    assert repr(m.GetRandomResponse(b"secret")) == "GetRandomResponse()"


def test_a_map_of_indefinite_length_is_decoded() -> None:
    answer = b"\xbf" + cbor2.dumps("GetRandom") + b"\xbf" + cbor2.dumps("random") + b"\x41r\xff\xff"
    assert m.decode(answer, m.GetRandomResponse).random == b"r"


def test_an_unknown_field_is_ignored() -> None:
    answer = cbor2.dumps({"ExtendPCR": {"data": bytes(48), "new": 1}})
    assert m.decode(answer, m.ExtendPCRResponse).data == bytes(48)


@pytest.mark.parametrize(
    ("code", "hint"),
    [("ReadOnlyIndex", "locked"), ("InvalidIndex", "0..31"), ("Unheard", "does not know")],
)
def test_the_nsms_own_errors(code: str, hint: str) -> None:
    with pytest.raises(NsmRefusedError) as caught:
        m.decode(cbor2.dumps({"Error": code}), m.ExtendPCRResponse)
    assert caught.value.code == code
    assert caught.value.request == "ExtendPCR"
    assert hint in caught.value.hint


def _described(**changes: object) -> bytes:
    return cbor2.dumps({"DescribeNSM": DESCRIBED | changes})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", m.GetRandomResponse),
        (b"\xff" * 10, m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {"random": b""}}), m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {"random": b"r" * 257}}), m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {"random": "r"}}), m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {}}), m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": b"r"}), m.GetRandomResponse),
        (cbor2.dumps("GetRandom"), m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {"random": b"r"}}) + b"\0", m.GetRandomResponse),
        (cbor2.dumps({"GetRandom": {"random": b"r"}, "more": 1}), m.GetRandomResponse),
        (cbor2.dumps({"ExtendPCR": {"data": bytes(48)}}), m.GetRandomResponse),
        (cbor2.dumps({"ExtendPCR": {"data": bytes(47)}}), m.ExtendPCRResponse),
        (cbor2.dumps({"ExtendPCR": {"data": bytes(49)}}), m.ExtendPCRResponse),
        (cbor2.dumps({"DescribePCR": {"data": bytes(48), "lock": 1}}), m.DescribePCRResponse),
        (cbor2.dumps({"LockPCR": {}}), m.LockPCRResponse),
        (cbor2.dumps("LockPCRs"), m.LockPCRResponse),
        (cbor2.dumps({"Attestation": {"document": b""}}), m.AttestationResponse),
        (cbor2.dumps({"Error": 4}), m.GetRandomResponse),
        (cbor2.dumps({"Error": "\x1b[31m"}), m.GetRandomResponse),
        (cbor2.dumps({"Error": "x" * 65}), m.GetRandomResponse),
        (bytes(m.MAX_RESPONSE + 1), m.GetRandomResponse),
        (_described(module_id=""), m.DescribeNSMResponse),
        (_described(module_id="i-0\x1b[2J"), m.DescribeNSMResponse),
        (_described(module_id="x" * 257), m.DescribeNSMResponse),
        (_described(max_pcrs=True), m.DescribeNSMResponse),
        (_described(max_pcrs=1 << 16), m.DescribeNSMResponse),
        (_described(version_minor=-1), m.DescribeNSMResponse),
        (_described(locked_pcrs=[0, "1"]), m.DescribeNSMResponse),
        (_described(locked_pcrs={0: 1}), m.DescribeNSMResponse),
        (_described(digest=None), m.DescribeNSMResponse),
    ],
)
def test_malformed_responses_are_rejected(answer: bytes, expected: type[m.Response]) -> None:
    with pytest.raises(NsmResponseError):
        m.decode(answer, expected)


_cbor = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_answers = st.binary(max_size=200) | st.one_of(
    st.builds(
        lambda name, body: cbor2.dumps({name: body}),
        st.sampled_from([r.__name__.removesuffix("Response") for r in RESPONSES] + ["Error"]),
        _cbor,
    ),
    _cbor.map(cbor2.dumps),
)


@given(answer=_answers, expected=st.sampled_from(RESPONSES))
def test_whatever_the_bytes_only_nsm_errors_leave(
    answer: bytes, expected: type[m.Response]
) -> None:
    try:
        decoded = m.decode(answer, expected)
    except NsmError:
        return
    assert isinstance(decoded, expected)
