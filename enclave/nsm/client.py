"""`Nsm`: the seven requests to an NSM, as methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave.attestation.document import parse
from enclave.errors import DecodingError, NsmResponseError
from enclave.nsm import messages
from enclave.nsm.messages import (
    Attestation,
    AttestationResponse,
    DescribeNSM,
    DescribeNSMResponse,
    DescribePCR,
    DescribePCRResponse,
    ExtendPCR,
    ExtendPCRResponse,
    GetRandom,
    GetRandomResponse,
    LockPCR,
    LockPCRResponse,
    LockPCRs,
    LockPCRsResponse,
)
from enclave.nsm.returned import mismatch

if TYPE_CHECKING:
    from enclave.nsm.device import NsmDevice


class Nsm:
    """The NSM behind a device, which the caller opens and closes.

    Every method raises `ConfigurationError` for an invalid argument, before anything is sent, or
    `NsmUnavailableError`, `NsmRefusedError` or `NsmResponseError`.
    """

    def __init__(self, device: NsmDevice) -> None:
        self._device = device

    def describe(self) -> DescribeNSMResponse:
        """Return which NSM this is, and which PCRs are locked."""
        return self._request(DescribeNSM(), DescribeNSMResponse)

    def describe_pcr(self, index: int) -> DescribePCRResponse:
        """Read a PCR, 0..31: its 48 bytes, and whether it is locked."""
        return self._request(DescribePCR(index), DescribePCRResponse)

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """Set a PCR, 16..31, to SHA-384(old value || `data`); return its new 48 bytes.

        Raises:
            NsmRefusedError: ``ReadOnlyIndex``, the PCR is locked.
        """
        return self._request(ExtendPCR(index, data), ExtendPCRResponse).data

    def lock_pcr(self, index: int) -> None:
        """Lock a PCR, 16..31, until the enclave ends. Documents list locked PCRs only.

        Raises:
            NsmRefusedError: ``ReadOnlyIndex``, it is locked already.
        """
        self._request(LockPCR(index), LockPCRResponse)

    def lock_pcrs(self, range: int) -> None:
        """Lock PCRs 0 up to `range` - 1 (0..32) until the enclave ends. May be repeated."""
        self._request(LockPCRs(range), LockPCRsResponse)

    def get_random(self) -> bytes:
        """Return 1 to 256 random bytes, as many as the NSM gives at once: 256 on known ones."""
        return self._request(GetRandom(), GetRandomResponse).random

    def attest(
        self,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Have an attestation document signed that holds these, each at most 1024 bytes.

        Returns:
            The document, about 5 KB. It parses (`enclave.attestation.parse`) and holds what was
            requested; whether it proves anything is for its reader to verify.
        """
        request = Attestation(user_data=user_data, nonce=nonce, public_key=public_key)
        raw = self._request(request, AttestationResponse).document
        try:
            document = parse(raw)
        except DecodingError as e:
            raise NsmResponseError(f"the NSM's response to Attestation: {e}") from e
        # After a timeout the driver may give the late response to the next request, of any program.
        if wrong := mismatch(document, request, platform="enclave"):
            raise NsmResponseError(f"the NSM's document {wrong}")
        return raw

    def _request(self, request: messages.Request, expected: type[messages.R]) -> messages.R:
        return messages.decode(self._device.exchange(messages.encode(request)), expected)
