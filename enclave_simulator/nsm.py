"""A simulated Nitro Secure Module: the NSM's requests and responses, documents of our own root.

Behaviour that AWS does not document, of malformed requests above all, is that of QEMU's device
(hw/virtio/virtio-nsm.c), which was modelled on the real one.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave_simulator.authority import Authority, Leaf

MAX_REQUEST = 0x1000
"""Bytes in a request (drivers/misc/nsm.c, NSM_REQUEST_MAX_SIZE)."""

MAX_FIELD = 1024
"""Bytes in user_data, nonce and public_key each (AWS, "Verifying the root of trust").

The documented limit. Users report that a real NSM accepted 1025 bytes; a program that relies
on that fails here.
"""

PCR_COUNT = 32
PCR_SIZE = 48  # SHA-384
LOCKED_AT_BOOT = 16
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"

ERROR_CODES = (
    "Success",
    "InvalidArgument",
    "InvalidIndex",
    "InvalidResponse",
    "ReadOnlyIndex",
    "InvalidOperation",
    "BufferTooSmall",
    "InputTooLarge",
    "InternalError",
)
"""The NSM's errors, by number (aws-nitro-enclaves-nsm-api, ``ErrorCode``)."""

_MODULE_ID = re.compile(r"i-[0-9a-f]{1,17}-enc[0-9a-f]{1,16}")
_ZERO = bytes(PCR_SIZE)
_RENEW_BEFORE = timedelta(minutes=5)
_PROTECTED_HEADER = bytes.fromhex("a1013822")  # {1: -35}: alg ES384


def measure(data: bytes) -> bytes:
    """Return a zero PCR after it was extended with `data`: SHA-384(48 zeros || data).

    PCR3 is the measure of the IAM role's ARN, PCR4 that of the instance id (AWS, "Where to get
    an enclave's measurements").
    """
    return hashlib.sha384(_ZERO + data).digest()


SANDBOX_PCR = 17
"""What the policy of a Nitro Sandbox is measured into (EKS User Guide, "Run a pod in confidential
mode")."""

SANDBOX_POLICY = b"simulated policy"


class _RefusedError(Exception):
    """The NSM's own error; its argument is the name of the code."""


