"""Targets: CBOR, NSM and TPM responses, attestation documents, CMS, KMS's responses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import cbor2

from enclave import cbor
from enclave.attestation import chain
from enclave.attestation.document import parse
from enclave.attestation.verify import verify
from enclave.credentials.document import parse_credentials, refusal
from enclave.errors import (
    AttestationError,
    CredentialsError,
    DecodingError,
    DecryptionError,
    KmsResponseError,
    NsmError,
    TpmError,
)
from enclave.nitrotpm import messages as tpm
from enclave.nsm import messages as nsm
from enclave.recipient import cms
from enclave.recipient.ber import BerReader
from enclave.recipient.exchange import SECRET_FIELD, opened_response
from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.credentials import simulated_document
from tests.enclave.recipient.envelopes import Envelope, key_identifier, private_key, rebuilt
from tests.enclave_simulator.documents import attest, spki
from tests.programs.fuzz.target import Feed, Target

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_REQUESTS: tuple[Any, ...] = (
    nsm.DescribeNSM(), nsm.DescribePCR(3), nsm.ExtendPCR(20, b"data"), nsm.LockPCR(21),
    nsm.LockPCRs(22), nsm.GetRandom(), nsm.Attestation(b"u", b"n", b"k"),
)  # fmt: skip
_RESPONSES: tuple[type[Any], ...] = (
    nsm.DescribeNSMResponse, nsm.DescribePCRResponse, nsm.ExtendPCRResponse, nsm.LockPCRResponse,
    nsm.LockPCRsResponse, nsm.GetRandomResponse, nsm.AttestationResponse,
)  # fmt: skip


@cache
def _authority() -> Authority:
    return Authority.generate()


@cache
def _nsms() -> tuple[SimulatedNsm, ...]:
    """Every kind of enclave. Their clock stands at `NOW`."""
    made = {"now": lambda: NOW}
    return (
        SimulatedNsm(_authority(), **made),  # type: ignore[arg-type]
        SimulatedNsm(
            _authority(), indefinite_map=False, role_arn="arn:aws:iam::1:role/r", now=lambda: NOW
        ),
        SimulatedNsm(_authority(), debug_mode=True, now=lambda: NOW),
    )


@cache
def documents() -> tuple[bytes, ...]:
    key = spki(private_key())
    fields: list[dict[str, Any]] = [{}, {"nonce": b"n" * 32, "user_data": b""}, {"user_data": b"u"}]
    return tuple(attest(each, key, **more) for each, more in zip(_nsms(), fields, strict=True))


def _cbor(data: bytes) -> None:
    item = data
    with contextlib.suppress(DecodingError):
        item = cbor.first_item(data, format="fuzz")
        assert data.startswith(item)
        assert cbor.decode(item, format="fuzz") == cbor2.loads(item)
    with contextlib.suppress(DecodingError):
        value = cbor.decode(data, format="fuzz")
        assert item == data
        # The subset is what the library would write for such a value, but for its lengths.
        assert cbor.decode(cbor2.dumps(value), format="fuzz") == value


def _cbor_seeds() -> list[bytes]:
    values: list[object] = [
        0, -1, 23, 24, 1 << 16, 1 << 32, -(1 << 40), b"", b"x" * 30, "text", "é", [], [1, [2, [3]]],
        {}, {"a": {"b": [1, None, True, False]}}, {1: b"x", 2: "y"}, 1.5, cbor2.CBORTag(18, [1]),
    ]  # fmt: skip
    indefinite = bytes.fromhex("bf616101616202ff"), bytes.fromhex("9f0102ff")
    return [cbor2.dumps(value) for value in values] + [*indefinite, documents()[0]]


def _nsm(data: bytes) -> None:
    feed = Feed(data)
    expected = _RESPONSES[feed.byte() % len(_RESPONSES)]
    with contextlib.suppress(NsmError):
        response = nsm.decode(feed.rest(), expected)
        repr(response)


def _nsm_seeds() -> list[bytes]:
    (device, *_) = _nsms()
    made = [
        device.exchange(nsm.encode(request)) + bytes([number])
        for number, request in enumerate(_REQUESTS)
    ]
    return [*made, cbor2.dumps({"Error": "InvalidIndex"}) + b"\x01"]


def _document(data: bytes) -> None:
    with contextlib.suppress(DecodingError, AttestationError):
        document = parse(data)
        assert parse(document.raw) == document
        verify(
            data,
            at=NOW + timedelta(seconds=1),
            max_age=timedelta(minutes=5),
            pcrs=None,
            allow_debug=True,
            platform=document.platform,
            root_fingerprint=hashlib.sha256(_authority().root_der).digest(),
        )
        # Only what an NSM of this authority has signed gets here.
        assert document.payload in {parse(each).payload for each in documents()}


def _certificates(data: bytes) -> None:
    """Two-byte lengths, each with a certificate; the last one is the leaf."""
    found: list[bytes] = []
    while data and len(found) < 8:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    if found:
        read, failures = chain.read(found)
        assert len(failures) == read.count(None)
        for failure in [*failures, *chain.check(read, NOW)]:
            assert isinstance(failure, str)


def _certificate_seeds() -> list[bytes]:
    chains = []
    for each in documents():
        document = parse(each)
        chains.append([*document.cabundle, document.certificate])
    return [
        b"".join(struct.pack(">H", len(der)) + der for der in certificates)
        for certificates in [*chains, chains[0][-1:], chains[0][:2]]
    ]


def _cms(data: bytes) -> None:
    key = private_key()
    cms._known = ()
    try:
        fresh = cms.parse_enveloped_data(data)
    except DecodingError:
        cms._known = _layouts()
        with contextlib.suppress(DecodingError):
            cms.parse_enveloped_data(data)
            raise AssertionError("a layout from before lets an invalid envelope through") from None
    else:
        assert len(data) <= cms.MAX_ENVELOPE
        assert cms.parse_enveloped_data(data) == fresh  # by the layout, this time
    with contextlib.suppress(DecodingError, DecryptionError):
        cms.open_enveloped_data(data, key, key_identifier(key))


@cache
def _layouts() -> tuple[Any, ...]:
    return tuple(cms._parse_layout(seed) for seed in _cms_seeds()[:4])


@cache
def _cms_seeds() -> list[bytes]:
    der = Envelope().der()
    return [
        der,
        rebuilt(der, indefinite=True, pieces=2),
        rebuilt(der, indefinite=True, pieces=None),
        rebuilt(der, indefinite=False, pieces=1),
        Envelope(plaintext=b"").der(),
        Envelope(plaintext=b"x" * 1024).der(),
        Envelope(label=b"label").der(),
        Envelope(recipients=2).der(),
        Envelope(identifier=b"i" * 32).der(),
    ]


def _ber(data: bytes) -> None:
    """The first bytes say what to do with the rest: each step is one byte."""
    feed = Feed(data)
    steps = [feed.byte() for _ in range(feed.byte() % 24)]
    ber = BerReader(feed.rest(), "fuzz")
    depth = 0
    with contextlib.suppress(DecodingError):
        for step in steps:
            tag = ber.peek()
            match step % 4:
                case 0 if tag is not None:
                    ber.enter(tag, "element")
                    depth += 1
                case 1 if depth:
                    ber.leave("element")
                    depth -= 1
                case 2 if tag is not None:
                    where = ber.primitive(tag, "element")
                    assert 0 <= where.start <= where.stop <= len(feed.rest())
                case _:
                    ber.expect(0x05, b"", "NULL")
        while depth:
            ber.leave("element")
            depth -= 1
        ber.finish()


def _ber_seeds() -> list[bytes]:
    der = _cms_seeds()[0]
    return [
        b"\x30\x80\x04\x01x\x05\x00\x00\x00" + bytes([1, 3, 2, 0, 4])[::-1],
        b"\x30\x03\x04\x01x" + bytes([1, 2, 0, 3])[::-1],
        der + bytes([0, 2, 0, 0, 2, 0, 2, 7]),
        der + bytes([0, 0, 0, 3]),
    ]


def _exchange(data: bytes) -> None:
    """A byte for the operation, then KMS's response as JSON."""
    feed = Feed(data)
    operation = sorted(SECRET_FIELD)[feed.byte() % len(SECRET_FIELD)]
    try:
        response = json.loads(feed.rest())
    except (ValueError, RecursionError):
        return
    if not isinstance(response, dict):
        return
    for parameters in ({}, {"KeyId": _KEY, "NumberOfBytes": 32}, {"KeyId": "alias/a"}):
        with contextlib.suppress(KmsResponseError, DecodingError, DecryptionError):
            opened = opened_response(operation, parameters, response, lambda _: b"s" * 32)
            assert opened[SECRET_FIELD[operation]] == b"s" * 32
            assert not response.get(SECRET_FIELD[operation])


