"""Commands to a NitroTPM and its responses, as bytes. No I/O.

Layouts: TCG TPM 2.0 Library, Part 3 (Commands), each under the name of the command; structures and
constants: Part 2. The vendor command, and how it uses an NV index: aws/NitroTPM-Tools,
``nitro-tpm-attest`` (``raw/tpm/mod.rs``, ``tss/message_buffer.rs``).

All numbers are big-endian. A command is ``tag, size, code``, then its handles, then with sessions
the authorization area, then parameters; a response is ``tag, size, response code``, then with
sessions the size of the parameters, the parameters, and an authorization area.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from enclave.errors import NotNitroTpmError, TpmRefusedError, TpmResponseError
from enclave.nitrotpm import codes

MAX_MESSAGE = 4096
"""Bytes in a command or response (Linux, drivers/char/tpm/tpm.h, ``TPM_BUFSIZE``)."""

NV_SIZE = 8192
"""Bytes of the NV index for request and response (NitroTPM-Tools, ``message_buffer.rs``)."""

AUTH_SIZE = 64
"""Bytes of the NV index's authorization value: at most a digest of its name algorithm."""

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
"""Part 2, TPM_ST."""

VERSION_1_2 = 0x00C4
"""Part 2, TPM_ST_RSP_COMMAND: the tag of an error response of a TPM 1.2."""

CAPABILITY_PROPERTIES = 6
"""Part 2, TPM_CAP_TPM_PROPERTIES."""

MANUFACTURER, VENDOR_STRINGS, NV_BUFFER_MAX = 0x105, range(0x106, 0x10A), 0x12C
"""Part 2, TPM_PT: who made the TPM, the four words of its name, and how much of an NV index one
command may read or write."""

NITROTPM_MANUFACTURER = int.from_bytes(b"AMZN", "big")
"""Of a NitroTPM, whose vendor strings are ``NitroTPMv1.0`` (smallstep/crypto, pull request 292)."""

_OWNER = 0x40000001  # Part 2, TPM_RH_OWNER
_PASSWORD = 0x40000009  # Part 2, TPM_RS_PW
_SHA512 = 0x000D  # Part 2, TPM_ALG_SHA512
_AUTHWRITE_AUTHREAD = 1 << 2 | 1 << 18  # Part 2, TPMA_NV: both by the index's own value
_WRITTEN = 1 << 29  # Part 2, TPMA_NV_WRITTEN: set by the TPM

_HEADER = struct.Struct(">HII")


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a TPM.

    Attributes:
        name: as the specification has it.
        code: TPM_CC.
        body: what follows the header. It may hold an authorization value: it is not in the repr.
        has_sessions: whether there is an authorization area, here and in the response.
    """

    name: str
    code: int
    body: bytes = field(repr=False)
    has_sessions: bool

    def encode(self) -> bytes:
        """Return the bytes of the command."""
        tag = SESSIONS if self.has_sessions else NO_SESSIONS
        return _HEADER.pack(tag, _HEADER.size + len(self.body), self.code) + self.body

    def decode(self, response: bytes) -> bytes:
        """Return the parameters of the response to this command.

        Raises:
            TpmRefusedError: it is an error code of the TPM's.
            TpmResponseError: it is malformed.
            NotNitroTpmError: it is a TPM 1.2's.
        """
        if not _HEADER.size <= len(response) <= MAX_MESSAGE:
            raise self._malformed(f"{len(response)} bytes, not {_HEADER.size}..{MAX_MESSAGE}")
        tag, size, code = _HEADER.unpack_from(response)
        if tag == VERSION_1_2:
            raise NotNitroTpmError("the TPM is of version 1.2, and a NitroTPM of 2.0")
        if size != len(response):
            raise self._malformed(f"{len(response)} bytes, and it says {size}")
        if code:
            if tag != NO_SESSIONS or size != _HEADER.size:
                raise self._malformed("an error code with more than a header")
            raise TpmRefusedError(self.name, codes.name(code), code=code, hint=codes.hint(code))
        if tag != (SESSIONS if self.has_sessions else NO_SESSIONS):
            raise self._malformed(f"its tag is 0x{tag:04x}")
        parameters = response[_HEADER.size :]
        if not self.has_sessions:
            return parameters
        if len(parameters) < 4:
            raise self._malformed("cut short")
        (length,) = struct.unpack_from(">I", parameters)
        # The authorization area of a password: an empty nonce, attributes, an empty HMAC.
        area = parameters[4 + length :]
        if len(area) != 5 or area[:2] != bytes(2) or area[3:] != bytes(2):
            raise self._malformed("its parameters have another size than it says")
        return parameters[4 : 4 + length]

    def _malformed(self, reason: str) -> TpmResponseError:
        return TpmResponseError(f"the TPM's response to {self.name} is malformed: {reason}")


@dataclass(frozen=True, slots=True)
class NvPublic:
    """The public area of an NV index (Part 2, TPMS_NV_PUBLIC)."""

    index: int
    name_algorithm: int
    attributes: int
    policy: bytes
    size: int

    def encode(self) -> bytes:
        """Return the structure as a TPM2B_NV_PUBLIC."""
        area = struct.pack(">IHI", self.index, self.name_algorithm, self.attributes)
        return _sized(area + _sized(self.policy) + struct.pack(">H", self.size))

    @property
    def is_a_message_buffer(self) -> bool:
        """Whether it is defined as this program defines one, written to or not."""
        return self == message_buffer(self.index, written=bool(self.attributes & _WRITTEN))


def message_buffer(index: int, *, written: bool = False) -> NvPublic:
    """Return the public area of the NV index that carries an NSM request and its response."""
    attributes = _AUTHWRITE_AUTHREAD | (_WRITTEN if written else 0)
    return NvPublic(index, _SHA512, attributes, b"", NV_SIZE)


def get_capability(first: int, count: int) -> Command:
    """Part 3, TPM2_GetCapability: ask for the fixed properties from `first` on."""
    body = struct.pack(">III", CAPABILITY_PROPERTIES, first, count)
    return Command("TPM2_GetCapability", 0x17A, body, has_sessions=False)


def read_properties(command: Command, response: bytes) -> dict[int, int]:
    """Return the properties in the response: those from the first one on that the TPM has."""
    parameters = command.decode(response)
    if len(parameters) < 9 or struct.unpack_from(">I", parameters, 1)[0] != CAPABILITY_PROPERTIES:
        raise TpmResponseError("the TPM's response to TPM2_GetCapability has no properties")
    (count,) = struct.unpack_from(">I", parameters, 5)
    if len(parameters) != 9 + 8 * count:
        raise TpmResponseError("the TPM's response to TPM2_GetCapability is cut short")
    return dict(struct.iter_unpack(">II", parameters[9:]))


def nv_define_space(public: NvPublic, auth: bytes) -> Command:
    """Part 3, TPM2_NV_DefineSpace: define an index of the owner's, whose password is empty."""
    body = struct.pack(">I", _OWNER) + _authorization(b"") + _sized(auth) + public.encode()
    return Command("TPM2_NV_DefineSpace", 0x12A, body, has_sessions=True)


