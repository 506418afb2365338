"""The simulated NSM: requests, PCRs, documents, faults."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pycose.keys.curves import P384
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

from enclave_simulator.authority import Authority
from enclave_simulator.nsm import ERROR_CODES, MAX_REQUEST, MODULE_ID, SimulatedNsm, measure
from tests.enclave_simulator.documents import attest, payload, vector

ZERO = bytes(48)
AUTHORITY = Authority.generate()


@pytest.fixture
def nsm() -> SimulatedNsm:
    return SimulatedNsm(AUTHORITY)


def ask(nsm: SimulatedNsm, request: object) -> Any:
    return cbor2.loads(nsm.exchange(cbor2.dumps(request)))


def refused(nsm: SimulatedNsm, request: object) -> str:
    response = ask(nsm, request)
    assert list(response) == ["Error"]
    code = response["Error"]
    assert code in ERROR_CODES
    return str(code)


# The requests, in the bytes that go over the wire


def test_describe_nsm(nsm: SimulatedNsm) -> None:
    response = cbor2.loads(nsm.exchange(bytes.fromhex("6b44657363726962654e534d")))
    assert response == {
        "DescribeNSM": {
            "digest": "SHA384",
            "max_pcrs": 32,
            "module_id": MODULE_ID,
            "locked_pcrs": list(range(16)),
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
        }
    }


def test_get_random_returns_256_bytes_of_its_source() -> None:
    nsm = SimulatedNsm(AUTHORITY, random=lambda size: b"r" * size)
    response = cbor2.loads(nsm.exchange(bytes.fromhex("6947657452616e646f6d")))
    assert response == {"GetRandom": {"random": b"r" * 256}}


def test_describe_pcr(nsm: SimulatedNsm) -> None:
    assert ask(nsm, {"DescribePCR": {"index": 5}}) == {"DescribePCR": {"data": ZERO, "lock": True}}
    response = ask(nsm, {"DescribePCR": {"index": 31}})
    assert response == {"DescribePCR": {"data": ZERO, "lock": False}}


@pytest.mark.parametrize("data", [b"hello", b"", "hello"], ids=["bytes", "empty", "text"])
def test_extend_pcr_hashes_old_and_new(nsm: SimulatedNsm, data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    once = hashlib.sha384(ZERO + raw).digest()
    twice = hashlib.sha384(once + raw).digest()
    request = {"ExtendPCR": {"index": 16, "data": data}}
    assert ask(nsm, request) == {"ExtendPCR": {"data": once}}
    assert ask(nsm, request) == {"ExtendPCR": {"data": twice}}
    assert ask(nsm, {"DescribePCR": {"index": 16}})["DescribePCR"]["data"] == twice


def test_a_locked_pcr_is_read_only(nsm: SimulatedNsm) -> None:
    assert ask(nsm, {"LockPCR": {"index": 16}}) == "LockPCR"
    assert refused(nsm, {"LockPCR": {"index": 16}}) == "ReadOnlyIndex"
    assert refused(nsm, {"ExtendPCR": {"index": 16, "data": b"x"}}) == "ReadOnlyIndex"
    assert refused(nsm, {"ExtendPCR": {"index": 0, "data": b"x"}}) == "ReadOnlyIndex"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(17))


def test_lock_pcrs_locks_from_zero_and_may_be_repeated(nsm: SimulatedNsm) -> None:
    for _ in range(2):
        assert ask(nsm, {"LockPCRs": {"range": 20}}) == "LockPCRs"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))
    assert ask(nsm, {"LockPCRs": {"range": 3}}) == "LockPCRs"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))
    assert ask(nsm, {"LockPCRs": {"range": 32}}) == "LockPCRs"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"DescribePCR": {"index": 0xFFFF}}, "InvalidIndex"),
        ({"ExtendPCR": {"index": 32, "data": b""}}, "InvalidIndex"),
        ({"LockPCR": {"index": 32}}, "InvalidIndex"),
        ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
        ({"DescribePCR": {"index": 0x10000}}, "InvalidOperation"),
        ({"DescribePCR": {"index": -1}}, "InvalidOperation"),
        ({"DescribePCR": {"index": True}}, "InvalidOperation"),
        ({"DescribePCR": {"index": "5"}}, "InvalidOperation"),
        ({"DescribePCR": {}}, "InvalidOperation"),
        ({"ExtendPCR": {"index": 16}}, "InvalidOperation"),
        ({"ExtendPCR": {"index": 16, "data": 5}}, "InvalidOperation"),
        ({"Attestation": {"nonce": 5}}, "InvalidOperation"),
        ({"Attestation": None}, "InvalidOperation"),
        ({"GetRandom": {}}, "InvalidOperation"),
        ({"DescribeNSM": {}}, "InvalidOperation"),
        ("Attestation", "InvalidOperation"),
        ("LockPCR", "InvalidOperation"),
        ("Nonsense", "InvalidOperation"),
        ({"DescribePCR": {"index": 1}, "LockPCR": {"index": 16}}, "InvalidOperation"),
        ({}, "InvalidOperation"),
        (["GetRandom"], "InvalidOperation"),
        (None, "InvalidOperation"),
    ],
    ids=repr,
)
def test_errors(nsm: SimulatedNsm, request_: object, code: str) -> None:
    assert refused(nsm, request_) == code


def test_a_request_may_have_4096_bytes(nsm: SimulatedNsm) -> None:
    room = MAX_REQUEST - len(cbor2.dumps({"ExtendPCR": {"index": 16, "data": bytes(4000)}})) + 4000
    longest = cbor2.dumps({"ExtendPCR": {"index": 16, "data": bytes(room)}})
    assert len(longest) == MAX_REQUEST
    assert "ExtendPCR" in cbor2.loads(nsm.exchange(longest))
    assert cbor2.loads(nsm.exchange(longest + b"\0")) == {"Error": "InputTooLarge"}


@given(st.binary(max_size=MAX_REQUEST + 10))
def test_whatever_the_bytes_the_response_is_cbor(request: bytes) -> None:
    response = cbor2.loads(SimulatedNsm(AUTHORITY).exchange(request))
    assert isinstance(response, dict | str)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.binary(max_size=40)
    | st.text("ab\u00e9\0", max_size=20)
)
arguments = st.dictionaries(
    st.sampled_from(["index", "data", "range", "nonce", "user_data", "public_key"]), scalars
)


@given(
    st.sampled_from(["DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "Attestation"]), arguments
)
def test_whatever_the_arguments_the_response_is_the_requests_or_an_error(
    name: str, values: dict[str, object]
) -> None:
    response = ask(SimulatedNsm(AUTHORITY), {name: values})
    assert response == name or name in response or response["Error"] in ERROR_CODES


# The PCRs at boot


def test_pcrs_at_boot() -> None:
    role = "arn:aws:iam::111122223333:role/parent"
    nsm = SimulatedNsm(
        AUTHORITY, role_arn=role, module_id="i-0f-enc01", pcrs={0: b"0" * 48, 8: b"8" * 48}
    )
    pcrs = payload(attest(nsm))["pcrs"]
    assert list(pcrs) == list(range(16))
    assert pcrs[0] == b"0" * 48
    assert pcrs[8] == b"8" * 48
    assert pcrs[3] == measure(role.encode())
    assert pcrs[4] == measure(b"i-0f")
    assert ZERO not in (pcrs[1], pcrs[2])


def test_pcr4_of_a_real_document_is_the_measure_of_its_instance_id() -> None:
    real = payload(vector("attestation/tee-verifier-0.bin"))
    assert real["pcrs"][4] == measure(real["module_id"].rpartition("-enc")[0].encode())


def test_debug_mode_zeroes_the_image_and_nothing_else() -> None:
    pcrs = payload(attest(SimulatedNsm(AUTHORITY, debug_mode=True, role_arn="arn")))["pcrs"]
    assert [pcrs[index] for index in (0, 1, 2)] == [ZERO] * 3
    assert ZERO not in (pcrs[3], pcrs[4])


@pytest.mark.parametrize("module_id", ["", "i-1234", "i-XYZ-enc1", "i-1-enc", "i-1-enc" + 17 * "1"])
def test_a_module_id_has_a_shape(module_id: str) -> None:
    with pytest.raises(ValueError, match="not a module id"):
        SimulatedNsm(AUTHORITY, module_id=module_id)


def test_a_pcr_has_48_bytes() -> None:
    with pytest.raises(ValueError, match="PCR0 is 3 bytes"):
        SimulatedNsm(AUTHORITY, pcrs={0: b"abc"})


# The document


@pytest.mark.parametrize(
    ("indefinite", "real"),
    [(True, "attestation/dstack-attest.bin"), (False, "attestation/tee-verifier-0.bin")],
)
def test_documents_are_laid_out_like_real_ones(indefinite: bool, real: str) -> None:
    def layout(document: bytes) -> Any:
        protected, unprotected, raw, signature = cbor2.loads(document)
        fields = cbor2.loads(raw)
        return (
            document[:6],
            protected,
            unprotected,
            len(signature),
            raw[:1],
            raw[-1:] == b"\xff",
            list(fields),
            [type(value) for key, value in fields.items() if key not in OPTIONAL],
            {index: len(value) for index, value in fields["pcrs"].items()},
            len(fields["cabundle"]),
            fields["digest"],
            len(fields["module_id"]),
        )

    nsm = SimulatedNsm(AUTHORITY, indefinite_map=indefinite)
    assert layout(attest(nsm, nonce=b"n")) == layout(vector(real))


OPTIONAL = ("public_key", "user_data", "nonce")


@pytest.mark.parametrize("indefinite", [True, False])
def test_pycose_verifies_a_document(indefinite: bool) -> None:
    document = attest(SimulatedNsm(AUTHORITY, indefinite_map=indefinite), nonce=b"n")
    leaf = x509.load_der_x509_certificate(payload(document)["certificate"]).public_key()
    assert isinstance(leaf, ec.EllipticCurvePublicKey)
    numbers = leaf.public_numbers()
    message = Sign1Message.from_cose_obj(cbor2.loads(document), allow_unknown_attributes=False)
    message.key = EC2Key(P384, numbers.x.to_bytes(48, "big"), numbers.y.to_bytes(48, "big"))
    assert message.verify_signature()
    message.payload = b"\0"
    assert not message.verify_signature()


def test_fields_come_back_as_sent_and_null_when_absent(nsm: SimulatedNsm) -> None:
    fields = payload(attest(nsm, b"k" * 1024, user_data=b"u" * 1024, nonce=b"n" * 1024))
    assert (fields["public_key"], fields["user_data"], fields["nonce"]) == (
        b"k" * 1024,
        b"u" * 1024,
        b"n" * 1024,
    )
    response = ask(nsm, {"Attestation": {}})["Attestation"]["document"]
    assert [payload(response)[name] for name in OPTIONAL] == [None] * 3


@pytest.mark.parametrize("name", OPTIONAL)
def test_fields_end_at_1024_bytes(nsm: SimulatedNsm, name: str) -> None:
    assert refused(nsm, {"Attestation": {name: bytes(1025)}}) == "InputTooLarge"


def test_only_locked_pcrs_are_in_the_document(nsm: SimulatedNsm) -> None:
    ask(nsm, {"LockPCR": {"index": 20}})
    assert list(payload(attest(nsm))["pcrs"]) == [*range(16), 20]


def test_the_leaf_is_kept_and_issued_again_before_it_expires() -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    nsm = SimulatedNsm(AUTHORITY, now=lambda: clock[0])
    first = payload(attest(nsm))
    clock[0] += timedelta(hours=2)
    second = payload(attest(nsm))
    clock[0] += timedelta(minutes=56)
    third = payload(attest(nsm))
    assert first["certificate"] == second["certificate"] != third["certificate"]
    assert second["timestamp"] - first["timestamp"] == 2 * 3600 * 1000
    assert first["timestamp"] == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_calls_are_counted_by_name(nsm: SimulatedNsm) -> None:
    attest(nsm)
    attest(nsm)
    refused(nsm, {"LockPCR": {"index": 0}})
    nsm.exchange(b"\xff")
    nsm.exchange(b"")
    assert nsm.calls == {"Attestation": 2, "LockPCR": 1, "malformed": 2}


def test_threads_share_one_nsm(nsm: SimulatedNsm) -> None:
    request = {"ExtendPCR": {"index": 16, "data": b"x"}}
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: ask(nsm, request)["ExtendPCR"]["data"], range(64)))
    expected = ZERO
    for _ in range(64):
        expected = hashlib.sha384(expected + b"x").digest()
        assert expected in values
    assert nsm.calls["ExtendPCR"] == 64


# Faults


def test_fail_with_lasts_for_so_many_requests(nsm: SimulatedNsm) -> None:
    nsm.fail_with("InternalError", times=2)
    assert [refused(nsm, "GetRandom"), refused(nsm, "DescribeNSM")] == ["InternalError"] * 2
    assert "GetRandom" in ask(nsm, "GetRandom")


@pytest.mark.parametrize("code", ["typo", "Success", "", "invalidArgument"])
def test_fail_with_rejects_what_is_not_an_error_of_the_nsm(nsm: SimulatedNsm, code: str) -> None:
    with pytest.raises(ValueError, match="not an error of the NSM"):
        nsm.fail_with(code)
    assert "Error" not in ask(nsm, "DescribeNSM")


def test_respond_with_and_truncate_last_until_healed(nsm: SimulatedNsm) -> None:
    garbage = os.urandom(7)
    nsm.respond_with(garbage)
    assert [nsm.exchange(b"\x60"), nsm.exchange(b"\x60")] == [garbage] * 2
    nsm.truncate(5)
    assert nsm.exchange(cbor2.dumps("DescribeNSM")) == bytes.fromhex("a16b446573")
    nsm.heal()
    assert "DescribeNSM" in ask(nsm, "DescribeNSM")
