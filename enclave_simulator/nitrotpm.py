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
from enclave_simulator.tpm_keys import Keys
from enclave_simulator.tpm_nv import LARGEST, NvIndex, NvMemory
from enclave_simulator.tpm_pcrs import NEVER_RESET, PCR_COUNT, PCR_SIZE, Registers
from enclave_simulator.tpm_sessions import Sessions, Used
from enclave_simulator.tpm_wire import (
    RC_AUTH_MISSING,
    RC_BAD_TAG,
    RC_COMMAND_CODE,
    RC_COMMAND_SIZE,
    RC_INITIALIZE,
    RC_INSUFFICIENT,
    RC_NV_AUTHORIZATION,
    RC_NV_UNINITIALIZED,
    RC_VALUE,
    RC_VALUE_OF_HANDLE,
    Reader,
    RefusedError,
    sized,
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
START_AUTH_SESSION, FLUSH_CONTEXT, READ_PUBLIC = 0x176, 0x165, 0x173
CREATE_PRIMARY, EVICT_CONTROL = 0x131, 0x120

_OWNER = 0x40000001
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_MODULE_ID = re.compile(r"i-[0-9a-f]{1,17}-tpm[0-9a-f]{1,16}")
_RENEW_BEFORE = timedelta(minutes=5)
_MEASURED = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11)
_HANDLES = {
    NV_DEFINE_SPACE: 1, NV_UNDEFINE_SPACE: 2, NV_WRITE: 2, NV_READ: 2, NSM_REQUEST: 2,
    PCR_EXTEND: 1, PCR_RESET: 1, CREATE_PRIMARY: 1, EVICT_CONTROL: 2,
}  # fmt: skip
"""Handles of the commands whose first handle needs authorization."""

_PLAIN = {
    GET_CAPABILITY: 0, NV_READ_PUBLIC: 1, STARTUP: 0, SELF_TEST: 0, GET_RANDOM: 0, PCR_READ: 0,
    READ_PUBLIC: 1, FLUSH_CONTEXT: 0, START_AUTH_SESSION: 2,
}  # fmt: skip
_NUMBERS = {STARTUP: 2, SELF_TEST: 1, GET_RANDOM: 2, FLUSH_CONTEXT: 4}
"""Bytes of the one parameter of some commands."""

