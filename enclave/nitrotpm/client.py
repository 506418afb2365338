"""`NitroTpm`: attestation documents of an EC2 instance, from its TPM.

The way of AWS's nitro-tpm-attest: an NV index is defined, the NSM request written into it, the
vendor command has the TPM put the response in its place, the response is read, the index undefined.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from enclave import cbor, forking
from enclave.attestation.document import parse
from enclave.clock import Clock, SystemClock
from enclave.errors import (
    DecodingError,
    NotNitroTpmError,
    NsmRefusedError,
    NsmResponseError,
    TpmBusyError,
    TpmError,
    TpmRefusedError,
    TpmResponseError,
    TpmTimeoutError,
    TpmUnavailableError,
)
from enclave.nitrotpm import codes
from enclave.nitrotpm import messages as tpm
from enclave.nitrotpm.device import DevTpm
from enclave.nsm import messages as nsm
from enclave.nsm.returned import mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave.nitrotpm.device import TpmChannel, TpmDevice
    from enclave.nitrotpm.messages import NvPublic

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds for one document, waiting for other programs included."""

NV_INDEX = 0x01804E54
"""The NV index that carries request and response: always the same one, so that what a crash leaves
behind is found. It lies in the owner's range (TCG, Registry of Reserved TPM 2.0 Handles)."""

LEFT_BEHIND_AFTER = 3.0
"""Seconds after which an index that stays as it is counts as left behind by a crash. The lock on
the device keeps others off it, except programs in containers with nodes of their own: each of these
needs it for a moment, but all of them together may need it for longer."""

_CHUNK = 1024
"""Bytes read or written at once: at most, as the TPM may take less (TPM_PT_NV_BUFFER_MAX)."""

_ATTEMPTS = 3
_PAUSE = 0.05
_REPLACED = frozenset({codes.FORMAT_ONE | 0x0B, codes.FORMAT_ONE | 0x0E, 0x149, 0x14A})
"""TPM_RC_HANDLE, AUTH_FAIL, NV_AUTHORIZATION, NV_UNINITIALIZED: the index is not the one that was
defined a moment ago."""


@dataclass(frozen=True, slots=True)
class TpmDescription:
    """Which TPM this is.

    Attributes:
        path: of the device.
        manufacturer: four letters, ``AMZN`` for a NitroTPM.
        name: the vendor strings, for example ``NitroTPMv1.0``.
        chunk: bytes that one command may read from an NV index, or write to it.
    """

    path: str
    manufacturer: str
    name: str
    chunk: int


