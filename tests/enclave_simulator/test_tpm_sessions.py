"""Sessions and keys of the simulated TPM: published vectors, swtpm's keys, hostile bytes.

What HMAC sessions do as a whole is shown by libtss2: ``launcher/test_nitrotpm.py``.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.nitrotpm import (
    CREATE_PRIMARY,
    EVICT_CONTROL,
    FLUSH_CONTEXT,
    GET_RANDOM,
    NV_DEFINE_SPACE,
    READ_PUBLIC,
    START_AUTH_SESSION,
    SimulatedNitroTpm,
)
from enclave_simulator.tpm_sessions import cfb, kdfa
from tests.enclave.nitrotpm.swtpm import swtpm
from tests.enclave_simulator.test_nitrotpm import OWNER, RETRY, by_password, define, plain, resized

if TYPE_CHECKING:
    from pathlib import Path

NULL, ENDORSEMENT = 0x40000007, 0x4000000B
PERSISTENT = 0x81010001
AUTHORITY = Authority.generate()

TEMPLATE = (
    struct.pack(">HHI", 1, 0x0B, 0x300B2) + struct.pack(">H", 32) + bytes(32)  # authPolicy
    + struct.pack(">HHH", 6, 128, 0x43) + struct.pack(">HHI", 0x10, 2048, 0) + b"\0\0"
)  # fmt: skip
"""A TPMT_PUBLIC of an RSA-2048 storage key with AES-128-CFB (Part 2)."""


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def create_primary(template: bytes = TEMPLATE) -> bytes:
    body = sized(sized(b"") * 2) + sized(template) + sized(b"outside") + bytes(4)
    return by_password(CREATE_PRIMARY, ENDORSEMENT, body=body)


def start(key: int = NULL, salt: bytes = b"", symmetric: bytes = b"\0\x10") -> bytes:
    body = struct.pack(">II", key, NULL) + sized(bytes(32)) + sized(salt) + b"\0"
    return plain(START_AUTH_SESSION, body + symmetric + struct.pack(">H", 0x0B))


def code(response: bytes) -> int:
    (found,) = struct.unpack_from(">I", response, 6)
    return int(found)


def test_aes_cfb_of_nist() -> None:
    """SP 800-38A, F.3.13 and F.3.14: CFB128-AES128."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    vector = bytes(range(16))
    clear = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    secret = bytes.fromhex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b")
    assert cfb(key, vector, clear, decrypt=False) == secret
    assert cfb(key, vector, secret, decrypt=True) == clear
    assert cfb(key, vector, clear[:5], decrypt=False) == secret[:5]


def test_kdfa_is_hmac_over_counter_label_and_context() -> None:
    made = kdfa("sha256", b"key", b"ATH", b"context", 384)
    blocks = [
        hmac.digest(b"key", bytes([0, 0, 0, n]) + b"ATH\0context" + bytes([0, 0, 1, 128]), "sha256")
        for n in (1, 2)
    ]
    assert made == b"".join(blocks)[:48]


def test_a_key_is_created_kept_and_removed() -> None:
    tpm = SimulatedNitroTpm(AUTHORITY)
    created = tpm.exchange(create_primary())
    assert code(created) == 0
    (handle,) = struct.unpack_from(">I", created, 10)
    assert handle == 0x80000000
    public = tpm.exchange(plain(READ_PUBLIC, struct.pack(">I", handle)))
    keep = by_password(EVICT_CONTROL, OWNER, handle, body=struct.pack(">I", PERSISTENT))
    assert code(tpm.exchange(keep)) == 0
    assert code(tpm.exchange(keep)) == 0x14C  # TPM_RC_NV_DEFINED
    assert code(tpm.exchange(plain(FLUSH_CONTEXT, struct.pack(">I", handle)))) == 0
    assert tpm.exchange(plain(READ_PUBLIC, struct.pack(">I", PERSISTENT))) == public
    gone = by_password(EVICT_CONTROL, OWNER, PERSISTENT, body=struct.pack(">I", PERSISTENT))
    assert code(tpm.exchange(gone)) == 0
    assert code(tpm.exchange(plain(READ_PUBLIC, struct.pack(">I", PERSISTENT)))) == 0x18B
    # One seed, one key; and room for three.
    again = [tpm.exchange(create_primary()) for _ in range(4)]
    assert created[14:] == again[0][14:]
    assert [code(each) for each in again] == [0, 0, 0, 0x902]  # TPM_RC_OBJECT_MEMORY


