"""The in-enclave agent: attested AWS KMS for programs inside AWS Nitro Enclaves.

from enclave import Agent

with Agent(region="eu-central-1") as agent:
    seed = agent.generate_random(32)
"""

from enclave.agent import Agent
from enclave.credentials import Credentials
from enclave.errors import AgentError

__all__ = ["Agent", "AgentError", "Credentials"]
