"""Seed the kernel's entropy pool through the C SDK, for the boot duties."""

from __future__ import annotations

from enclave.errors import NsmUnavailableError
from enclave.sdk.bindings.attestation import Attestation
from enclave.sdk.bindings.native import load
from enclave.sdk.errors import SdkCallError


def seed_entropy(number_of_bytes: int) -> None:
    """Mix 1..65536 bytes from the NSM into the kernel's entropy pool, and credit all their bits.

    `aws_nitro_enclaves_library_seed_entropy`; needs CAP_SYS_ADMIN. It waits for the NSM, whose
    driver gives up after 120 s for each 256 bytes.

    Raises:
        SdkNotBuiltError: there is no C library.
        ConfigurationError: the number is out of range.
        NsmUnavailableError: no NSM, or no permission; the SDK does not say which.
    """
    try:
        Attestation(load()).seed_entropy(number_of_bytes)
    except SdkCallError as e:
        raise NsmUnavailableError(
            "the C SDK did not seed the entropy pool",
            hint="it gives no reason; it needs /dev/nsm and CAP_SYS_ADMIN",
        ) from e
