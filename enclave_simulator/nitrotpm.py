"""A simulated NitroTPM: the TPM 2.0 commands that an attestation takes, documents of our own root.

Commands and response codes: TCG TPM 2.0 Library, Parts 2 and 3. The vendor command and its NV
index: aws/NitroTPM-Tools. The document has the fields, their order and the PCRs of a real one of
August 2026. What a real NitroTPM does with a malformed request in the index is not known: here the
response is an error of the NSM's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import cbor2

from enclave_simulator import tpm_capabilities
from enclave_simulator.nsm import MAX_FIELD, sign1
from enclave_simulator.tpm_pcrs import NEVER_RESET, PCR_COUNT, PCR_SIZE, Registers
from enclave_simulator.tpm_wire import (
    RC_AUTH_FAIL,
    RC_AUTH_MISSING,
    RC_BAD_AUTH,
    RC_BAD_TAG,
    RC_COMMAND_CODE,
    RC_COMMAND_SIZE,
    RC_HANDLE,
    RC_INITIALIZE,
    RC_NV_AUTHORIZATION,
    RC_NV_DEFINED,
    RC_NV_RANGE,
    RC_NV_SPACE,
    RC_NV_UNINITIALIZED,
    RC_SIZE,
    RC_VALUE,
    RC_VALUE_OF_HANDLE,
    RefusedError,
    password_and_rest,
    sized,
    take,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enclave_simulator.authority import Authority, Leaf

MODULE_ID = "i-0123456789abcdef0-tpm0000000000000000"

GET_CAPABILITY, NV_READ_PUBLIC = 0x17A, 0x169
NV_DEFINE_SPACE, NV_UNDEFINE_SPACE = 0x12A, 0x122
NV_WRITE, NV_READ = 0x137, 0x14E
NSM_REQUEST = 0x20000001
STARTUP, SELF_TEST, GET_RANDOM = 0x144, 0x143, 0x17B
PCR_READ, PCR_EXTEND, PCR_RESET = 0x17E, 0x182, 0x13D

_OWNER = 0x40000001
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_AUTHWRITE, _AUTHREAD, _WRITTEN = 1 << 2, 1 << 18, 1 << 29
_MODULE_ID = re.compile(r"i-[0-9a-f]{1,17}-tpm[0-9a-f]{1,16}")
_RENEW_BEFORE = timedelta(minutes=5)
_MEASURED = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11)
_HANDLES = {
    NV_DEFINE_SPACE: 1, NV_UNDEFINE_SPACE: 2, NV_WRITE: 2, NV_READ: 2, NSM_REQUEST: 2,
    PCR_EXTEND: 1, PCR_RESET: 1,
}  # fmt: skip
"""Handles of the commands that need authorization."""

_NAMES_OF_HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
_PLAIN = (GET_CAPABILITY, NV_READ_PUBLIC, STARTUP, SELF_TEST, GET_RANDOM, PCR_READ)
_ALL = {**dict.fromkeys(_PLAIN, 0), NV_READ_PUBLIC: 1, **_HANDLES}
_ALL_BUT_THE_VENDORS = {code: count for code, count in _ALL.items() if code != NSM_REQUEST}


@dataclass
class _NvIndex:
    algorithm: int
    attributes: int
    size: int
    auth: bytes
    data: bytearray | None = None


@dataclass
class _Fault:
    respond: Callable[[bytes], bytes]
    code: int | None
    times: int | None


@dataclass(eq=False)
class SimulatedNitroTpm:
    """One NitroTPM: PCRs, NV memory, and a signing key that `authority` certifies.

    Thread-safe; like the real device it serves one command at a time. It is a device for
    `enclave.NitroTpm`, which opens it for each document.

    Attributes:
        authority: certifies the signing keys of documents.
        module_id: ``i-INSTANCE-tpmTPM``.
        pcrs: values of 48 bytes that replace the made-up ones, by index.
        manufacturer: four letters; a TPM of any other than ``AMZN`` is not a NitroTPM.
        name: of the TPM: at most 16 letters.
        buffer_size: bytes that one command reads from an NV index, or writes to it.
        nv_space: bytes of NV memory.
        owner_password: of the owner hierarchy.
        has_vendor_command: False for a TPM, or a resource manager, that does not know it.
        now: the clock of documents and certificates.
        path: its name, for messages.
        nv: the NV indexes that are defined.
        calls: number of commands, by their codes.
    """

    authority: Authority = field(repr=False)
    module_id: str = MODULE_ID
    pcrs: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    manufacturer: str = "AMZN"
    name: str = "NitroTPMv1.0"
    buffer_size: int = 1024
    nv_space: int = 16384
    owner_password: bytes = field(default=b"", repr=False)
    has_vendor_command: bool = True
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    path: str = "simulated TPM"
    nv: dict[int, _NvIndex] = field(default_factory=dict, repr=False)
    calls: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not _MODULE_ID.fullmatch(self.module_id):
            raise ValueError(
                f"not a module id: {self.module_id!r}: write i-INSTANCE-tpmTPM, in hex"
            )
        values = [bytes(PCR_SIZE)] * PCR_COUNT
        for index in _MEASURED:
            values[index] = hashlib.sha384(f"simulated PCR {index}".encode()).digest()
        for index in NEVER_RESET:
            values[index] = b"\xff" * PCR_SIZE
        for index, value in self.pcrs.items():
            if len(value) != PCR_SIZE:
                raise ValueError(f"PCR{index} is {len(value)} bytes, not {PCR_SIZE}")
            values[index] = value
        self._registers = Registers(dict(enumerate(values)))
        self.pcrs = self._registers.values
        self._lock = threading.Lock()
        self._opened = threading.Lock()
        self._leaf: Leaf | None = None
        self._fault: _Fault | None = None

    @contextlib.contextmanager
    def open(self, *, timeout: float) -> Iterator[Self]:
        """Open it for one attestation; others wait."""
        if not self._opened.acquire(timeout=max(timeout, 0)):
            raise RuntimeError("the simulated TPM was never given back")
        try:
            yield self
        finally:
            self._opened.release()

    def exchange(self, command: bytes, *, timeout: float = 0) -> bytes:  # noqa: ARG002 (it never waits)
        """Return the response to one command, whatever the bytes."""
        with self._lock:
            code = struct.unpack_from(">I", command, 6)[0] if len(command) >= 10 else 0
            self.calls[code] += 1
            fault = self._fault
            if fault is not None and fault.code in (None, code):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._fault = None
                return fault.respond(command)
            return self._respond(command)

    # Faults: one at a time; each lasts for `times` commands, or until `heal`.

    def fail_with(self, response_code: int, *, command: int | None = None, times: int | None = None,
                  after: bool = False) -> None:  # fmt: skip
        """Respond with an error code.

        Args:
            response_code: TPM_RC.
            command: only to commands of this code; None: to all.
            times: to how many of them; None: until `heal`.
            after: carry the command out first.
        """
        error = struct.pack(">HII", _NO_SESSIONS, 10, response_code)

        def respond(given: bytes) -> bytes:
            if after:
                self._respond(given)
            return error

        self._fault = _Fault(respond, command, times)

    def respond_with(
        self, response: bytes, *, command: int | None = None, times: int | None = None
    ) -> None:
        """Respond with these bytes; the arguments are those of `fail_with`."""
        self._fault = _Fault(lambda _: response, command, times)

    def alter(
        self, change: Callable[[bytes], bytes], *, command: int | None = None,
        times: int | None = None,
    ) -> None:  # fmt: skip
        """Change true responses; the arguments are those of `fail_with`."""
        self._fault = _Fault(lambda given: change(self._respond(given)), command, times)

    def heal(self) -> None:
        """Respond truthfully from now on."""
        self._fault = None

    # Commands

    def _respond(self, command: bytes) -> bytes:
        try:
            tag, parameters = self._carry_out(command)
        except RefusedError as refused:
            return struct.pack(">HII", _NO_SESSIONS, 10, refused.args[0])
        if tag == _SESSIONS:
            # Of a password session: no nonce, continueSession, no HMAC.
            parameters = struct.pack(">I", len(parameters)) + parameters + b"\0\0\1\0\0"
        return struct.pack(">HII", tag, 10 + len(parameters), 0) + parameters

    def _carry_out(self, command: bytes) -> tuple[int, bytes]:
        if len(command) < 10:
            raise RefusedError(RC_COMMAND_SIZE)
        tag, size, code = struct.unpack_from(">HII", command)
        body = command[10:]
        if tag not in (_NO_SESSIONS, _SESSIONS):
            raise RefusedError(RC_BAD_TAG)
        if size != len(command):
            raise RefusedError(RC_COMMAND_SIZE)
        if code == NSM_REQUEST and not self.has_vendor_command:
            raise RefusedError(RC_COMMAND_CODE)
        if code in _PLAIN:
            return _NO_SESSIONS, self._without_sessions(code, body)
        handles = _HANDLES.get(code)
        if handles is None:
            raise RefusedError(RC_COMMAND_CODE)
        if tag != _SESSIONS:
            raise RefusedError(RC_AUTH_MISSING)
        if len(body) < 4 * handles:
            raise RefusedError(RC_COMMAND_SIZE)
        given = struct.unpack_from(f">{handles}I", body)
        for number, handle in enumerate(given, 1):
            if code in (PCR_EXTEND, PCR_RESET):
                if handle not in self.pcrs:
                    raise RefusedError(RC_VALUE_OF_HANDLE)
            elif handle != _OWNER:
                self._index(handle, number)
        password, parameters = password_and_rest(body[4 * handles :])
        if code in (PCR_EXTEND, PCR_RESET):
            self._registers.change(code == PCR_RESET, given[0], parameters)
            return tag, b""
        self._authorize(given[0], password)
        if code == NV_DEFINE_SPACE:
            self._nv_define_space(parameters)
            return tag, b""
        index = self._index(given[1])
        if code == NV_UNDEFINE_SPACE:
            del self.nv[given[1]]
            return tag, b""
        if given[0] != given[1]:  # our indexes are read and written by their own password only
            raise RefusedError(RC_NV_AUTHORIZATION)
        if code == NV_WRITE:
            self._nv_write(index, parameters)
            return tag, b""
        if code == NV_READ:
            return tag, self._nv_read(index, parameters)
        self._nsm_request(index)
        return tag, b""

    def _authorize(self, handle: int, password: bytes) -> None:
        if handle == _OWNER:
            if password != self.owner_password:
                raise RefusedError(RC_BAD_AUTH)
        elif password.rstrip(b"\0") != self._index(handle).auth.rstrip(b"\0"):
            raise RefusedError(RC_AUTH_FAIL)

    def _index(self, handle: int, number: int = 1) -> _NvIndex:
        if handle not in self.nv:
            raise RefusedError(RC_HANDLE | number << 8)
        return self.nv[handle]

    def _without_sessions(self, code: int, body: bytes) -> bytes:
        if code == GET_CAPABILITY:
            return self._get_capability(body)
        if code == PCR_READ:
            return self._registers.read(body)
        if code == STARTUP:
            raise RefusedError(RC_INITIALIZE)  # the firmware has done it
        if code == SELF_TEST:
            return b""
        if code == GET_RANDOM:
            return sized(os.urandom(min(int.from_bytes(body[:2], "big"), PCR_SIZE)))
        return self._nv_read_public(body)

    def _get_capability(self, body: bytes) -> bytes:
        found = tpm_capabilities.get_capability(
            body,
            values=tpm_capabilities.properties(
                self.manufacturer, self.name, self.buffer_size, self.nv_space // 2
            ),
            nv=self.nv,
            commands=_ALL if self.has_vendor_command else _ALL_BUT_THE_VENDORS,
        )
        if found is None:
            raise RefusedError(RC_VALUE)
        return found

    def _nv_read_public(self, body: bytes) -> bytes:
        handle = int.from_bytes(body, "big")
        index = self._index(handle)
        attributes = index.attributes | (0 if index.data is None else _WRITTEN)
        area = struct.pack(">IHIHH", handle, index.algorithm, attributes, 0, index.size)
        digest = hashlib.new(_NAMES_OF_HASHES.get(index.algorithm, "sha512"), area).digest()
        name = struct.pack(">H", index.algorithm) + digest
        return sized(area) + sized(name)

    def _nv_define_space(self, parameters: bytes) -> None:
        auth, rest = take(parameters)
        area, _ = take(rest)
        if len(area) < 14:
            raise RefusedError(RC_SIZE)
        handle, algorithm, attributes = struct.unpack_from(">IHI", area)
        (size,) = struct.unpack(">H", area[-2:])
        if handle in self.nv:
            raise RefusedError(RC_NV_DEFINED)
        if sum(each.size for each in self.nv.values()) + size > self.nv_space:
            raise RefusedError(RC_NV_SPACE)
        if not attributes & _AUTHREAD or not attributes & _AUTHWRITE:
            raise RefusedError(0x2C2)  # TPM_RC_ATTRIBUTES of parameter 2
        self.nv[handle] = _NvIndex(algorithm, attributes, size, auth)

    def _nv_write(self, index: _NvIndex, parameters: bytes) -> None:
        data, rest = take(parameters)
        offset = int.from_bytes(rest, "big")
        if len(data) > self.buffer_size:
            raise RefusedError(RC_SIZE)
        if offset + len(data) > index.size:
            raise RefusedError(RC_NV_RANGE)
        if index.data is None:
            index.data = bytearray(b"\xff" * index.size)
        index.data[offset : offset + len(data)] = data

    def _nv_read(self, index: _NvIndex, parameters: bytes) -> bytes:
        size, offset = int.from_bytes(parameters[:2], "big"), int.from_bytes(parameters[2:], "big")
        if index.data is None:
            raise RefusedError(RC_NV_UNINITIALIZED)
        if size > self.buffer_size:
            raise RefusedError(RC_VALUE)
        if offset + size > index.size:
            raise RefusedError(RC_NV_RANGE)
        return sized(bytes(index.data[offset : offset + size]))

    def _nsm_request(self, index: _NvIndex) -> None:
        if index.data is None:
            raise RefusedError(RC_NV_UNINITIALIZED)
        response = cbor2.dumps(self._nsm(bytes(index.data)))
        index.data[:] = response.ljust(index.size, b"\xff")

    def _nsm(self, data: bytes) -> dict[str, Any]:
        try:
            request = cbor2.loads(data)  # the first item; what follows it is of no meaning
        except cbor2.CBORError:
            return {"Error": "InvalidArgument"}
        match request:
            case {"Attestation": dict(arguments)}:
                pass
            case _:
                return {"Error": "InvalidOperation"}
        fields = {name: arguments.get(name) for name in ("public_key", "user_data", "nonce")}
        if any(len(value or b"") > MAX_FIELD for value in fields.values()):
            return {"Error": "InputTooLarge"}
        return {"Attestation": {"document": self._document(fields)}}

    def _document(self, fields: dict[str, bytes | None]) -> bytes:
        now = self.now()
        leaf = self._leaf
        if leaf is None or not leaf.not_before <= now < leaf.not_after - _RENEW_BEFORE:
            leaf = self._leaf = self.authority.issue_leaf(self.module_id, now)
        payload = cbor2.dumps(
            {
                "module_id": self.module_id,
                "digest": "SHA384",
                "timestamp": int(now.timestamp() * 1000),
                "nitrotpm_pcrs": dict(self.pcrs),
                "certificate": leaf.certificate,
                "cabundle": list(leaf.cabundle),
                **fields,
            }
        )
        # Only the outermost map is of indefinite length: 0xbf in place of 0xa9, and a break.
        return sign1(b"\xbf" + payload[1:] + b"\xff", leaf.key)
