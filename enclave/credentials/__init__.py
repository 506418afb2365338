"""AWS credentials of the enclave: what KMS requests are signed with.

Given by the program, read from the environment, or fetched from AWS or the parent;
`choose_provider` says precisely which.
"""

from enclave.credentials.aws import AwsCredentials
from enclave.credentials.chain import choose_provider
from enclave.credentials.environment import EnvironmentCredentials
from enclave.credentials.model import Credentials, CredentialsProvider, StaticCredentials
from enclave.credentials.parent import DEFAULT_SERVICE, ParentCredentials

__all__ = [
    "DEFAULT_SERVICE",
    "AwsCredentials",
    "Credentials",
    "CredentialsProvider",
    "EnvironmentCredentials",
    "ParentCredentials",
    "StaticCredentials",
    "choose_provider",
]
