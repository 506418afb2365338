"""The simulated NitroTPM, beside a TPM that others wrote and beside a real document."""

from __future__ import annotations

import itertools
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.nitrotpm import (
    EVICT_CONTROL,
    GET_CAPABILITY,
    GET_RANDOM,
    NSM_REQUEST,
    NV_DEFINE_SPACE,
    NV_READ,
    NV_READ_PUBLIC,
    NV_UNDEFINE_SPACE,
    NV_WRITE,
    PCR_EXTEND,
    PCR_READ,
    PCR_RESET,
    SELF_TEST,
    STARTUP,
    SimulatedNitroTpm,
)
from tests.enclave.nitrotpm.swtpm import swtpm
from tests.paths import VECTORS

if TYPE_CHECKING:
    from pathlib import Path

REAL = VECTORS / "nitrotpm" / "nitrotpm-2026-08.cbor"
INDEX, OWNER = 0x01800001, 0x40000001
SIZE = 2048
"""Bytes of an index: swtpm takes no larger one."""


def plain(code: int, body: bytes) -> bytes:
    return struct.pack(">HII", 0x8001, 10 + len(body), code) + body


def by_password(code: int, *handles: int, password: bytes = b"", body: bytes = b"") -> bytes:
    area = struct.pack(">IHBH", 0x40000009, 0, 0, len(password)) + password
    whole = struct.pack(f">{len(handles)}I", *handles) + struct.pack(">I", len(area)) + area + body
    return struct.pack(">HII", 0x8002, 10 + len(whole), code) + whole


def define(
    size: int = SIZE, attributes: int = 0x40004, auth: bytes = b"mine", *, handle: int = INDEX,
    algorithm: int = 0x000D, policy: bytes = b"", behind: bytes = b"",
) -> bytes:  # fmt: skip
    area = struct.pack(">IHIH", handle, algorithm, attributes, len(policy)) + policy
    area += struct.pack(">H", size) + behind
    body = struct.pack(">H", len(auth)) + auth + struct.pack(">H", len(area)) + area
    return by_password(NV_DEFINE_SPACE, OWNER, body=body)


def resized(command: bytes, by: int) -> bytes:
    """A command that ends too soon, or goes on too long; its header has the true size."""
    body = command[6:by] if by < 0 else command[6:] + bytes(by)
    return command[:2] + struct.pack(">I", 6 + len(body)) + body


def write(data: bytes, offset: int, *, password: bytes = b"mine") -> bytes:
    body = struct.pack(">H", len(data)) + data + struct.pack(">H", offset)
    return by_password(NV_WRITE, INDEX, INDEX, password=password, body=body)


def read(size: int, offset: int, *, password: bytes = b"mine") -> bytes:
    body = struct.pack(">HH", size, offset)
    return by_password(NV_READ, INDEX, INDEX, password=password, body=body)


def pcr_read(*indexes: int) -> bytes:
    bits = sum(1 << index for index in indexes).to_bytes(3, "little")
    return plain(PCR_READ, struct.pack(">IHB", 1, 0x000C, 3) + bits)


def pcr_extend(index: int) -> bytes:
    return by_password(PCR_EXTEND, index, body=struct.pack(">IH", 1, 0x000C) + b"m" * 48)


READ_PUBLIC = plain(NV_READ_PUBLIC, struct.pack(">I", INDEX))
UNDEFINE = by_password(NV_UNDEFINE_SPACE, OWNER, INDEX)

PROPERTIES = plain(GET_CAPABILITY, struct.pack(">III", 6, 0x12C, 1))
RETRY = struct.pack(">HII", 0x8001, 10, 0x922)

