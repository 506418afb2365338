"""Requests to the NSM and its responses, named as in the NSM's own interface. No I/O.

See aws-nitro-enclaves-nsm-api, ``Request``, ``Response`` and ``ErrorCode``.

On the wire they are CBOR, externally tagged: a message without fields is a text string
(``"GetRandom"``), any other a map of one entry (``{"DescribePCR": {"index": 5}}``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import cbor2

from enclave import cbor
from enclave.attestation.document import MAX_FIELD, PCR_COUNT, PCR_SIZE
from enclave.errors import ConfigurationError, DecodingError, NsmRefusedError, NsmResponseError
from enclave.nsm.message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUEST = 0x1000
"""Bytes in a request (<linux/nsm.h>, ``NSM_REQUEST_MAX_SIZE``)."""

MAX_RESPONSE = 0x3000
"""Bytes in a response (<linux/nsm.h>, ``NSM_RESPONSE_MAX_SIZE``)."""

MAX_RANDOM = 256
"""Bytes in one GetRandom response; the NSM has always given as many."""

_CODE = re.compile(r"[A-Za-z]{1,64}")
_HINTS = {
    "InvalidArgument": "a field is malformed, or larger than the NSM takes",
    "InvalidIndex": "PCRs are numbered 0..31",
    "InvalidResponse": "the NSM could not build its response: retry",
    "ReadOnlyIndex": "this PCR is locked; the NSM locks 0..15 at boot",
    "InvalidOperation": "this NSM does not know the request",
    "BufferTooSmall": "the response does not fit: send less in public_key, user_data and nonce",
    "InputTooLarge": "send less in public_key, user_data and nonce",
    "InternalError": "the NSM failed: retry, then restart the enclave",
}


# Requests


class DescribeNSM(Message):
    """Ask which NSM this is."""

    __slots__ = ()


class DescribePCR(Message):
    """Ask for a PCR's value and lock. `index` is in 0..31."""

    __slots__ = ("index",)
    index: int

    def _check(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)


class ExtendPCR(Message):
    """Extend a PCR: its new value is SHA-384(old value || `data`). `index` is in 0..31."""

    __slots__ = ("data", "index")
    index: int
    data: bytes

    def _check(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)
        # No limit of its own is documented; this leaves room for the rest of the request.
        _check_bytes("data", self.data, MAX_REQUEST - 64)


class LockPCR(Message):
    """Lock a PCR for the enclave's life. `index` is in 0..31."""

    __slots__ = ("index",)
    index: int

    def _check(self) -> None:
        _check_number("PCR index", self.index, PCR_COUNT - 1)


class LockPCRs(Message):
    """Lock all PCRs below `range`, which is in 0..32."""

    __slots__ = ("range",)
    range: int

    def _check(self) -> None:
        _check_number("PCR range", self.range, PCR_COUNT)


class GetRandom(Message):
    """Ask for random bytes."""

    __slots__ = ()


class Attestation(Message):
    """Ask for a signed attestation document that holds these; each at most 1024 bytes."""

    __slots__ = ("nonce", "public_key", "user_data")
    user_data: bytes | None
    nonce: bytes | None
    public_key: bytes | None

    def __init__(
        self,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
        public_key: bytes | None = None,
    ) -> None:
        super().__init__(user_data, nonce, public_key)

    def _check(self) -> None:
        for name, value in self.values().items():
            if value is not None:
                _check_bytes(name, value, MAX_FIELD)


Request = DescribeNSM | DescribePCR | ExtendPCR | LockPCR | LockPCRs | GetRandom | Attestation


def encode(request: Request) -> bytes:
    """Encode a request: 10 to 4096 bytes, never none (an empty one wedges the driver)."""
    name = type(request).__name__
    values = request.values()
    return cbor2.dumps({name: values} if values else name)


