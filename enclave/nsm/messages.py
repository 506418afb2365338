"""What is said to the NSM and what it answers, named as the NSM's own interface names it
(aws-nitro-enclaves-nsm-api, ``Request``, ``Response`` and ``ErrorCode``). No I/O.

On the wire it is CBOR, tagged from outside: a message without fields is a bare text string
(``"GetRandom"``), any other a map of one entry (``{"DescribePCR": {"index": 5}}``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import cbor2

from enclave import cbor
from enclave.errors import ConfigurationError, DecodingError, NsmAnswerError, NsmRefusedError

MAX_REQUEST = 0x1000
"""Bytes in a request (<linux/nsm.h>, ``NSM_REQUEST_MAX_SIZE``)."""

MAX_RESPONSE = 0x3000
"""Bytes in a response (<linux/nsm.h>, ``NSM_RESPONSE_MAX_SIZE``)."""

MAX_FIELD = 1024
"""Bytes in each of an attestation's public_key, user_data and nonce. AWS's text says 512 of the
last two in one place and 1024 in another; AWS's own ``nsm-check`` sends 1024 in all three."""

PCR_COUNT = 32
PCR_SIZE = 48
"""Bytes in a PCR: the NSM measures with SHA-384."""

MAX_RANDOM = 256
"""Bytes in one GetRandom answer; the NSM has always given as many."""

_CODE = re.compile(r"[A-Za-z]{1,64}")
_HINTS = {
    "InvalidArgument": "a field is malformed, or larger than the NSM takes",
    "InvalidIndex": "PCRs are numbered 0..31",
    "InvalidResponse": "the NSM could not build its answer: try again",
    "ReadOnlyIndex": "this PCR is locked; the NSM locks 0..15 at boot",
    "InvalidOperation": "this NSM does not know the request",
    "BufferTooSmall": "the answer does not fit: send less in public_key, user_data and nonce",
    "InputTooLarge": "send less in public_key, user_data and nonce",
    "InternalError": "the NSM failed: try again, then restart the enclave",
}


# Requests


@dataclass(frozen=True, slots=True)
class DescribeNSM:
    """Ask which NSM this is."""


@dataclass(frozen=True, slots=True)
class DescribePCR:
    """Ask for a PCR's value and lock. `index` is in 0..31."""

    index: int

    def __post_init__(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)


@dataclass(frozen=True, slots=True)
class ExtendPCR:
    """Extend a PCR: its new value is SHA-384(old value || `data`). `index` is in 0..31."""

    index: int
    data: bytes

    def __post_init__(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)
        # No limit of its own is documented; this leaves room for the rest of the request.
        _check_bytes("data", self.data, MAX_REQUEST - 64)


@dataclass(frozen=True, slots=True)
class LockPCR:
    """Lock a PCR for the enclave's life. `index` is in 0..31."""

    index: int

    def __post_init__(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)


@dataclass(frozen=True, slots=True)
class LockPCRs:
    """Lock all PCRs below `range`, which is in 0..32."""

    range: int

    def __post_init__(self) -> None:
        _check_number("PCR range", self.range, PCR_COUNT)