class NitroTpm:
    """The NitroTPM behind the first device that works: with the resource manager, or without.

    It holds no descriptor between two documents. Threads may share one.

    Args:
        devices: those to try, in this order. Default: ``/dev/tpmrm0``, then ``/dev/tpm0``.
        clock: time, for tests.
        timeout: seconds for one document.
    """

    def __init__(
        self, *devices: TpmDevice, clock: Clock | None = None, timeout: float = TIMEOUT
    ) -> None:
        self._devices: tuple[TpmDevice, ...] = devices or (DevTpm(), DevTpm(managed=False))
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._alone = threading.Lock()
        forking.register(self)

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: another thread may have been in the middle of an exchange."""
        self._alone = threading.Lock()

    def describe(self) -> TpmDescription:
        """Return which TPM this is.

        Raises:
            NotNitroTpmError: it is not a NitroTPM.
            TpmError: there is none, or it failed.
        """
        return self._on_a_device(lambda _session, description: description)

    def attest(
        self,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Have an attestation document signed that holds these, each at most 1024 bytes.

        Returns:
            The document, about 5 KB. It parses, is an instance's, and holds what was requested;
            whether it proves anything is for its reader to verify.

        Raises:
            ConfigurationError: an argument is too long, before anything is sent.
            NsmRefusedError: the NitroTPM took the command, and refused the request in it.
            TpmError: there is no NitroTPM, or it failed.
        """
        request = nsm.Attestation(user_data=user_data, nonce=nonce, public_key=public_key)
        encoded = nsm.encode(request)
        raw = self._on_a_device(lambda session, description: session.nsm(encoded, description))
        try:
            first = cbor.first_item(raw, format="response")
            document = nsm.decode(first, nsm.AttestationResponse).document
            parsed = parse(document)
        except NsmRefusedError as e:
            hint = "the request reached the NitroTPM, which refused it; a retry may help"
            raise NsmRefusedError(e.request, e.code, hint=hint) from None
        except (DecodingError, NsmResponseError) as e:
            raise TpmResponseError(f"the NitroTPM's response to Attestation: {e}") from e
        if wrong := mismatch(parsed, request, platform="instance"):
            raise TpmResponseError(f"the NitroTPM's document {wrong}")
        return document

    def _on_a_device(self, use: Callable[[_Session, TpmDescription], T]) -> T:
        """Return what `use` does with the first device that is there and knows the command."""
        deadline = self._clock.monotonic() + self._timeout
        if not self._alone.acquire(timeout=self._timeout):
            raise TpmBusyError(f"another thread attested for {self._timeout:g} s")
        try:
            problem: TpmError = TpmUnavailableError("no TPM device to try")
            is_missing = True
            for device in self._devices:
                try:
                    with device.open(timeout=deadline - self._clock.monotonic()) as channel:
                        session = _Session(channel, self._clock, deadline)
                        return use(session, session.describe(device.path))
                except TpmRefusedError as e:
                    # A resource manager rejects what is not in its table; that of older kernels
                    # has no vendor commands (drivers/char/tpm/tpm2-cmd.c, tpm2_find_cc).
                    if codes.base(e.code) != codes.COMMAND_CODE:
                        raise
                    problem, is_missing = e, False
                except (NotNitroTpmError, TpmBusyError, TpmTimeoutError):
                    raise
                except TpmUnavailableError as e:
                    # What is there and cannot be used says more than what is not there.
                    if is_missing or not isinstance(e.__cause__, FileNotFoundError):
                        problem = e
                        is_missing = isinstance(e.__cause__, FileNotFoundError)
            if is_missing:
                names = " nor ".join(device.path for device in self._devices)
                raise TpmUnavailableError(
                    f"there is no TPM: neither {names}", hint=problem.hint
                ) from problem.__cause__
            raise problem
        finally:
            self._alone.release()


