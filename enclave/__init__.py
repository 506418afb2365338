"""The in-enclave agent: attested AWS KMS for programs inside AWS Nitro Enclaves.

    from enclave import Agent

    with Agent(region="eu-central-1") as agent:
        seed = agent.generate_random(32)

`__all__` is the public API, and docs/api.md is its reference. Every other name in this package is
private and may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vsock_proxy.service.platforms import require_linux

if TYPE_CHECKING:
    from enclave.agent import Agent
    from enclave.attestation import AttestationDocument, parse
    from enclave.attestation.verify import verify
    from enclave.attested_tls.clients import (
        httpx_async_transport,
        httpx_transport,
        requests_session,
    )
    from enclave.attested_tls.connecting import connect
    from enclave.attested_tls.context import AttestedContext, AttestedSocket
    from enclave.attester import Attester
    from enclave.boto import attach
    from enclave.credentials import Credentials, CredentialsProvider
    from enclave.errors import (
        AgentError,
        AttestationError,
        AttestedTlsError,
        AttesterError,
        ConfigurationError,
        CredentialsError,
        DecodingError,
        DecryptionError,
        DialError,
        KmsError,
        KmsRefusedError,
        KmsResponseError,
        KmsUnreachableError,
        ListenError,
        NotNitroTpmError,
        NsmError,
        NsmRefusedError,
        NsmResponseError,
        NsmUnavailableError,
        TpmBusyError,
        TpmError,
        TpmRefusedError,
        TpmResponseError,
        TpmTimeoutError,
        TpmUnavailableError,
    )
    from enclave.kms.client import KmsResponse
    from enclave.logs.handler import SinkHandler
    from enclave.network.dialer import EgressDialer
    from enclave.nitrotpm import DevTpm, NitroTpm, TpmDevice
    from enclave.nsm import DevNsm, Nsm, NsmDevice
    from enclave.pool import RandomPool
    from enclave.process import protect_memory
    from enclave.recipient.keypair import KeyPairAhead
    from enclave.recipient.recipient import Recipient
    from enclave.results import DataKeyPairResult, DataKeyResult, DecryptResult, SharedSecretResult

__all__ = [
    "Agent",
    "AgentError",
    "AttestationDocument",
    "AttestationError",
    "AttestedContext",
    "AttestedSocket",
    "AttestedTlsError",
    "Attester",
    "AttesterError",
    "ConfigurationError",
    "Credentials",
    "CredentialsError",
    "CredentialsProvider",
    "DataKeyPairResult",
    "DataKeyResult",
    "DecodingError",
    "DecryptResult",
    "DecryptionError",
    "DevNsm",
    "DevTpm",
    "DialError",
    "EgressDialer",
    "KeyPairAhead",
    "KmsError",
    "KmsRefusedError",
    "KmsResponse",
    "KmsResponseError",
    "KmsUnreachableError",
    "ListenError",
    "NitroTpm",
    "NotNitroTpmError",
    "Nsm",
    "NsmDevice",
    "NsmError",
    "NsmRefusedError",
    "NsmResponseError",
    "NsmUnavailableError",
    "RandomPool",
    "Recipient",
    "SharedSecretResult",
    "SinkHandler",
    "TpmBusyError",
    "TpmDevice",
    "TpmError",
    "TpmRefusedError",
    "TpmResponseError",
    "TpmTimeoutError",
    "TpmUnavailableError",
    "attach",
    "connect",
    "httpx_async_transport",
    "httpx_transport",
    "parse",
    "protect_memory",
    "requests_session",
    "verify",
]

_HOMES = {
    "Agent": "enclave.agent",
    "AttestationDocument": "enclave.attestation",
    "AttestedContext": "enclave.attested_tls.context",
    "AttestedSocket": "enclave.attested_tls.context",
    "connect": "enclave.attested_tls.connecting",
    "httpx_async_transport": "enclave.attested_tls.clients",
    "httpx_transport": "enclave.attested_tls.clients",
    "requests_session": "enclave.attested_tls.clients",
    "Attester": "enclave.attester",
    "DevTpm": "enclave.nitrotpm",
    "NitroTpm": "enclave.nitrotpm",
    "TpmDevice": "enclave.nitrotpm",
    "parse": "enclave.attestation",
    "verify": "enclave.attestation.verify",
    "attach": "enclave.boto",
    "Credentials": "enclave.credentials",
    "CredentialsProvider": "enclave.credentials",
    "AgentError": "enclave.errors",
    "AttestationError": "enclave.errors",
    "AttestedTlsError": "enclave.errors",
    "ConfigurationError": "enclave.errors",
    "CredentialsError": "enclave.errors",
    "DecodingError": "enclave.errors",
    "DecryptionError": "enclave.errors",
    "DialError": "enclave.errors",
    "KmsResponseError": "enclave.errors",
    "KmsError": "enclave.errors",
    "KmsRefusedError": "enclave.errors",
    "KmsUnreachableError": "enclave.errors",
    "ListenError": "enclave.errors",
    "NsmResponseError": "enclave.errors",
    "NsmError": "enclave.errors",
    "NsmRefusedError": "enclave.errors",
    "NsmUnavailableError": "enclave.errors",
    "AttesterError": "enclave.errors",
    "NotNitroTpmError": "enclave.errors",
    "TpmBusyError": "enclave.errors",
    "TpmError": "enclave.errors",
    "TpmRefusedError": "enclave.errors",
    "TpmResponseError": "enclave.errors",
    "TpmTimeoutError": "enclave.errors",
    "TpmUnavailableError": "enclave.errors",
    "KmsResponse": "enclave.kms.client",
    "SinkHandler": "enclave.logs.handler",
    "EgressDialer": "enclave.network.dialer",
    "DevNsm": "enclave.nsm",
    "Nsm": "enclave.nsm",
    "NsmDevice": "enclave.nsm",
    "RandomPool": "enclave.pool",
    "protect_memory": "enclave.process",
    "KeyPairAhead": "enclave.recipient.keypair",
    "Recipient": "enclave.recipient.recipient",
    "DataKeyPairResult": "enclave.results",
    "DataKeyResult": "enclave.results",
    "DecryptResult": "enclave.results",
    "SharedSecretResult": "enclave.results",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use (PEP 562): a program that uses only `Nsm` does not load TLS and RSA.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except (ImportError, AttributeError):
        # The system calls of vsock, fork and the NSM are no part of other systems' Python.
        require_linux(f"{__name__}.{name}")
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