_KEY = "arn:aws:kms:us-east-1:000000000000:key/1234"


def _exchange_seeds() -> list[bytes]:
    envelope = base64.b64encode(_cms_seeds()[0]).decode()
    right = {"CiphertextForRecipient": envelope, "KeyId": _KEY, "Plaintext": ""}
    return [
        json.dumps(response).encode() + bytes([number])
        for number in range(len(SECRET_FIELD))
        for response in (
            right,
            {**right, "Plaintext": "c2VjcmV0", "PrivateKeyPlaintext": None},
            {**right, "KeyId": 7, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
        )
    ]


def _credentials(data: bytes) -> None:
    feed = Feed(data)
    error = refusal(100 + 2 * feed.byte(), feed.rest())
    assert str(error).isprintable()
    with contextlib.suppress(CredentialsError):
        found = parse_credentials(feed.rest(), now=NOW)
        shown = repr(found).replace(found.access_key_id, "")
        assert len(found.secret_access_key) < 20 or found.secret_access_key not in shown


def _credentials_seeds() -> list[bytes]:
    whole = simulated_document()
    whole["Expiration"] = "2026-06-01T13:00:00Z"
    return [
        json.dumps(document).encode() + b"\x32"
        for document in (
            whole,
            {**whole, "Expiration": "2026-06-01T13:00:00.123456+02:00"},
            {"AccessKeyId": SIMULATED_CREDENTIALS.access_key_id, "SecretAccessKey": "s"},
            {"message": "no role"},
        )
    ]


_TPM: tuple[tuple[tpm.Command, Callable[[tpm.Command, bytes], object]], ...] = (
    (tpm.get_capability(tpm.MANUFACTURER, 5), tpm.read_properties),
    (tpm.nv_read_public(0x01804E54), tpm.read_nv_public),
    (tpm.nv_read(0x01804E54, b"auth", 16, 0), lambda c, r: tpm.read_nv_data(c, r, 16)),
    (tpm.nv_define_space(tpm.message_buffer(1), b"auth"), lambda c, r: c.decode(r)),
)


def _tpm(data: bytes) -> None:
    feed = Feed(data)
    command, read = _TPM[feed.byte() % len(_TPM)]
    with contextlib.suppress(TpmError):
        read(command, feed.rest())


def _tpm_seeds() -> list[bytes]:
    def response(parameters: bytes, code: int = 0) -> bytes:
        return struct.pack(">HII", tpm.NO_SESSIONS, 10 + len(parameters), code) + parameters

    def with_sessions(parameters: bytes) -> bytes:
        body = struct.pack(">I", len(parameters)) + parameters + bytes(5)
        return struct.pack(">HII", tpm.SESSIONS, 10 + len(body), 0) + body

    properties = struct.pack(">BIIIIII", 0, 6, 2, 0x105, 0x414D5A4E, 0x12C, 2048)
    public = tpm.message_buffer(0x01804E54, written=True).encode()
    return [
        response(properties) + b"\0",
        response(public + struct.pack(">H", 2) + b"nm") + b"\1",
        with_sessions(struct.pack(">H", 16) + bytes(16)) + b"\2",
        with_sessions(b"") + b"\3",
        response(b"", 0x14B) + b"\3",
        response(b"", 0x9A2) + b"\2",
        struct.pack(">HII", tpm.VERSION_1_2, 10, 30) + b"\0",
    ]


def _simulated_nsm(data: bytes) -> None:
    """The simulated NSM answers whatever it is asked, as the real one does."""
    response = cbor2.loads(_nsms()[0].exchange(data))
    assert isinstance(response, dict | str)


def _simulated_seeds() -> list[bytes]:
    return [nsm.encode(request) for request in _REQUESTS]


_NAMES = (b"Attestation", b"DescribePCR", b"DescribeNSM", b"GetRandom", b"Error", b"document")

TARGETS = [
    Target(name="cbor", run=_cbor, seeds=_cbor_seeds, packages=("enclave",), max_length=8192),
    Target(name="nsm", run=_nsm, seeds=_nsm_seeds,
           packages=("enclave",), words=_NAMES),
    Target(name="document", run=_document, seeds=documents,
           packages=("enclave",),
           words=(b"pcrs", b"nitrotpm_pcrs", b"cabundle", b"timestamp", b"digest", b"SHA384")),
    Target(name="certificates", run=_certificates, seeds=_certificate_seeds,
           packages=("enclave",)),
    Target(name="cms", run=_cms, seeds=_cms_seeds, packages=("enclave",),
           max_length=8192),
    Target(name="ber", run=_ber, seeds=_ber_seeds, packages=("enclave",),
           max_length=1024),
    Target(name="exchange", run=_exchange, seeds=_exchange_seeds,
           packages=("enclave",),
           words=(b"CiphertextForRecipient", b"Plaintext", b"KeyId", b":key/", b"null", b'""')),
    Target(name="credentials", run=_credentials, seeds=_credentials_seeds,
           packages=("enclave",),
           words=(b"AccessKeyId", b"SecretAccessKey", b"Token", b"Expiration", b"message")),
    Target(name="tpm", run=_tpm, seeds=_tpm_seeds, packages=("enclave",),
           max_length=4200),
    Target(name="simulated-nsm", run=_simulated_nsm, seeds=_simulated_seeds,
           packages=("enclave_simulator",), words=_NAMES, max_length=5000),
]  # fmt: skip