_ALL = {**_PLAIN, **_HANDLES}
_ALL_BUT_THE_VENDORS = {code: count for code, count in _ALL.items() if code != NSM_REQUEST}


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
    nv: dict[int, NvIndex] = field(default_factory=dict, repr=False)
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
        self._nv = NvMemory(self.nv, self.nv_space, self.buffer_size)
        self._keys = Keys()
        self._sessions = Sessions(self._keys.decrypt_salt)
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
            return self._carry_out(command)
        except RefusedError as refused:
            return struct.pack(">HII", _NO_SESSIONS, 10, refused.args[0])

    def _carry_out(self, command: bytes) -> bytes:
        if len(command) < 10:
            raise RefusedError(RC_COMMAND_SIZE)
        tag, size, code = struct.unpack_from(">HII", command)
        body = command[10:]
        if tag not in (_NO_SESSIONS, _SESSIONS):
            raise RefusedError(RC_BAD_TAG)
        if size != len(command):
            raise RefusedError(RC_COMMAND_SIZE)
        if code not in _ALL or (code == NSM_REQUEST and not self.has_vendor_command):
            raise RefusedError(RC_COMMAND_CODE)
        if tag != _SESSIONS and code in _HANDLES:
            raise RefusedError(RC_AUTH_MISSING)
        if len(body) < 4 * _ALL[code]:
            raise RefusedError(RC_INSUFFICIENT | (len(body) // 4 + 1) << 8)
        given = struct.unpack_from(f">{_ALL[code]}I", body)
        names = b"".join(self._name(code, handle, number) for number, handle in enumerate(given, 1))
        parameters, used = body[4 * len(given) :], list[Used]()
        if tag == _SESSIONS:
            used, parameters = self._sessions.read(parameters)
            self._sessions.check(
                used,
                self._auth(code, given[0]) if code in _HANDLES else None,
                struct.pack(">I", code) + names + parameters,
                owner=bool(given) and given[0] == _OWNER,
            )
            parameters = self._sessions.decrypted(used, parameters)
        handle, response = self._run(code, given, parameters)
        if tag == _SESSIONS:
            response = self._sessions.finish(used, code, response)
        response = handle + response
        return struct.pack(">HII", tag, 10 + len(response), 0) + response

    def _run(self, code: int, given: tuple[int, ...], parameters: bytes) -> tuple[bytes, bytes]:
        """Return the handle in the response, if there is one, and the response's parameters."""
        if code == START_AUTH_SESSION:
            handle, response = self._sessions.start(struct.pack(">II", *given) + parameters)
            return struct.pack(">I", handle), response
        if code == CREATE_PRIMARY:
            handle, response = self._keys.create_primary(parameters)
            return struct.pack(">I", handle), response
        if code in _PLAIN:
            return b"", self._without_authorization(code, given, parameters)
        if code in (PCR_EXTEND, PCR_RESET):
            reader = Reader(parameters)
            self._registers.change(code == PCR_RESET, given[0], reader)
        elif code == NV_DEFINE_SPACE:
            self._nv.define(parameters)
        elif code == EVICT_CONTROL:
            reader = Reader(parameters)
            persistent = reader.integer(4)
            reader.end()
            self._keys.evict(given[1], persistent)
        elif code == NV_UNDEFINE_SPACE:
            Reader(parameters).end()
            self._nv.get(given[1], 2)  # a key, or a hierarchy, is no index
            del self.nv[given[1]]
        elif given[0] != given[1]:  # our indexes are read and written by their own password only
            raise RefusedError(RC_NV_AUTHORIZATION)
        elif code == NV_WRITE:
            self._nv.write(self._nv.get(given[1]), parameters)
        elif code == NV_READ:
            return b"", self._nv.read(self._nv.get(given[1]), parameters)
        else:
            Reader(parameters).end()
            self._nsm_request(self._nv.get(given[1]))
        return b"", b""

    def _auth(self, code: int, handle: int) -> bytes:
        """Return the authorization value of a command's first handle."""
        if handle == _OWNER:
            return self.owner_password
        return b"" if code in (PCR_EXTEND, PCR_RESET, CREATE_PRIMARY) else self._nv.get(handle).auth

    def _name(self, code: int, handle: int, number: int) -> bytes:
        """Return the name of an entity; it must be there."""
        if code in (PCR_EXTEND, PCR_RESET) and handle not in self.pcrs:
            raise RefusedError(RC_VALUE_OF_HANDLE)
        kind = handle >> 24
        if kind in (0x80, 0x81):
            return self._keys.get(handle, number).name
        if kind == 0x01 or (kind != 0x40 and code not in (PCR_EXTEND, PCR_RESET)):
            return self._nv.name(handle, number)
        return struct.pack(">I", handle)

    def _without_authorization(self, code: int, given: tuple[int, ...], body: bytes) -> bytes:
        reader = Reader(body)
        if code == GET_CAPABILITY:
            return self._get_capability(reader)
        if code == PCR_READ:
            return self._registers.read(reader)
        size = _NUMBERS.get(code, 0)
        number = reader.integer(size) if size else 0
        reader.end()
        if code == STARTUP:
            raise RefusedError(RC_INITIALIZE)  # the firmware has done it
        if code == SELF_TEST:
            return b""
        if code == GET_RANDOM:
            return sized(os.urandom(min(number, PCR_SIZE)))
        if code == READ_PUBLIC:
            return self._keys.read_public(given[0])
        if code == FLUSH_CONTEXT:
            self._flush(number)
            return b""
        return self._nv.read_public(given[0])

    def _flush(self, handle: int) -> None:
        for known in (self._sessions.known, self._keys.loaded):
            if handle in known and handle >> 24 != 0x81:
                del known[handle]
                return
        raise RefusedError(RC_VALUE)

    def _get_capability(self, reader: Reader) -> bytes:
        found = tpm_capabilities.get_capability(
            reader,
            values=tpm_capabilities.properties(
                self.manufacturer, self.name, self.buffer_size, LARGEST
            ),
            handles=[*self.nv, *self._sessions.known, *self._keys.loaded],
            commands=_ALL if self.has_vendor_command else _ALL_BUT_THE_VENDORS,
        )
        if found is None:
            raise RefusedError(RC_VALUE)
        return found

    def _nsm_request(self, index: NvIndex) -> None:
        if index.data is None:
            raise RefusedError(RC_NV_UNINITIALIZED)
        response = cbor2.dumps(self._nsm(bytes(index.data)))
        index.data[:] = response.ljust(index.size, b"\xff")

    def _nsm(self, data: bytes) -> dict[str, Any]:
        try:
            request = cbor2.loads(
                data, max_depth=16
            )  # the first item; what follows it is of no meaning
        except cbor2.CBORError:
            return {"Error": "InvalidArgument"}
        match request:
            case {"Attestation": dict(arguments)}:
                pass
            case _:
                return {"Error": "InvalidOperation"}
        fields = {}
        for name in ("public_key", "user_data", "nonce"):
            value = arguments.get(name)
            if isinstance(value, str):  # as the simulated NSM takes it
                value = value.encode()
            if not (value is None or isinstance(value, bytes)):
                return {"Error": "InvalidOperation"}
            fields[name] = value
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