class SimulatedNsm:
    """One NSM: PCRs, locks, and a signing key that `authority` certifies.

    Thread-safe; like the real device it serves one request at a time.

    Attributes:
        module_id: ``i-INSTANCE-encENCLAVE``.
        calls: number of requests, by their names; ``malformed`` for the others.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        module_id: str = MODULE_ID,
        pcrs: Mapping[int, bytes] | None = None,
        role_arn: str | None = None,
        debug_mode: bool = False,
        indefinite_map: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Boot.

        Args:
            authority: certifies the signing keys of documents.
            module_id: its instance id is measured into PCR4.
            pcrs: values of 48 bytes that replace the made-up ones, by index.
            role_arn: the parent's IAM role, measured into PCR3; without one PCR3 is zero.
            debug_mode: zero PCR0-2, as in an enclave that runs with a console.
            indefinite_map: encode the payload as an indefinite-length map, as documents since
                August 2025 do; otherwise as a definite-length one.
            now: the clock of documents and certificates.
            random: source of GetRandom's bytes.
        """
        if not _MODULE_ID.fullmatch(module_id):
            raise ValueError(f"not a module id: {module_id!r}: write i-INSTANCE-encENCLAVE, in hex")
        self.module_id = module_id
        self.calls: Counter[str] = Counter()
        self._authority = authority
        self._indefinite_map = indefinite_map
        self._now = now
        self._random = random
        self._lock = threading.Lock()
        self._leaf: Leaf | None = None
        self._fault: Callable[[bytes], bytes] | None = None
        self._fault_times: int | None = None
        self._locked = [index < LOCKED_AT_BOOT for index in range(PCR_COUNT)]
        self._pcrs = [_ZERO] * PCR_COUNT
        for index, name in enumerate((b"image", b"kernel", b"application")):
            self._pcrs[index] = measure(hashlib.sha384(b"simulated " + name).digest())
        self._pcrs[3] = measure(role_arn.encode()) if role_arn else _ZERO
        self._pcrs[4] = measure(module_id.rpartition("-enc")[0].encode())
        for index, value in (pcrs or {}).items():
            if len(value) != PCR_SIZE:
                raise ValueError(f"PCR{index} is {len(value)} bytes, not {PCR_SIZE}")
            self._pcrs[index] = value
        if debug_mode:
            self._pcrs[:3] = [_ZERO] * 3

    @classmethod
    def of_sandbox(
        cls, authority: Authority, *, policy: bytes = SANDBOX_POLICY, **options: Any
    ) -> Self:
        """Boot the NSM of a Nitro Sandbox.

        Its PCRs start as zeros (EC2 User Guide, "Attest a Nitro Sandbox"), PCR0 to PCR2 too, since
        there is no enclave image; the policy is extended into PCR17, which is locked. That PCR4
        is the parent's instance, as in an enclave, is an assumption.

        Args:
            authority: as for `SimulatedNsm`.
            policy: what PCR17 is the measure of.
            options: the others of `SimulatedNsm`.
        """
        zeros = dict.fromkeys(range(3), _ZERO)
        pcrs = {**zeros, SANDBOX_PCR: measure(policy), **(options.pop("pcrs", None) or {})}
        nsm = cls(authority, pcrs=pcrs, **options)
        nsm._locked[SANDBOX_PCR] = True
        return nsm

    def exchange(self, request: bytes) -> bytes:
        """Return the response to one request, CBOR in and CBOR out, whatever the bytes.

        The response to an empty request is an error; the real driver hangs until its timeout.
        """
        with self._lock:
            name, response = self._respond(request)
            self.calls[name] += 1
            return self._spoil(cbor2.dumps(response))

    # Faults: one at a time; each lasts for `times` requests, or until `heal`.

    def fail_with(self, code: str, *, times: int | None = None) -> None:
        """Respond with an error.

        Args:
            code: one of `ERROR_CODES`; ``Success`` is not an error.
            times: for how many requests; None: until `heal`.

        Raises:
            ValueError: the NSM has no such error.
        """
        if code not in ERROR_CODES or code == "Success":
            raise ValueError(f"not an error of the NSM: {code!r}: {', '.join(ERROR_CODES[1:])}")
        error = cbor2.dumps({"Error": code})
        self._break(lambda _: error, times)

    def respond_with(self, response: bytes, *, times: int | None = None) -> None:
        """Respond with these bytes, whatever the request."""
        self._break(lambda _: response, times)

    def truncate(self, size: int, *, times: int | None = None) -> None:
        """Truncate true responses to `size` bytes."""
        self._break(lambda response: response[:size], times)

    def heal(self) -> None:
        """Respond truthfully from now on."""
        with self._lock:
            self._fault = None

    def _break(self, fault: Callable[[bytes], bytes], times: int | None) -> None:
        with self._lock:
            self._fault, self._fault_times = fault, times

    def _spoil(self, response: bytes) -> bytes:
        fault = self._fault
        if fault is None:
            return response
        if self._fault_times is not None:
            self._fault_times -= 1
            if self._fault_times <= 0:
                self._fault = None
        return fault(response)

    # Requests

    def _respond(self, request: bytes) -> tuple[str, object]:
        """Return the request's name and its response, before encoding."""
        if len(request) > MAX_REQUEST:
            return "malformed", {"Error": "InputTooLarge"}
        name, arguments = _parse(request)
        try:
            # As in serde's encoding of an enum, a unit request is a bare string and the others are
            # a map of one entry; in the other form, each is unknown.
            if arguments is None:
                match name:
                    case "DescribeNSM":
                        return name, {name: self._describe_nsm()}
                    case "GetRandom":
                        return name, {name: {"random": self._random(256)}}
            else:
                match name:
                    case "DescribePCR":
                        return name, {name: self._describe_pcr(arguments)}
                    case "ExtendPCR":
                        return name, {name: self._extend_pcr(arguments)}
                    case "LockPCR":
                        self._lock_pcr(arguments)
                        return name, name
                    case "LockPCRs":
                        self._lock_pcrs(arguments)
                        return name, name
                    case "Attestation":
                        return name, {name: {"document": self._attest(arguments)}}
        except _RefusedError as refused:
            return name, {"Error": refused.args[0]}
        return "malformed", {"Error": "InvalidOperation"}

    def _describe_nsm(self) -> dict[str, object]:
        return {
            "digest": "SHA384",
            "max_pcrs": PCR_COUNT,
            "module_id": self.module_id,
            "locked_pcrs": [index for index, locked in enumerate(self._locked) if locked],
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
        }

    def _describe_pcr(self, arguments: dict[Any, Any]) -> dict[str, object]:
        index = _index(arguments)
        return {"data": self._pcrs[index], "lock": self._locked[index]}

    def _extend_pcr(self, arguments: dict[Any, Any]) -> dict[str, object]:
        data = _bytes(arguments, "data")
        if data is None:
            raise _RefusedError("InvalidOperation")
        index = self._writable(arguments)
        self._pcrs[index] = hashlib.sha384(self._pcrs[index] + data).digest()
        return {"data": self._pcrs[index]}

    def _lock_pcr(self, arguments: dict[Any, Any]) -> None:
        self._locked[self._writable(arguments)] = True

    def _lock_pcrs(self, arguments: dict[Any, Any]) -> None:
        count = _uint16(arguments, "range")
        if count > PCR_COUNT:
            raise _RefusedError("InvalidIndex")
        self._locked[:count] = [True] * count

    def _writable(self, arguments: dict[Any, Any]) -> int:
        index = _index(arguments)
        if self._locked[index]:
            raise _RefusedError("ReadOnlyIndex")
        return index

    # The document

    def _attest(self, arguments: dict[Any, Any]) -> bytes:
        fields = {key: _bytes(arguments, key) for key in ("public_key", "user_data", "nonce")}
        if any(len(value or b"") > MAX_FIELD for value in fields.values()):
            raise _RefusedError("InputTooLarge")
        now = self._now()
        leaf = self._current_leaf(now)
        payload = cbor2.dumps(
            {
                "module_id": self.module_id,
                "digest": "SHA384",
                "timestamp": int(now.timestamp() * 1000),
                "pcrs": {i: self._pcrs[i] for i in range(PCR_COUNT) if self._locked[i]},
                "certificate": leaf.certificate,
                "cabundle": list(leaf.cabundle),
                **fields,
            }
        )
        if self._indefinite_map:
            # Only the outermost map is: 0xbf in place of 0xa9 (nine entries), and a break.
            payload = b"\xbf" + payload[1:] + b"\xff"
        return sign1(payload, leaf.key)

    def _current_leaf(self, now: datetime) -> Leaf:
        leaf = self._leaf
        if leaf is None or not leaf.not_before <= now < leaf.not_after - _RENEW_BEFORE:
            leaf = self._leaf = self._authority.issue_leaf(self.module_id, now)
        return leaf