def test_keys_are_kept_up_to_a_number(tmp_path: Path) -> None:
    """Where, as swtpm has it; it has room for more."""

    def evict(handle: int, persistent: int) -> bytes:
        return by_password(EVICT_CONTROL, OWNER, handle, body=struct.pack(">I", persistent))

    commands = [
        create_primary(),
        evict(0x80000000, PERSISTENT),
        evict(PERSISTENT, PERSISTENT + 1),
        evict(0x80000000, 0x81800000),
        evict(0x80000000, 0x80000001),
        *(resized(evict(0x80000000, PERSISTENT + 1), by) for by in (-1, 1)),
        *(resized(plain(FLUSH_CONTEXT, struct.pack(">I", 0x80000000)), by) for by in (-1, 1)),
    ]
    ours = SimulatedNitroTpm(AUTHORITY)
    with swtpm(tmp_path) as theirs:
        for command in commands:
            expected = theirs.exchange(command)
            while expected == RETRY:
                expected = theirs.exchange(command)
            assert code(ours.exchange(command)) == code(expected)
    kept = [code(ours.exchange(evict(0x80000000, PERSISTENT + n))) for n in range(1, 8)]
    assert kept == [0] * 6 + [0x14B]  # TPM_RC_NV_SPACE
    assert code(ours.exchange(evict(PERSISTENT + 6, PERSISTENT + 6))) == 0
    assert code(ours.exchange(evict(0x80000000, PERSISTENT + 7))) == 0


def test_a_key_has_the_form_of_swtpms(tmp_path: Path) -> None:
    """All but the modulus, and what is made of it."""
    with swtpm(tmp_path) as device:
        theirs = device.exchange(create_primary())
        while theirs == RETRY:
            theirs = device.exchange(create_primary())
    ours = SimulatedNitroTpm(AUTHORITY).exchange(create_primary())
    assert len(ours) == len(theirs)
    size = len(TEMPLATE) - 2  # up to the modulus
    assert ours[14 + 4 : 14 + 6 + size] == theirs[14 + 4 : 14 + 6 + size]
    modulus = ours.index(sized(TEMPLATE[:-2] + sized(bytes(256)))[: 2 + size])
    rest = modulus + 2 + size + 2 + 256
    # Creation data (no PCRs, locality 0, the endorsement hierarchy, what came from outside).
    assert ours[rest : rest + 2 + 4 + 2 + 32] == theirs[rest : rest + 2 + 4 + 2 + 32]


def test_a_session_is_proved_and_its_nonce_rolls() -> None:
    tpm = SimulatedNitroTpm(AUTHORITY)
    started = tpm.exchange(start())
    (handle,) = struct.unpack_from(">I", started, 10)
    nonce = started[16:]
    command = plain(GET_RANDOM, b"")
    assert len(nonce) == 32
    for _ in range(2):
        parameters = struct.pack(">H", 8)
        cp_hash = hashlib.sha256(struct.pack(">I", GET_RANDOM) + parameters).digest()
        proof = hmac.digest(b"", cp_hash + bytes(32) + nonce + b"\1", "sha256")
        area = struct.pack(">I", handle) + sized(bytes(32)) + b"\1" + sized(proof)
        body = struct.pack(">I", len(area)) + area + parameters
        command = struct.pack(">HII", 0x8002, 10 + len(body), GET_RANDOM) + body
        response = tpm.exchange(command)
        assert code(response) == 0
        assert code(tpm.exchange(command)) == 0x98E, "a replay"
        nonce = response[14 + 10 + 2 : 14 + 10 + 2 + 32]
    assert code(tpm.exchange(plain(FLUSH_CONTEXT, struct.pack(">I", handle)))) == 0
    assert code(tpm.exchange(command)) == 0x144  # no such session


def test_sessions_are_bounded_and_salts_need_a_key() -> None:
    tpm = SimulatedNitroTpm(AUTHORITY)
    assert code(tpm.exchange(start(0x80000000, b"salt"))) == 0x18B
    assert [code(tpm.exchange(start())) for _ in range(17)] == [0] * 16 + [0x905]
    tpm = SimulatedNitroTpm(AUTHORITY)
    tpm.exchange(create_primary())
    assert code(tpm.exchange(start(0x80000000, bytes(256)))) == 0x1C4


@given(st.data())
def test_whatever_the_bytes_there_is_a_response(data: st.DataObject) -> None:
    tpm = KEYED
    opened = tpm.exchange(start(symmetric=struct.pack(">HHH", 6, 128, 0x43)))
    handle = opened[10:14] if code(opened) == 0 else bytes(4)
    area = handle + sized(bytes(32)) + b"\x61" + sized(bytes(32))
    with_session = struct.pack(">II", OWNER, len(area)) + area + define()[27:]
    base = data.draw(
        st.sampled_from([
            create_primary(), start(), start(PERSISTENT, bytes(256)),
            struct.pack(">HII", 0x8002, 10 + len(with_session), NV_DEFINE_SPACE) + with_session,
            by_password(EVICT_CONTROL, OWNER, 0x80000000, body=struct.pack(">I", PERSISTENT)),
        ])
    )  # fmt: skip
    command = bytearray(base)
    for _ in range(data.draw(st.integers(0, 4))):
        command[data.draw(st.integers(6, len(command) - 1))] = data.draw(st.integers(0, 255))
    cut = command[: data.draw(st.integers(10, len(command)))]
    struct.pack_into(">I", cut, 2, len(cut))
    response = tpm.exchange(bytes(cut))
    assert struct.unpack_from(">I", response, 2) == (len(response),)
    for known in (tpm._sessions.known, tpm._keys.loaded):
        known.clear()


KEYED = SimulatedNitroTpm(AUTHORITY)
