"""Errors of the command line with the exit codes that the AWS CLI has for the same.

AWS CLI User Guide, "Command line return codes": 252 for a command line that cannot be parsed, 253
for a missing setting, 254 for what the service refuses, 255 for everything else, values that can
be parsed but not used among them.
"""

from __future__ import annotations

from enclave.errors import AgentError, ConfigurationError, CredentialsError, KmsRefusedError

EXIT_USAGE, EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_OTHER = 252, 253, 254, 255


class BadValueError(ConfigurationError):
    """A value that cannot be used: a text for a number, an unknown profile, a missing CA file."""


class MissingSettingError(ConfigurationError):
    """A setting without which no call can be made: the region."""


class KmsRuleError(ConfigurationError):
    """Parameters that KMS would refuse. They are checked here, before a key pair is attested."""


def exit_code(error: AgentError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, KmsRefusedError | KmsRuleError):
        return EXIT_REFUSED
    if isinstance(error, CredentialsError | MissingSettingError):
        return EXIT_CONFIGURATION
    if isinstance(error, ConfigurationError) and not isinstance(error, BadValueError):
        return EXIT_USAGE
    return EXIT_OTHER
