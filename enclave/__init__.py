"""The in-enclave agent: attested AWS KMS for programs inside AWS Nitro Enclaves.

from enclave import Agent

with Agent(region="eu-central-1") as agent:
    seed = agent.generate_random(32)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enclave.agent import Agent
    from enclave.boto import attach
    from enclave.credentials import Credentials
    from enclave.errors import AgentError
    from enclave.results import DataKeyPairResult, DataKeyResult, DecryptResult, SharedSecretResult

__all__ = [
    "Agent",
    "AgentError",
    "Credentials",
    "DataKeyPairResult",
    "DataKeyResult",
    "DecryptResult",
    "SharedSecretResult",
    "attach",
]

_HOMES = {
    "Agent": "enclave.agent",
    "AgentError": "enclave.errors",
    "Credentials": "enclave.credentials",
    "DataKeyPairResult": "enclave.results",
    "DataKeyResult": "enclave.results",
    "DecryptResult": "enclave.results",
    "SharedSecretResult": "enclave.results",
    "attach": "enclave.boto",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use (PEP 562): who wants only `enclave.nsm` need not wait for TLS and RSA.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