COMMANDS = [
    READ_PUBLIC,
    UNDEFINE,
    read(16, 0),
    by_password(NV_UNDEFINE_SPACE, OWNER, INDEX, password=b"wrong"),
    define(attributes=0),
    define(),
    define(),
    READ_PUBLIC,
    read(16, 0),
    read(16, 0, password=b"wrong"),
    write(b"hello", 2040),
    write(b"hello", 2043),
    read(8, 2040),
    write(b"hello", 2044),
    write(b"hello", 3),
    write(b"", 3),
    write(b"hello", 3, password=b"mine\0\0"),
    read(16, 0),
    read(1024, 1024),
    read(0, 0),
    read(1024, 1025),
    read(1025, 0),
    write(bytes(1025), 0),
    by_password(NV_READ, OWNER, INDEX, body=struct.pack(">HH", 8, 0)),
    by_password(NV_READ, INDEX, INDEX + 1, password=b"mine", body=struct.pack(">HH", 8, 0)),
    READ_PUBLIC,
    plain(NV_READ, struct.pack(">II", INDEX, INDEX)),
    plain(0x12345678, b""),
    PROPERTIES,
    UNDEFINE,
    UNDEFINE,
    plain(STARTUP, bytes(2)),
    plain(SELF_TEST, b"\1"),
    plain(GET_CAPABILITY, struct.pack(">III", 99, 0, 1)),
    plain(GET_CAPABILITY, struct.pack(">III", 6, 0x100, 1)),
    plain(GET_CAPABILITY, struct.pack(">III", 1, 0x01000000, 1)),
    pcr_read(8, 12, 16, 17, 22, 23),
    pcr_extend(16),
    pcr_extend(17),
    pcr_extend(24),
    pcr_read(16, 17),
    by_password(PCR_RESET, 12),
    by_password(PCR_RESET, 16),
    pcr_read(16),
    *(define(handle=handle) for handle in (0x80000000, 0x81000000, OWNER, 5)),
    define(auth=bytes(65)),
    define(0x8001),
    define(algorithm=0x1234),
    define(algorithm=0x10),
    define(policy=bytes(5)),
    define(policy=bytes(48)),
    define(behind=b"\0"),
    define(attributes=0x20040004),
    by_password(NV_DEFINE_SPACE, OWNER, body=bytes(4)),
    define(policy=bytes(64)),
    UNDEFINE,
    plain(PCR_READ, struct.pack(">I", 5) + b"\0\x0c\3\0\0\0" * 5),
    plain(PCR_READ, struct.pack(">I", 1) + b"\0\x77\3\0\0\0"),
    plain(PCR_READ, struct.pack(">I", 1) + b"\0\x0c\5" + bytes(5)),
    by_password(PCR_EXTEND, 16, body=struct.pack(">IH", 1, 0x77) + bytes(48)),
    by_password(PCR_EXTEND, 16, body=struct.pack(">I", 5) + (b"\0\x0c" + bytes(48)) * 5),
    define(),
    write(b"hello", 2),
    *(
        resized(command, by)
        for command in [
            READ_PUBLIC, write(b"hello", 3), read(8, 0), PROPERTIES, pcr_read(16), pcr_extend(16),
            by_password(PCR_RESET, 16), plain(GET_RANDOM, b"\0\5"), UNDEFINE, define(),
        ]
        for by in (-1, -2, -3, 1)
        if len(command) + by >= 10
    ),
    read(8, 0),
    pcr_read(16),
    UNDEFINE,
]  # fmt: skip


def test_it_responds_as_another_tpm_does(tmp_path: Path, nitro_authority: Authority) -> None:
    """Byte for byte, error codes and names of indexes included."""
    # As after a start of swtpm: no firmware has measured anything.
    ours = SimulatedNitroTpm(nitro_authority, pcrs=dict.fromkeys(range(16), bytes(48)))
    differences = []
    with swtpm(tmp_path) as theirs:
        for number, command in enumerate(COMMANDS):
            expected = theirs.exchange(command)
            while expected == RETRY:  # as before the first password that a lockout guards
                expected = theirs.exchange(command)
            got = ours.exchange(command)
            if command == PROPERTIES:  # whether there are more of them is the maker's
                got, expected = got[:10] + got[11:], expected[:10] + expected[11:]
            if command[6:10] == struct.pack(">I", PCR_READ):
                got, expected = got[:10] + got[14:], expected[:10] + expected[14:]  # the counter
            if got != expected:
                differences.append((number, got.hex(), expected.hex()))
    assert not differences


@given(st.data())
def test_whatever_the_bytes_there_is_a_response(data: st.DataObject) -> None:
    device = SimulatedNitroTpm(AUTHORITY)
    device.exchange(define())
    base = data.draw(st.sampled_from([*COMMANDS, by_password(NSM_REQUEST, INDEX, INDEX)]))
    command = bytearray(base)
    for _ in range(data.draw(st.integers(0, 4))):
        command[data.draw(st.integers(0, len(command) - 1))] = data.draw(st.integers(0, 255))
    command = command[: data.draw(st.integers(0, len(command)))]
    for given_ in (bytes(command), bytes(command[:2]) + struct.pack(">I", len(command))
                   + bytes(command[6:])):  # fmt: skip
        response = device.exchange(given_)
        assert len(response) >= 10
        assert struct.unpack_from(">I", response, 2) == (len(response),)


