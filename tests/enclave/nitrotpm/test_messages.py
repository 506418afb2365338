"""Commands to a TPM and its responses: what is sent, and what is not taken."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import AgentError, NotNitroTpmError, TpmRefusedError, TpmResponseError
from enclave.nitrotpm import codes, messages

INDEX = 0x01804E54
PLAIN = messages.get_capability(messages.MANUFACTURER, 5)
WITH_SESSIONS = messages.nv_read(INDEX, b"auth", 16, 0)


def response(
    parameters: bytes, *, tag: int = 0x8001, code: int = 0, size: int | None = None
) -> bytes:
    size = 10 + len(parameters) if size is None else size
    return struct.pack(">HII", tag, size, code) + parameters


def with_sessions(parameters: bytes) -> bytes:
    return response(struct.pack(">I", len(parameters)) + parameters + bytes(5), tag=0x8002)


def test_the_vendor_command_byte_for_byte() -> None:
    """Tag, size, code; the index as both handles; one password session."""
    assert messages.nsm_request(INDEX, b"\xaa" * 2).encode() == bytes.fromhex(
        "8002 00000021 20000001  01804e54 01804e54  0000000b 40000009 0000 00 0002 aaaa"
    )


def test_defining_the_index_byte_for_byte() -> None:
    """As aws/NitroTPM-Tools defines it: AUTHREAD and AUTHWRITE, SHA-512, 8192 bytes."""
    command = messages.nv_define_space(messages.message_buffer(INDEX), b"\xaa" * 2)
    assert command.encode() == bytes.fromhex(
        "8002 0000002f 0000012a  40000001  00000009 40000009 0000 00 0000"
        "0002 aaaa  000e 01804e54 000d 00040004 0000 2000"
    )


@pytest.mark.parametrize(
    "command",
    [
        messages.nv_define_space(messages.message_buffer(INDEX), b"the authorization"),
        messages.nv_write(INDEX, b"the authorization", b"the data", 0),
        messages.nsm_request(INDEX, b"the authorization"),
    ],
)
def test_no_authorization_value_in_a_repr(command: messages.Command) -> None:
    assert b"the authorization" in command.encode()
    assert "the auth" not in repr(command)


def test_parameters_of_both_kinds_of_responses() -> None:
    assert PLAIN.decode(response(b"parameters")) == b"parameters"
    assert WITH_SESSIONS.decode(with_sessions(b"parameters")) == b"parameters"


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (PLAIN, b""),
        (PLAIN, response(b"")[:9]),
        (PLAIN, response(b"", size=11)),
        (PLAIN, response(b"x", size=10)),
        (PLAIN, response(bytes(4087))),
        (PLAIN, response(b"", tag=0x8002)),
        (PLAIN, response(b"", tag=0)),
        (PLAIN, response(b"more", code=0x101)),
        (WITH_SESSIONS, response(b"")),
        (WITH_SESSIONS, response(b"", tag=0x8002)),
        (WITH_SESSIONS, response(bytes(4), tag=0x8002)),
        (WITH_SESSIONS, response(struct.pack(">I", 0xFFFFFFFF) + bytes(5), tag=0x8002)),
        (WITH_SESSIONS, with_sessions(b"parameters") + b"x"),
        (WITH_SESSIONS, with_sessions(b"parameters")[:-1] + b"x"),
    ],
)
def test_malformed_responses(command: messages.Command, given: bytes) -> None:
    with pytest.raises(TpmResponseError, match=command.name):
        command.decode(given)


def test_a_tpm_of_the_last_version() -> None:
    with pytest.raises(NotNitroTpmError, match=r"version 1\.2"):
        PLAIN.decode(response(b"", tag=0x00C4, code=0x1E))


@given(st.binary(max_size=200))
def test_whatever_the_parameters_only_named_errors_leave(parameters: bytes) -> None:
    public = messages.nv_read_public(INDEX)
    for read in (
        lambda: messages.read_properties(PLAIN, response(parameters)),
        lambda: messages.read_nv_public(public, response(parameters)),
        lambda: messages.read_nv_data(WITH_SESSIONS, with_sessions(parameters), 16),
        lambda: PLAIN.decode(parameters),
        lambda: WITH_SESSIONS.decode(parameters),
    ):
        try:
            read()
        except TpmResponseError:
            pass
        except AgentError as e:
            assert isinstance(e, TpmRefusedError | NotNitroTpmError)  # noqa: PT017 (either)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x101, "TPM_RC_FAILURE"),
        (0x143, "TPM_RC_COMMAND_CODE"),
        (0xB0143, "TPM_RC_COMMAND_CODE (from the kernel's resource manager)"),
        (0x50143, "TPM_RC_COMMAND_CODE (from layer 5)"),
        (0x14B, "TPM_RC_NV_SPACE"),
        (0x921, "TPM_RC_LOCKOUT"),
        (0x912, "TPM_RC_REFERENCE_H2"),
        (0x18B, "TPM_RC_HANDLE, handle 1"),
        (0x98E, "TPM_RC_AUTH_FAIL, session 1"),
        (0x9A2, "TPM_RC_BAD_AUTH, session 1"),
        (0x2D5, "TPM_RC_SIZE, parameter 2"),
        (0x095, "TPM_RC_SIZE"),
        (0x17F, "TPM response code 0x17f"),
        (0x0BF, "TPM response code 0xbf"),
        (0xFFF, "TPM response code 0xfff, parameter 15"),
        (0xFFFFFFFF, "TPM response code 0xffff, parameter 15 (from layer 65535)"),
    ],
)
def test_names_of_codes(code: int, name: str) -> None:
    assert codes.name(code) == name
    with pytest.raises(TpmRefusedError) as caught:
        PLAIN.decode(response(b"", code=code))
    assert caught.value.code == code
    assert str(caught.value) == f"the TPM refused TPM2_GetCapability: {name}"
    assert caught.value.hint


@given(st.integers(1, 0xFFFFFFFF))
def test_every_code_has_a_name_and_a_hint(code: int) -> None:
    assert codes.name(code)
    assert codes.hint(code)
    assert codes.base(codes.base(code)) == codes.base(code)


def test_codes_that_mean_the_same_wherever_they_are_about() -> None:
    assert {codes.base(code) for code in (0x18B, 0x28B, 0x08B, 0xB018B)} == {0x08B}
    assert codes.base(0x1D5) == codes.base(0x2D5) == codes.base(0x995)
    assert codes.base(0xB0143) == 0x143
