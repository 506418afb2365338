"""What can vouch for a public key: the NSM of an enclave, or the NitroTPM of an EC2 instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from enclave import forking
from enclave.errors import (
    ConfigurationError,
    NotNitroTpmError,
    NsmUnavailableError,
    TpmUnavailableError,
)
from enclave.nsm import DevNsm, Nsm

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.nitrotpm import NitroTpm

ATTESTERS = ("auto", "nsm", "nitrotpm")


class Attester(Protocol):
    """Gives attestation documents. `Nsm` and `NitroTpm` are the two."""

    def attest(
        self,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return a signed attestation document that holds these, each at most 1024 bytes.

        Raises:
            ConfigurationError: an argument is too long, before anything is sent.
            AttesterError: there is no document.
        """
        ...


@dataclass(frozen=True, slots=True)
class FoundAttester:
    """An attester of this machine.

    Attributes:
        attester: gives the documents.
        device: the NSM that was opened for it, to be closed by the caller; None for a NitroTPM,
            which holds nothing open.
        title: which it is, for a log.
    """

    attester: Attester
    device: DevNsm | None
    title: str


def check_attester(name: str) -> None:
    """Raise ConfigurationError if there is no such attester."""
    if name not in ATTESTERS:
        raise ConfigurationError(
            f"no such attester: {name!r}", hint="there are " + ", ".join(ATTESTERS)
        )


def find_attester(
    name: str,
    *,
    open_nsm: Callable[[], DevNsm] = DevNsm,
    open_tpm: Callable[[], NitroTpm] | None = None,
) -> FoundAttester:
    """Find the attester of this machine.

    With ``auto`` an NSM that is there is used or is an error; a TPM is looked for only if there is
    no NSM, so that a program in an enclave never ends up with an instance's documents.

    Args:
        name: one of `ATTESTERS`.
        open_nsm: opens the NSM, for tests.
        open_tpm: makes the client of the TPM, for tests.

    Raises:
        ConfigurationError: there is no such attester.
        AttesterError: there is none on this machine, or it cannot be used.
    """
    check_attester(name)
    if name == "nitrotpm":
        return _tpm(open_tpm)
    try:
        device = open_nsm()
    except NsmUnavailableError as e:
        if name == "nsm" or not isinstance(e.__cause__, FileNotFoundError):
            raise
        no_nsm = e
    else:
        return FoundAttester(Nsm(device), device, "the NSM")
    try:
        return _tpm(open_tpm)
    except TpmUnavailableError as e:
        cause: object = e.__cause__
        if isinstance(cause, FileNotFoundError):
            raise no_nsm from None  # neither is there: where most programs run, an NSM is missing
        if isinstance(e, NotNitroTpmError) or isinstance(cause, PermissionError):
            # As on a developer's own machine: its TPM is not what is missing.
            raise NsmUnavailableError(f"{no_nsm}; {e}", hint=no_nsm.hint) from e
        raise


def _tpm(open_tpm: Callable[[], NitroTpm] | None) -> FoundAttester:
    if open_tpm is None:
        with forking.importing:
            from enclave.nitrotpm import NitroTpm  # noqa: PLC0415 (not for enclaves)

        open_tpm = NitroTpm
    tpm = open_tpm()
    described = tpm.describe()
    return FoundAttester(tpm, None, f"the NitroTPM at {described.path} ({described.name})")