@pytest.mark.parametrize("code", [NV_UNDEFINE_SPACE, NV_WRITE, NV_READ, NSM_REQUEST, EVICT_CONTROL])
def test_whatever_the_handles_there_is_a_response(code: int) -> None:
    device = SimulatedNitroTpm(AUTHORITY)
    handles = (OWNER, INDEX, 0, 16, 0x40000007, 0x02000000, 0x80000000, 0x81000000, 0xFFFFFFFF)
    for first, second in itertools.product(handles, handles):
        device.exchange(define())
        for password in (b"", b"mine"):
            response = device.exchange(by_password(code, first, second, password=password))
            assert struct.unpack_from(">I", response, 2) == (len(response),)


def test_indexes_have_an_end_even_if_they_are_empty() -> None:
    device = SimulatedNitroTpm(AUTHORITY)
    responses = [device.exchange(define(0, handle=INDEX + n)) for n in range(65)]
    codes = [struct.unpack_from(">I", response, 6)[0] for response in responses]
    assert codes == [0] * 64 + [0x14B], "TPM_RC_NV_SPACE"
    device.exchange(UNDEFINE)
    assert device.exchange(define(0))[6:10] == bytes(4)


def test_a_hierarchy_is_no_index_to_undefine() -> None:
    response = SimulatedNitroTpm(AUTHORITY).exchange(by_password(NV_UNDEFINE_SPACE, OWNER, OWNER))
    assert response[6:] == struct.pack(">I", 0x28B), "TPM_RC_HANDLE of the second handle"


@pytest.mark.parametrize(
    ("value", "response"),
    [
        (5, {"Error": "InvalidOperation"}),
        ([b"x"], {"Error": "InvalidOperation"}),
        (0, {"Error": "InvalidOperation"}),
        (bytes(1025), {"Error": "InputTooLarge"}),
    ],
)
def test_field_of_a_wrong_type_or_size_is_refused(value: object, response: object) -> None:
    device = SimulatedNitroTpm(AUTHORITY)
    device.exchange(define())
    request = cbor2.dumps({"Attestation": {"nonce": value}})
    for offset in range(0, len(request), 1024):
        device.exchange(write(request[offset : offset + 1024], offset))
    device.exchange(by_password(NSM_REQUEST, INDEX, INDEX, password=b"mine"))
    read_back = device.exchange(read(64, 0))
    assert cbor2.loads(read_back[16:]) == response


AUTHORITY = Authority.generate()


@pytest.mark.skipif(not REAL.exists(), reason="the real document (../shared/vectors) is not here")
def test_its_document_has_the_form_of_a_real_one() -> None:
    """Field by field: order, types, sizes, PCRs that are never measured into, certificates."""
    now = datetime(2026, 8, 13, 17, 36, 48, tzinfo=UTC)
    device = SimulatedNitroTpm(
        Authority.generate(region="us-west-2"),
        module_id="i-000fa553dad58a9f1-tpm0000000000000000",
        now=lambda: now,
    )
    # The device's own encoder, without the commands around it.
    ours = device._document({"public_key": bytes(91), "user_data": None, "nonce": bytes(64)})
    (real, real_payload), (made, made_payload) = (
        (cbor2.loads(raw), cbor2.loads(cbor2.loads(raw)[2])) for raw in (REAL.read_bytes(), ours)
    )
    assert made[:2] == real[:2]
    assert made[2][:1] == real[2][:1] == b"\xbf"
    assert list(made_payload) == list(real_payload)
    assert {name: type(value) for name, value in made_payload.items()} == {
        name: type(value) for name, value in real_payload.items()
    }
    fixed = (8, 12, 13, 14, 15, 16, *range(17, 23), 23)
    real_pcrs, made_pcrs = real_payload["nitrotpm_pcrs"], made_payload["nitrotpm_pcrs"]
    assert list(made_pcrs) == list(real_pcrs)
    assert {index: made_pcrs[index] for index in fixed} == {i: real_pcrs[i] for i in fixed}
    assert abs(len(ours) - len(REAL.read_bytes())) < 200
    chains = [
        [
            x509.load_der_x509_certificate(der)
            for der in (*fields["cabundle"], fields["certificate"])
        ]
        for fields in (real_payload, made_payload)
    ]
    assert [len(chain) for chain in chains] == [5, 5]
    for theirs, mine in zip(*chains, strict=True):
        assert [extension.oid for extension in mine.extensions] == [
            extension.oid for extension in theirs.extensions
        ]
    leaves = [chain[-1] for chain in chains]
    assert all(leaf.serial_number.bit_length() <= 64 for leaf in leaves)
    assert all(
        leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=3, seconds=3)
        for leaf in leaves
    )


@pytest.mark.parametrize("changes", [{"module_id": "i-0-enc0"}, {"pcrs": {4: bytes(32)}}])
def test_a_tpm_that_cannot_be(nitro_authority: Authority, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"module id|PCR4"):
        SimulatedNitroTpm(nitro_authority, **changes)  # type: ignore[arg-type]