def sign1(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode an untagged COSE_Sign1 with ES384 (RFC 9052, sections 4.2 and 4.4)."""
    to_sign = cbor2.dumps(["Signature1", _PROTECTED_HEADER, b"", payload])
    r, s = decode_dss_signature(key.sign(to_sign, ec.ECDSA(SHA384())))
    signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return cbor2.dumps([_PROTECTED_HEADER, {}, payload, signature])


def request_name(request: bytes) -> str:
    """Return the name of a request, for example ``Attestation``; empty if it is malformed."""
    return _parse(request)[0]


def _parse(request: bytes) -> tuple[str, dict[Any, Any] | None]:
    """Return the request's name and arguments; an empty name if it is malformed."""
    try:
        message = cbor2.loads(request, max_depth=16)
    except cbor2.CBORError:
        return "", None
    if isinstance(message, str):
        return message, None
    if isinstance(message, dict) and len(message) == 1:
        ((name, arguments),) = message.items()
        if isinstance(name, str) and isinstance(arguments, dict):
            return name, arguments
    return "", None


def _uint16(arguments: dict[Any, Any], key: str) -> int:
    value = arguments.get(key)
    # `bool` is an `int` to Python, not to CBOR.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise _RefusedError("InvalidOperation")
    return value


def _index(arguments: dict[Any, Any]) -> int:
    index = _uint16(arguments, "index")
    if index >= PCR_COUNT:
        raise _RefusedError("InvalidIndex")
    return index


def _bytes(arguments: dict[Any, Any], key: str) -> bytes | None:
    """Return a byte string, a text string's bytes, or None if it is null or absent."""
    value = arguments.get(key)
    if isinstance(value, str):
        return value.encode()
    if value is None or isinstance(value, bytes):
        return value
    raise _RefusedError("InvalidOperation")