class _Session:
    """The commands of one attestation, on an open device, until a deadline."""

    def __init__(self, channel: TpmChannel, clock: Clock, deadline: float) -> None:
        self._channel = channel
        self._clock = clock
        self._deadline = deadline

    def describe(self, path: str) -> TpmDescription:
        """Ask who made the TPM; raise `NotNitroTpmError` if it was not AWS."""
        command = tpm.get_capability(tpm.MANUFACTURER, 5)
        properties = tpm.read_properties(command, self._send(command))
        number = properties.get(tpm.MANUFACTURER, 0)
        manufacturer = _text(number)
        name = "".join(_text(properties.get(each, 0)) for each in tpm.VENDOR_STRINGS)
        if number != tpm.NITROTPM_MANUFACTURER:
            raise NotNitroTpmError(
                f"{path} is not a NitroTPM: its manufacturer is {manufacturer!r}, its name {name!r}"
            )
        command = tpm.get_capability(tpm.NV_BUFFER_MAX, 1)
        most = tpm.read_properties(command, self._send(command)).get(tpm.NV_BUFFER_MAX, 0)
        if most < 1:
            raise TpmResponseError(f"{path} does not say how much of an NV index it reads at once")
        return TpmDescription(path, manufacturer, name, min(most, _CHUNK))

    def nsm(self, request: bytes, description: TpmDescription) -> bytes:
        """Return the NSM's response to a request, and what follows it in the NV index."""
        attempt = 1
        while True:
            try:
                return self._nsm(request, description.chunk)
            except TpmRefusedError as e:
                if codes.base(e.code) not in _REPLACED or attempt == _ATTEMPTS:
                    raise
                log.debug("the NV index was replaced in the middle (%s): retry", e.name)
            attempt += 1
            self._pause()

    def _nsm(self, request: bytes, chunk: int) -> bytes:
        # Only this exchange can use the index. It is a guard against accidents, not a secret.
        auth = secrets.token_bytes(tpm.AUTH_SIZE)
        self._define(auth)
        with self._undefined_afterwards():
            for offset in range(0, len(request), chunk):
                self._run(tpm.nv_write(NV_INDEX, auth, request[offset : offset + chunk], offset))
            self._run(tpm.nsm_request(NV_INDEX, auth))
            response = b""
            while len(response) < tpm.NV_SIZE:
                size = min(chunk, tpm.NV_SIZE - len(response))
                command = tpm.nv_read(NV_INDEX, auth, size, len(response))
                response += tpm.read_nv_data(command, self._send(command), size)
            return response

    def _define(self, auth: bytes) -> None:
        """Define the index; one that a crash left behind is undefined first."""
        seen: NvPublic | None = None
        since = 0.0
        while True:
            try:
                self._run(tpm.nv_define_space(tpm.message_buffer(NV_INDEX), auth))
            except TpmRefusedError as e:
                if codes.base(e.code) != codes.NV_DEFINED:
                    raise
            else:
                return
            there = self._read_public()
            now = self._clock.monotonic()
            # Written to or not: where programs follow each other, it is both again and again.
            if there is None or there != seen:
                seen, since = there, now
            elif now - since >= LEFT_BEHIND_AFTER:
                self._undefine_left_behind(there)
                seen = None
                continue
            self._pause()

    def _read_public(self) -> NvPublic | None:
        """Return what the TPM tells everybody of the index; None if it has gone."""
        command = tpm.nv_read_public(NV_INDEX)
        try:
            return tpm.read_nv_public(command, self._send(command))
        except TpmRefusedError as e:
            if codes.base(e.code) not in _REPLACED:
                raise
            return None

    def _undefine_left_behind(self, public: NvPublic) -> None:
        if not public.is_a_message_buffer:
            raise TpmBusyError(
                f"NV index 0x{NV_INDEX:08x} is another program's: {public.size} bytes, "
                f"attributes 0x{public.attributes:08x}",
                hint=f"tpm2_nvreadpublic 0x{NV_INDEX:08x} shows it; if nothing needs it, "
                f"tpm2_nvundefine 0x{NV_INDEX:08x}",
            )
        try:
            self._run(tpm.nv_undefine_space(NV_INDEX))
        except TpmRefusedError as e:
            if codes.base(e.code) not in _REPLACED:  # it has gone in the meantime
                raise
        else:
            log.info("NV index 0x%08x was left behind by a crash: undefined", NV_INDEX)

    @contextlib.contextmanager
    def _undefined_afterwards(self) -> Iterator[None]:
        try:
            yield
        except TpmUnavailableError:
            raise  # the device is of no use any more; the next attestation cleans up
        except BaseException:
            self._undefine()
            raise
        else:
            self._undefine()

    def _undefine(self) -> None:
        try:
            self._run(tpm.nv_undefine_space(NV_INDEX))
        except TpmError as e:
            log.warning("NV index 0x%08x stays defined, until the next document: %s", NV_INDEX, e)

    def _run(self, command: tpm.Command) -> None:
        command.decode(self._send(command))

    def _send(self, command: tpm.Command) -> bytes:
        """Send a command, repeatedly if the TPM asks for it."""
        while True:
            remaining = self._deadline - self._clock.monotonic()
            if remaining <= 0:
                raise TpmTimeoutError(f"the TPM did not get to {command.name} in time")
            response = self._channel.exchange(command.encode(), timeout=remaining)
            try:
                command.decode(response)
            except TpmRefusedError as e:
                if codes.base(e.code) in codes.RETRY and remaining > _PAUSE:
                    self._pause()
                    continue
            except TpmError:
                pass  # raised where the response is read
            return response

    def _pause(self) -> None:
        self._clock.sleep(_PAUSE)


def _text(word: int) -> str:
    """Return the four letters of a property, harmless to a log or a terminal."""
    letters = word.to_bytes(4, "big").rstrip(b"\0").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in letters)