def _check_number(what: str, value: int, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ConfigurationError(f"{what} {value!r} is not a number in 0..{most}")


def _check_bytes(what: str, value: bytes, most: int) -> None:
    if not isinstance(value, bytes):
        raise ConfigurationError(
            f"{what} for the NSM is {type(value).__name__}, not bytes", hint="encode it first"
        )
    if len(value) > most:
        raise ConfigurationError(
            f"{what} for the NSM is {len(value)} bytes, over {most}",
            hint="send a digest of it instead",
        )


# Responses


class DescribeNSMResponse(Message):
    """Which NSM this is.

    Attributes:
        module_id: for example ``i-0fd3fdaad4e904e69-enc019b54988b2d89ba``.
        max_pcrs: 32 on every known NSM.
        locked_pcrs: 0..15 at boot.
        digest: the hash of PCRs and documents: ``SHA384``.
    """

    __slots__ = (
        "digest",
        "locked_pcrs",
        "max_pcrs",
        "module_id",
        "version_major",
        "version_minor",
        "version_patch",
    )  # fmt: skip
    version_major: int
    version_minor: int
    version_patch: int
    module_id: str
    max_pcrs: int
    locked_pcrs: frozenset[int]
    digest: str


class DescribePCRResponse(Message):
    """A PCR's value, 48 bytes, and whether it is locked."""

    __slots__ = ("data", "lock")
    lock: bool
    data: bytes


class ExtendPCRResponse(Message):
    """A PCR's new value, 48 bytes."""

    __slots__ = ("data",)
    data: bytes


class LockPCRResponse(Message):
    """The PCR is locked."""

    __slots__ = ()


class LockPCRsResponse(Message):
    """The PCRs are locked."""

    __slots__ = ()


class GetRandomResponse(Message):
    """Random bytes: 1 to 256, and 256 from every known NSM. They are not in its repr."""

    __slots__ = ("random",)
    _secret = True
    random: bytes


class AttestationResponse(Message):
    """An attestation document, COSE_Sign1; see `enclave.attestation`."""

    __slots__ = ("document",)
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


def decode(response: bytes, expected: type[R]) -> R:
    """Decode the response to the request that `expected` belongs to.

    Raises:
        NsmRefusedError: it is an error of the NSM's own.
        NsmResponseError: it is malformed, or the response to another request, or a field is
            missing or of the wrong type or size.
    """
    request = expected.__name__.removesuffix("Response")
    if not 0 < len(response) <= MAX_RESPONSE:
        raise NsmResponseError(
            f"the NSM's response to {request} is {len(response)} bytes, not 1..{MAX_RESPONSE}"
        )
    try:
        message = cbor.decode(response, format=f"NSM response to {request}")
    except DecodingError as e:
        raise NsmResponseError(str(e)) from e
    shapes = _SHAPES[expected]
    if isinstance(message, dict) and len(message) == 1:
        [(name, body)] = message.items()
        if name == "Error" and isinstance(body, str) and _CODE.fullmatch(body):
            hint = _HINTS.get(body, "an error this version does not know")
            raise NsmRefusedError(request, body, hint=hint)
        if name == request and isinstance(body, dict) and shapes:
            return _fill(expected, body)
    elif message == request and not shapes:
        return _fill(expected, {})
    raise NsmResponseError(f"not the NSM's response to {request}")


def _fill(expected: type[R], body: Mapping[Any, object]) -> R:
    try:
        return expected(**cbor.take(body, _SHAPES[expected]))
    except ValueError as e:
        raise NsmResponseError(f"the NSM's {expected.__name__} is malformed: {e}") from None


_U16 = cbor.number(0xFFFF)


def _u16_set(value: object) -> frozenset[int]:
    if isinstance(value, list):
        return frozenset(_U16(item) for item in value)
    raise ValueError("a list of numbers")


_SHAPES: Mapping[type, Mapping[str, cbor.Shape]] = {
    DescribeNSMResponse: {
        "version_major": _U16,
        "version_minor": _U16,
        "version_patch": _U16,
        "module_id": cbor.text,
        "max_pcrs": _U16,
        "locked_pcrs": _u16_set,
        "digest": cbor.text,
    },
    DescribePCRResponse: {"lock": cbor.flag, "data": cbor.data(PCR_SIZE, PCR_SIZE)},
    ExtendPCRResponse: {"data": cbor.data(PCR_SIZE, PCR_SIZE)},
    LockPCRResponse: {},
    LockPCRsResponse: {},
    GetRandomResponse: {"random": cbor.data(1, MAX_RANDOM)},
    AttestationResponse: {"document": cbor.data(1, MAX_RESPONSE)},
}