def nv_undefine_space(index: int) -> Command:
    """Part 3, TPM2_NV_UndefineSpace."""
    body = struct.pack(">II", _OWNER, index) + _authorization(b"")
    return Command("TPM2_NV_UndefineSpace", 0x122, body, has_sessions=True)


def nv_read_public(index: int) -> Command:
    """Part 3, TPM2_NV_ReadPublic."""
    return Command("TPM2_NV_ReadPublic", 0x169, struct.pack(">I", index), has_sessions=False)


def read_nv_public(command: Command, response: bytes) -> NvPublic:
    """Return the public area in the response to `nv_read_public`."""
    area, _ = _take(command.decode(response), command)
    if len(area) < 14:
        raise TpmResponseError(f"the TPM's response to {command.name} is cut short")
    index, algorithm, attributes = struct.unpack_from(">IHI", area)
    policy, rest = _take(area[10:], command)
    if len(rest) != 2:
        raise TpmResponseError(f"the TPM's response to {command.name} has a wrong size")
    return NvPublic(index, algorithm, attributes, policy, int.from_bytes(rest, "big"))


def nv_write(index: int, auth: bytes, data: bytes, offset: int) -> Command:
    """Part 3, TPM2_NV_Write, by the index's own authorization value."""
    body = _by_its_own(index, auth) + _sized(data) + struct.pack(">H", offset)
    return Command("TPM2_NV_Write", 0x137, body, has_sessions=True)


def nv_read(index: int, auth: bytes, size: int, offset: int) -> Command:
    """Part 3, TPM2_NV_Read, by the index's own authorization value."""
    body = _by_its_own(index, auth) + struct.pack(">HH", size, offset)
    return Command("TPM2_NV_Read", 0x14E, body, has_sessions=True)


def read_nv_data(command: Command, response: bytes, size: int) -> bytes:
    """Return the `size` bytes in the response to `nv_read`."""
    data, rest = _take(command.decode(response), command)
    if len(data) != size or rest:
        raise TpmResponseError(f"the TPM's response to {command.name} is not of {size} bytes")
    return data


def nsm_request(index: int, auth: bytes) -> Command:
    """AWS's vendor command: the NSM request in the index is replaced by its response."""
    return Command("TPM2_VENDOR_AWS_NSM_REQUEST", 0x20000001, _by_its_own(index, auth),
                   has_sessions=True)  # fmt: skip


def _by_its_own(index: int, auth: bytes) -> bytes:
    """Return authHandle and nvIndex, both the index, and its authorization value."""
    return struct.pack(">II", index, index) + _authorization(auth)


def _authorization(password: bytes) -> bytes:
    """Return an authorization area of one password session (Part 1, "Password Authorizations")."""
    area = struct.pack(">IHB", _PASSWORD, 0, 0) + _sized(password)
    return struct.pack(">I", len(area)) + area


def _sized(data: bytes) -> bytes:
    """Return a TPM2B structure."""
    return struct.pack(">H", len(data)) + data


def _take(data: bytes, command: Command) -> tuple[bytes, bytes]:
    """Return the content of the TPM2B structure at the start, and what follows it."""
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size:
        raise TpmResponseError(f"the TPM's response to {command.name} is cut short")
    return data[2 : 2 + size], data[2 + size :]