@dataclass(frozen=True, slots=True)
class GetRandom:
    """Ask for random bytes."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """Ask for a signed attestation document that holds these; each at most 1024 bytes."""

    user_data: bytes | None = None
    nonce: bytes | None = None
    public_key: bytes | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check_bytes(field.name, value, MAX_FIELD)


Request = DescribeNSM | DescribePCR | ExtendPCR | LockPCR | LockPCRs | GetRandom | Attestation


def encode(request: Request) -> bytes:
    """Encode a request: 10 to 4096 bytes, never none (an empty one wedges the driver)."""
    name = type(request).__name__
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    return cbor2.dumps({name: values} if values else name)


def _check_number(what: str, value: int, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ConfigurationError(f"{what} {value!r} is not a number in 0..{most}")


def _check_bytes(what: str, value: bytes, most: int) -> None:
    if not isinstance(value, bytes):
        raise ConfigurationError(f"{what} for the NSM is {type(value).__name__}, not bytes")
    if len(value) > most:
        raise ConfigurationError(
            f"{what} for the NSM is {len(value)} bytes, over {most}",
            hint="send a digest of it instead",
        )


# Responses


@dataclass(frozen=True, slots=True)
class DescribeNSMResponse:
    """Which NSM this is.

    Attributes:
        module_id: for example ``i-0fd3fdaad4e904e69-enc019b54988b2d89ba``.
        max_pcrs: 32 on every known NSM.
        locked_pcrs: 0..15 at boot.
        digest: what PCRs and documents are hashed with: ``SHA384``.
    """

    version_major: int
    version_minor: int
    version_patch: int
    module_id: str
    max_pcrs: int
    locked_pcrs: frozenset[int]
    digest: str


@dataclass(frozen=True, slots=True)
class DescribePCRResponse:
    """A PCR's value, 48 bytes, and whether it is locked."""

    lock: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class ExtendPCRResponse:
    """A PCR's new value, 48 bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LockPCRResponse:
    """The PCR is locked."""


@dataclass(frozen=True, slots=True)
class LockPCRsResponse:
    """The PCRs are locked."""


@dataclass(frozen=True, slots=True)
class GetRandomResponse:
    """Random bytes: 1 to 256, and 256 from every known NSM."""

    random: bytes


@dataclass(frozen=True, slots=True)
class AttestationResponse:
    """An attestation document, COSE_Sign1; see `enclave.attestation`."""

    document: bytes


Response = (
    DescribeNSMResponse
    | DescribePCRResponse
    | ExtendPCRResponse
    | LockPCRResponse
    | LockPCRsResponse
    | GetRandomResponse
    | AttestationResponse
)
R = TypeVar("R", bound=Response)


def decode(answer: bytes, expected: type[R]) -> R:
    """Decode the answer to the request that `expected` belongs to.

    Fields nobody knows are left alone: the NSM may grow one, and no running enclave could be
    upgraded in step.

    Raises:
        NsmRefusedError: the NSM answered with an error.
        NsmAnswerError: the bytes are no answer, or the answer to something else, or a field is
            missing or of the wrong type or size.
    """
    request = expected.__name__.removesuffix("Response")
    if not 0 < len(answer) <= MAX_RESPONSE:
        raise NsmAnswerError(
            f"the NSM's answer to {request} is {len(answer)} bytes, not 1..{MAX_RESPONSE}"
        )
    try:
        message = cbor.decode(answer, format=f"NSM answer to {request}")
    except DecodingError as e:
        raise NsmAnswerError(str(e)) from e
    shapes = _SHAPES[expected]
    if isinstance(message, dict) and len(message) == 1:
        [(name, body)] = message.items()
        if name == "Error" and isinstance(body, str) and _CODE.fullmatch(body):
            hint = _HINTS.get(body, "an error this version does not know")
            raise NsmRefusedError(request, body, hint=hint)
        if name == request and isinstance(body, dict) and shapes:
            return expected(**_fields(request, body, shapes))
    elif message == request and not shapes:
        return expected(**_fields(request, {}, shapes))
    raise NsmAnswerError(f"the NSM's answer to {request} is not one")


def _fields(request: str, given: dict[str, object], shapes: Mapping[str, _Shape]) -> dict[str, Any]:
    taken = {}
    for name, shape in shapes.items():
        try:
            taken[name] = shape(given.get(name))
        except ValueError as e:
            raise NsmAnswerError(f"the NSM's answer to {request}: {name} is not {e}") from None
    return taken


# What a field must be: each function hands the value back, or raises ValueError saying what it
# is not.


def _u16(value: object) -> int:
    if type(value) is int and 0 <= value <= 0xFFFF:  # A bool is an int, too: not here.
        return value
    raise ValueError("a 16-bit number")


def _u16_set(value: object) -> frozenset[int]:
    if isinstance(value, list):
        return frozenset(_u16(item) for item in value)
    raise ValueError("a list of numbers")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _text(value: object) -> str:
    # It ends up in logs and on terminals: no control characters.
    if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
        return value
    raise ValueError("1..256 printable characters")


def _bytes(least: int, most: int) -> Callable[[object], bytes]:
    def shape(value: object) -> bytes:
        if isinstance(value, bytes) and least <= len(value) <= most:
            return value
        raise ValueError(f"{least}..{most} bytes")

    return shape


_Shape = Callable[[object], object]
_SHAPES: Mapping[type, Mapping[str, _Shape]] = {
    DescribeNSMResponse: {
        "version_major": _u16,
        "version_minor": _u16,
        "version_patch": _u16,
        "module_id": _text,
        "max_pcrs": _u16,
        "locked_pcrs": _u16_set,
        "digest": _text,
    },
    DescribePCRResponse: {"lock": _flag, "data": _bytes(PCR_SIZE, PCR_SIZE)},
    ExtendPCRResponse: {"data": _bytes(PCR_SIZE, PCR_SIZE)},
    LockPCRResponse: {},
    LockPCRsResponse: {},
    GetRandomResponse: {"random": _bytes(1, MAX_RANDOM)},
    AttestationResponse: {"document": _bytes(1, MAX_RESPONSE)},
}
