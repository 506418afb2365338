"""Every error of the family: its hint is shown in tracebacks, and it survives a process pool."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import enclave
from vsock_proxy.errors import AgentError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS: dict[str, Callable[[], AgentError]] = {
    "AgentError": lambda: AgentError("it failed", hint="do this"),
    "AttesterError": lambda: enclave.AttesterError("it failed", hint="do this"),
    "AttestationError": lambda: enclave.AttestationError(("PCR0", "root"), hint="do this"),
    "AttestedTlsError": lambda: enclave.AttestedTlsError("it failed", hint="do this"),
    "ConfigurationError": lambda: ConfigurationError("it failed", hint="do this"),
    "CredentialsError": lambda: enclave.CredentialsError("expired", hint="do this", transient=True),
    "DecodingError": lambda: enclave.DecodingError("CMS", "cut", offset=3, hint="do this"),
    "DecryptionError": enclave.DecryptionError,
    "DialError": lambda: enclave.DialError("vsock://3:8000", "refused", hint="do this"),
    "KmsError": lambda: enclave.KmsError("it failed", hint="do this"),
    "KmsRefusedError": lambda: enclave.KmsRefusedError(
        "AccessDeniedException", "no", request_id="r-1", status=400, hint="do this"
    ),
    "KmsResponseError": lambda: enclave.KmsResponseError("it failed", hint="do this"),
    "KmsUnreachableError": lambda: enclave.KmsUnreachableError(
        "it failed", hint="do this", transient=False
    ),
    "ListenError": lambda: enclave.ListenError("vsock://3:8000", "in use", hint="do this"),
    "NotNitroTpmError": lambda: enclave.NotNitroTpmError("it failed", hint="do this"),
    "TpmBusyError": lambda: enclave.TpmBusyError("it failed", hint="do this"),
    "TpmError": lambda: enclave.TpmError("it failed", hint="do this"),
    "TpmRefusedError": lambda: enclave.TpmRefusedError(
        "TPM2_NV_Read", "TPM_RC_NV_RANGE", code=0x146, hint="do this"
    ),
    "TpmResponseError": lambda: enclave.TpmResponseError("it failed", hint="do this"),
    "TpmTimeoutError": lambda: enclave.TpmTimeoutError("it failed", hint="do this"),
    "TpmUnavailableError": lambda: enclave.TpmUnavailableError("it failed", hint="do this"),
    "NsmError": lambda: enclave.NsmError("it failed", hint="do this"),
    "NsmRefusedError": lambda: enclave.NsmRefusedError("GetRandom", "InvalidIndex", hint="do this"),
    "NsmResponseError": lambda: enclave.NsmResponseError("it failed", hint="do this"),
    "NsmUnavailableError": lambda: enclave.NsmUnavailableError("it failed", hint="do this"),
}


def test_every_public_error_is_here() -> None:
    public = {name for name in enclave.__all__ if name.endswith("Error")}
    assert public == set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_the_hint_stands_in_the_traceback_and_not_in_the_message(name: str) -> None:
    error = ERRORS[name]()
    assert error.hint
    assert error.hint not in str(error)
    assert "\n" not in str(error)
    assert f"hint: {error.hint}" in "".join(traceback.format_exception(error))


def test_a_hint_that_changes_is_shown_once() -> None:
    error = AgentError("it failed", hint="do this")
    error.add_note("a note of the caller")
    error.hint = "do that"
    assert error.__notes__ == ["a note of the caller", "hint: do that"]
    error.hint = ""
    assert error.__notes__ == ["a note of the caller"]


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])  # noqa: S301
def test_an_error_keeps_everything_on_its_way_between_processes(
    name: str, way: Callable[[AgentError], AgentError]
) -> None:
    error = ERRORS[name]()
    copied: Any = way(error)
    assert type(copied) is type(error)
    assert (str(copied), vars(copied)) == (str(error), vars(error))
